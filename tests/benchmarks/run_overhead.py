"""What the training loop costs beyond its parts: a run's steps against loading, towers, objective and optimiser alone.

Both do the same steps of the default recipe in one process, in turn. The loop also checks for non-finite values,
listens for signals, logs every tenth step (with a gradient norm for each term) and shows its progress.

    python tests/benchmarks/run_overhead.py [--steps 20] [--rounds 3] [--recipe recipes/protein.toml]
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from pathlib import Path
from unittest import mock

from gentle_core.batch import LossContext
from gentle_core.engine.loop import Trainer
from gentle_core.engine.progress import Display
from gentle_core.engine.session import Session
from gentle_core.engine.step import forward_backward
from gentle_core.recipe import load_recipe


def bare(trainer: Trainer, steps: range) -> None:
    """The parts of a step and nothing else."""
    cached = {tower: source.features is not None for tower, source in trainer.data.sources.items()}
    trainer.model.train()
    for step in steps:
        inputs = trainer.data[step]
        trainer.optimizer.zero()
        context = LossContext(step=step, steps=trainer.steps, pairs=trainer.pairs)
        forward_backward(trainer.model, trainer.loss, inputs, context, seed=trainer.table.seed, cached=cached)
        trainer.optimizer.gradient_norm()
        trainer.optimizer.step(step, trainer.steps)


def looped(trainer: Trainer, steps: range) -> None:
    """The same steps as the run does them; evaluation and checkpoints, which come between steps, are left out."""
    trainer.step, trainer.steps = steps.start, steps.stop
    with mock.patch.object(Trainer, "_between_steps", lambda *_: None):
        trainer.fit()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="recipes/protein.toml")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--clock", choices=("cpu", "wall"), default="wall", help="cpu where other work shares the machine"
    )
    args = parser.parse_args()
    clock = time.process_time if args.clock == "cpu" else time.perf_counter

    with tempfile.TemporaryDirectory() as folder:
        session = Session(load_recipe(args.recipe), Path(folder) / "run", "never", Display(quiet=True))
        session.build()
        trainer = session.trainer()
        bare(trainer, range(3))
        times: dict[str, list[float]] = {"parts": [], "loop": []}
        places = itertools.count(3, args.steps)
        for _ in range(args.rounds):
            for name, function in (("parts", bare), ("loop", looped)):
                start = next(places)
                began = clock()
                function(trainer, range(start, start + args.steps))
                times[name].append((clock() - began) / args.steps)
        session.run.close()

    for name, values in times.items():
        each = ", ".join(f"{1000 * value:.1f}" for value in values)
        print(f"{name:<6} {1000 * statistics.median(values):8.1f} ms a step   (each: {each})")
    ratios = [loop / parts for parts, loop in zip(times["parts"], times["loop"], strict=True)]
    print(f"loop / parts: {statistics.median(ratios):.3f} (median of {args.rounds} rounds, {args.clock} time)")


if __name__ == "__main__":
    main()
