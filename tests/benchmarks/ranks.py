"""What a second process brings: steps of a recipe on 2 ranks of one thread against 1 rank of one thread.

    python tests/benchmarks/ranks.py                       # the protein recipe in plain torch
    python tests/benchmarks/ranks.py --set engine.use=deepspeed
    python tests/benchmarks/ranks.py --recipe recipes/protein.toml --steps 40 --ranks 1 2

The runs take turns; both take the same steps, of the same batches. Times are those of rank 0 between the ends of two
steps, the first two left out; processor time is that of the busiest rank. Needs as many idle cores as ranks, and keeps
each process on one of its own. What the machine itself allows is measured beside, unless --alone leaves it out: as many
runs of one rank side by side, which have nothing to say to each other but share caches and memory.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).parents[2]


def work(arguments: argparse.Namespace) -> None:
    """One rank of one run."""
    import torch

    from gentle_core.engine.loop import Trainer
    from gentle_core.engine.progress import Display
    from gentle_core.engine.run import run_recipe
    from gentle_core.recipe import load_recipe

    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):  # elsewhere the system places them
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[arguments.core % len(cores)]})
    sets = [
        f"train.steps={arguments.steps}", "train.log_every=0", "train.evaluate_every=0", "baseline.pairs_only=false",
        "baseline.cca=false", "evaluate.splits=[]", "engine.device=cpu", *arguments.sets,
    ]  # fmt: skip
    times, between = [], Trainer._between_steps

    def stamped(trainer: Trainer, *given: Any) -> None:
        times.append((time.perf_counter(), time.process_time()))
        between(trainer, *given)

    with mock.patch.object(Trainer, "_between_steps", stamped):
        recipe = load_recipe(arguments.recipe, sets)
        run_recipe(recipe, Path(arguments.out), display=Display(quiet=True), report=False)
    (Path(arguments.out) / f"times-{os.environ['RANK']}.json").write_text(json.dumps(times))


def run(ranks: int, arguments: argparse.Namespace, out: Path, apart: int = 1) -> tuple[float, float]:
    """Seconds a step, the first two left out, and processor seconds of the busiest rank; of the first of `apart` such
    runs side by side."""
    started = []
    for number in range(apart):
        folder = out if not number else out.with_name(f"{out.name}-{number}")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [sys.executable, __file__, "--worker", "--out", str(folder), "--recipe", arguments.recipe]
        command += ["--steps", str(arguments.steps), *(word for pair in arguments.sets for word in ("--set", pair))]
        places = {
            "WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        started += [
            subprocess.Popen(
                [*command, "--core", str(number * ranks + r)],
                env=os.environ | places | {"RANK": str(r), "LOCAL_RANK": str(r)}, cwd=ROOT,
            )
            for r in range(ranks)
        ]  # fmt: skip
    if any([process.wait() for process in started]):
        sys.exit("a rank failed")
    times = [json.loads((out / f"times-{rank}.json").read_text()) for rank in range(ranks)]
    wall, used = ([(found[-1][k] - found[1][k]) / (len(found) - 2) for found in times] for k in (0, 1))
    return wall[0], max(used)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default=str(ROOT / "recipes" / "protein.toml"))
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--ranks", type=int, nargs=2, default=[1, 2])
    parser.add_argument("--set", dest="sets", action="append", default=[])
    parser.add_argument("--alone", action="store_true")
    parser.add_argument("--worker", action="store_true")
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--out")
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments)
        return
    few, many = arguments.ranks
    columns = ["as fast", "by processor time", "at best here"]
    print("| round | " + " | ".join(f"{n} ranks, s a step" for n in (few, many)) + " | " + " | ".join(columns) + " |")
    print("|---|" + "---:|" * 5, flush=True)
    ratios: list[tuple[float, float, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(arguments.rounds):
            one, two = (run(ranks, arguments, Path(folder) / f"{number}-{ranks}") for ranks in (few, many))
            best = math.nan
            if not arguments.alone:
                best = many // few * one[0] / run(few, arguments, Path(folder) / f"{number}-apart", many // few)[0]
            ratios.append((one[0] / two[0], one[1] / two[1], best))
            figures = " | ".join(f"{x:.2f}" for x in (one[0], two[0], *ratios[-1]))
            print(f"| {number + 1} | {figures} |", flush=True)
    medians = " | ".join(f"{statistics.median(column):.2f}" for column in zip(*ratios, strict=True))
    print(f"| median | | | {medians} |")


if __name__ == "__main__":
    main()
