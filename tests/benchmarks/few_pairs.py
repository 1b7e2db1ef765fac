"""Do the pools help closed forms? `gentle baseline` over numbers of pairs and seeds, each form beside its twin without.

    python tests/benchmarks/few_pairs.py recipes/protein-few-pairs.toml --pairs 50 100 500 --seeds 5

Figures are mean recalls (R@1, 5, 10, both ways) in percent on the test split (or --split), means over seeds. "Control"
is the best form on the pairs alone, "pools" the best with them, "chosen" what the selector takes: each by validation.
Their differences are paired by seed, with 95 % intervals of Student's t.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
from scipy import stats

from gentle_core.engine.baseline import Line, run_baselines
from gentle_core.engine.progress import Display
from gentle_core.recipe import load_recipe


def interval(values: list[float]) -> str:
    """Mean and half-width of the 95 % interval."""
    x = np.array(values)
    half = stats.t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x)) if len(x) > 1 else float("nan")
    return f"{x.mean():+.2f} ± {half:.2f}"


def best(lines: list[Line], pools: bool) -> Line | None:
    return max((line for line in lines if line.uses_pools == pools), key=lambda line: line.validation, default=None)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("recipe")
    parser.add_argument("--pairs", nargs="+", default=["100"], help="counts or shares (with a dot)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--split", default="test")
    parser.add_argument("--set", dest="sets", action="append", default=[])
    arguments = parser.parse_args()
    for pairs in arguments.pairs:
        found: dict[str, list[float]] = defaultdict(list)
        gains: dict[str, list[float]] = defaultdict(list)
        for seed in range(arguments.seeds):
            sets = [*arguments.sets, f"dataset.paired={pairs}", f"train.seed={seed}"]
            with tempfile.TemporaryDirectory() as folder:
                lines = run_baselines(load_recipe(arguments.recipe, sets), Path(folder), Display(quiet=True)).lines
            control, pooled = best(lines, False), best(lines, True)
            chosen = next(line for line in lines if line.chosen)
            assert control is not None
            for line in lines:
                found[line.label].append(line.recall[arguments.split])
            for name, line in (("pools − control", pooled), ("chosen − control", chosen)):
                if line is not None:
                    gains[name].append(line.recall[arguments.split] - control.recall[arguments.split])
        print(f"{pairs} pairs, {arguments.seeds} seeds")
        for label, values in found.items():
            print(f"  {label:<60} {np.mean(values):6.2f}  ({len(values)} of {arguments.seeds})")
        for name, differences in gains.items():
            print(f"  {name:<60} {interval(differences)}   {[round(d, 2) for d in differences]}", flush=True)


if __name__ == "__main__":
    main()
