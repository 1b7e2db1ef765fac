"""What a second process brings: steps of a recipe on 2 ranks of one thread against 1 rank of one thread.

    python tests/benchmarks/ranks.py                       # the protein recipe in plain torch
    python tests/benchmarks/ranks.py --set engine.use=deepspeed
    python tests/benchmarks/ranks.py --recipe recipes/protein.toml --steps 12 --ranks 1 2

The runs take turns; both take the same steps, of the same batches. Times are those of rank 0 between the ends of two
steps, the first two left out. Needs as many idle cores as ranks. What the machine itself allows is measured beside:
as many runs of one rank side by side, which have nothing to say to each other but share caches and memory.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]


def work(arguments: argparse.Namespace) -> None:
    """One rank of one run."""
    import torch

    from gentle_core.engine.progress import Display
    from gentle_core.engine.run import run_recipe
    from gentle_core.recipe import load_recipe

    class Stamps(Display):
        def __init__(self) -> None:
            super().__init__(quiet=True)
            self.times: list[float] = []

        def start(self, name: str, total: int, done: int = 0) -> None:
            self.times = []

        def advance(self, done: int, values: object = None) -> None:
            self.times.append(time.perf_counter())

    torch.set_num_threads(1)
    sets = [
        f"train.steps={arguments.steps}", "train.log_every=0", "train.evaluate_every=0", "baseline.pairs_only=false",
        "baseline.cca=false", "evaluate.splits=[]", "engine.device=cpu", *arguments.sets,
    ]  # fmt: skip
    stamps = Stamps()
    run_recipe(load_recipe(arguments.recipe, sets), Path(arguments.out), display=stamps, report=False)
    if int(os.environ.get("RANK", "0")) == 0:
        (Path(arguments.out) / "times.json").write_text(json.dumps(stamps.times))


def run(ranks: int, arguments: argparse.Namespace, out: Path, apart: int = 1) -> list[float]:
    """Seconds of each step but the first two; of the first of `apart` such runs side by side."""
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
            subprocess.Popen(command, env=os.environ | places | {"RANK": str(r), "LOCAL_RANK": str(r)}, cwd=ROOT)
            for r in range(ranks)
        ]
    if any([process.wait() for process in started]):
        sys.exit("a rank failed")
    times = json.loads((out / "times.json").read_text())
    return [b - a for a, b in itertools.pairwise(times[1:])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default=str(ROOT / "recipes" / "protein.toml"))
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--ranks", type=int, nargs=2, default=[1, 2])
    parser.add_argument("--set", dest="sets", action="append", default=[])
    parser.add_argument("--worker", action="store_true")
    parser.add_argument("--out")
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments)
        return
    few, many = arguments.ranks
    ratios, limits = [], []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(arguments.rounds):
            found = {ranks: run(ranks, arguments, Path(folder) / f"{number}-{ranks}") for ranks in (few, many)}
            beside = run(few, arguments, Path(folder) / f"{number}-apart", apart=many // few)
            totals = {ranks: sum(times) for ranks, times in found.items()}
            ratios.append(totals[few] / totals[many])
            limits.append(many // few * totals[few] / sum(beside))
            steps = len(found[few])
            each = ", ".join(f"{ranks} ranks {total / steps:.2f} s a step" for ranks, total in totals.items())
            runs = many // few
            print(
                f"round {number + 1}, {steps} steps: {each}; {ratios[-1]:.2f} times as fast; side by side, {runs} "
                f"runs of {few} take {sum(beside) / steps:.2f} s a step each, so {limits[-1]:.2f} at best", flush=True,
            )  # fmt: skip
    print(f"median: {many} ranks are {statistics.median(ratios):.2f} times as fast as {few}; the machine allows "
          f"{statistics.median(limits):.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
