"""What `gentle plan` foresees of a step's memory against what a step takes.

A run of each recipe takes two steps on the CPU; the second one's peak of torch's own allocations, with the weights and
the optimiser's state that were there before, is what was measured. Both figures are for one rank.

    python tests/benchmarks/plan.py [--recipe recipes/protein.toml …] [--set KEY=VALUE …]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from unittest import mock

import torch

from gentle_core.engine.budget import Setting, memory
from gentle_core.engine.foresee import foresee, peak_bytes
from gentle_core.engine.loop import Trainer
from gentle_core.engine.progress import Display
from gentle_core.engine.session import Session
from gentle_core.recipe import load_recipe

PROTEIN = "recipes/protein.toml"
TRAINED = ("towers.sequence.encoder.freeze=false",)
CASES = [
    (PROTEIN, ()),
    (PROTEIN, ("train.accumulate=4",)),
    (PROTEIN, ("train.paired_rows=64", "train.unpaired_rows=32")),
    (PROTEIN, ("train.paired_rows=512", "train.unpaired_rows=512", "train.accumulate=16")),
    (PROTEIN, ("train.paired_rows=64", "train.unpaired_rows=32", *TRAINED)),
    (PROTEIN, ("train.paired_rows=192", "train.unpaired_rows=64", "train.accumulate=8", *TRAINED)),
    (PROTEIN, ("objective.use=core/clip", "train.paired_rows=128", "train.unpaired_rows=0")),
]


def measured(recipe: str, sets: tuple[str, ...]) -> float:
    """Peak bytes of a step, static memory included."""
    with tempfile.TemporaryDirectory() as folder:
        session = Session(load_recipe(recipe, sets), Path(folder) / "run", "never", Display(quiet=True))
        session.build()
        trainer = session.trainer()
        static = sum(p.numel() * p.element_size() for m in (session.model, session.loss) for p in m.parameters())

        def step(number: int) -> None:
            trainer.step, trainer.steps = number, number + 1
            with mock.patch.object(Trainer, "_between_steps", lambda *_: None):
                trainer.fit()
            trainer.model.zero_grad(set_to_none=True)

        step(0)
        trained = sum(p.numel() * 4 for p in session.model.parameters() if p.requires_grad)
        peak = peak_bytes(lambda: step(1))
        session.run.close()
    return static + 2 * trained + peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", action="append")
    parser.add_argument("--set", dest="sets", action="append", default=[])
    args = parser.parse_args()
    cases = [(recipe, tuple(args.sets)) for recipe in args.recipe] if args.recipe else CASES
    torch.set_num_threads(1)
    print("| recipe | settings | foreseen, MiB | measured, MiB | foreseen / measured |")
    print("|---|---|---:|---:|---:|")
    for recipe, sets in cases:
        resolved = load_recipe(recipe, sets)
        found = foresee(resolved)
        setting = Setting(chunks=resolved.recipe.train.accumulate, views=found.views)
        ahead = memory(found.towers, found.objective, setting)
        real = measured(recipe, sets)
        print(
            f"| {Path(recipe).stem} | {' '.join(sets)} | {ahead.peak / 2**20:.1f} | {real / 2**20:.1f} "
            f"| {ahead.peak / real:.2f} |", flush=True,
        )  # fmt: skip


if __name__ == "__main__":
    main()
