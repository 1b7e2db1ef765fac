"""What `gentle plan` foresees of a step's memory against what a step takes.

Each case is run in processes of its own, which take two steps on the CPU: the peak of torch's own allocations on rank 0
during the second one is what was measured, with everything in it that was there before: weights, optimiser, buffers.

    python tests/benchmarks/plan.py                 # both tables: plain torch, and DeepSpeed on 2 ranks
    python tests/benchmarks/plan.py --only zero
    python tests/benchmarks/plan.py --recipe recipes/protein.toml --set engine.use=deepspeed --ranks 2
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from gentle_core.engine.budget import memory
from gentle_core.engine.foresee import foresee, muted, setting_of
from gentle_core.engine.loop import Trainer
from gentle_core.engine.place import Place, find_place
from gentle_core.engine.progress import Display
from gentle_core.engine.ranks import joined
from gentle_core.engine.session import Session
from gentle_core.recipe import load_recipe

PROTEIN = "recipes/protein.toml"
TRAINED = ("towers.sequence.encoder.freeze=false",)
LEAN = ("engine.activation_checkpointing=true",)
FEW = ("train.paired_rows=64", "train.unpaired_rows=32")
PLAIN = [
    (),
    ("train.accumulate=4",),
    FEW,
    ("train.paired_rows=512", "train.unpaired_rows=512", "train.accumulate=16"),
    (*FEW, *TRAINED),
    (*FEW, *TRAINED, *LEAN),
    ("train.paired_rows=192", "train.unpaired_rows=64", "train.accumulate=8", *TRAINED),
    ("train.paired_rows=192", "train.unpaired_rows=64", "train.accumulate=8", *TRAINED, *LEAN),
    ("objective.use=core/clip", "train.paired_rows=128", "train.unpaired_rows=0"),
]
WIDE = ("train.paired_rows=16", "train.unpaired_rows=8", "towers.sequence.head.hidden=16384",
        "towers.structure.head.hidden=16384")  # fmt: skip
"""Weights and optimiser are most of it."""
ZERO = [
    (*more, "engine.use=deepspeed", f"engine.zero_stage={stage}")
    for more in (WIDE, ("train.paired_rows=32", "train.unpaired_rows=16", *TRAINED))
    for stage in range(4)
] + [
    (*WIDE, "engine.use=deepspeed", "engine.zero_stage=1", "train.precision=bfloat16"),
    (*WIDE, "engine.use=deepspeed", "engine.zero_stage=3", "train.precision=bfloat16"),
    ("train.paired_rows=32", "train.unpaired_rows=16", *TRAINED, *LEAN, "engine.use=deepspeed", "engine.zero_stage=2"),
]  # fmt: skip
STEP = "gentle: the step that is measured"


def work(recipe: str, sets: tuple[str, ...], out: Path) -> None:
    """One rank of one case; rank 0 writes what it saw."""
    torch.set_num_threads(1)
    place = find_place(os.environ)
    resolved = load_recipe(recipe, [*sets, "engine.device=cpu", "evaluate.splits=[]", "train.workers=0"])
    if place is None and resolved.recipe.engine.use == "deepspeed":
        place = Place(0, 1, 0, "127.0.0.1", 0)
    with joined(place) as ranks:
        recorded = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
        with muted():
            if ranks.main:
                recorded.start()
            session = Session(resolved, out / "run", "never", Display(quiet=True), ranks)
            session.build()
            trainer = session.trainer()
            for number in range(2):
                trainer.step, trainer.steps = number, number + 1
                with mock.patch.object(Trainer, "_between_steps", lambda *_: None), record_function(STEP):
                    trainer.fit()
            if ranks.main:
                recorded.stop()
        session.run.close()
        if ranks.main:
            events = recorded.profiler.kineto_results.events()
            last = max((e for e in events if e.name() == STEP), key=lambda e: e.start_ns())
            sizes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
            held = zip((when for when, _ in sizes), itertools.accumulate(size for _, size in sizes), strict=True)
            peak = max(now for when, now in held if last.start_ns() <= when <= last.start_ns() + last.duration_ns())
            (out / "peak.json").write_text(json.dumps(peak))


def measured(recipe: str, sets: tuple[str, ...], ranks: int) -> float:
    """Peak bytes of a step on rank 0."""
    with tempfile.TemporaryDirectory() as folder:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            places = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}
        command = [sys.executable, __file__, "--worker", folder, "--recipe", recipe]
        command += [word for pair in sets for word in ("--set", pair)]
        started = [
            subprocess.Popen(command, env=os.environ | places | {"RANK": str(r), "LOCAL_RANK": str(r)})
            for r in range(ranks)
        ]
        if any([process.wait() for process in started]):
            sys.exit(f"a rank failed: {sets}")
        peak: float = json.loads((Path(folder) / "peak.json").read_text())
        return peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default=PROTEIN)
    parser.add_argument("--set", dest="sets", action="append", default=[])
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--only", choices=["plain", "zero"])
    parser.add_argument("--worker", type=Path)
    args = parser.parse_args()
    if args.worker:
        work(args.recipe, tuple(args.sets), args.worker)
        return
    torch.set_num_threads(1)
    cases = [(sets, 1) for sets in PLAIN if args.only != "zero"] + [(sets, 2) for sets in ZERO if args.only != "plain"]
    cases = [(tuple(args.sets), args.ranks)] if args.sets else cases
    print("| settings | ranks | foreseen, MiB | measured, MiB | foreseen / measured |")
    print("|---|---:|---:|---:|---:|")
    for sets, ranks in cases:
        resolved = load_recipe(args.recipe, sets)
        found = foresee(resolved)
        engine = resolved.recipe.engine
        stage = engine.zero_stage if engine.use == "deepspeed" else None
        ahead = memory(found.towers, found.objective, setting_of(resolved.recipe, found, ranks, stage))
        real = measured(args.recipe, sets, ranks)
        print(
            f"| {' '.join(sets)} | {ranks} | {ahead.peak / 2**20:.1f} | {real / 2**20:.1f} | {ahead.peak / real:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
