"""Closed forms chosen by pairs held out in turn (`gentle baseline` without a validation split), beside validation.

    python tests/benchmarks/few_pairs_folds.py RECIPE --pairs 50 --seeds 5

Figures are mean recalls (R@1, 5, 10, both ways) in percent on the test split of what would be taken, and of CCA alone
with settings chosen in either way. Differences are paired by seed, with 95 % intervals of Student's t.
"""

from __future__ import annotations

import argparse
from collections import defaultdict

import numpy as np
from few_pairs import interval
from few_pairs_pools import Opened

from gentle_core.closed_form.choice import choose
from gentle_core.closed_form.crossfit import fit_forms_crossed
from gentle_core.closed_form.fit import fit_forms
from gentle_core.form_names import FORM_NAMES


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("recipe")
    parser.add_argument("--pairs", default="50", help="a count, or a share (with a dot)")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--set", dest="sets", action="append", default=[])
    arguments = parser.parse_args()
    found: dict[str, list[float]] = defaultdict(list)
    for seed in range(arguments.seeds):
        opened = Opened.of(
            arguments.recipe, [*arguments.sets, f"dataset.paired={arguments.pairs}", f"train.seed={seed}"]
        )
        data = opened.features()
        ways = {"validation": fit_forms(data, seed=seed), "folds": fit_forms_crossed(data, FORM_NAMES, seed=seed)}
        for name, forms in ways.items():
            cca = next(form for form in forms if form.name == "cca" and not form.hubness)
            found[f"CCA, {name}"].append(opened.tested(cca))
            form = choose(forms, seed).form
            found[name].append(opened.tested(form))
            print(f"  seed {seed}, chosen by {name}: {form.label}: {found[name][-1]:.2f}", flush=True)
    print(f"{arguments.pairs} pairs, {arguments.seeds} seeds")
    for name, values in found.items():
        gains = [a - b for a, b in zip(values, found["validation"], strict=True)]
        print(f"  {name:<16} {np.mean(values):6.2f}   {interval(gains) if name != 'validation' else ''}")


if __name__ == "__main__":
    main()
