"""What kind of pool: what closed forms chosen on validation bring with shuffled, disjoint or foreign pools, or none.

    python tests/benchmarks/few_pairs_pools.py RECIPE --foreign OTHER_RECIPE --pairs 0.01 --seeds 5

The foreign pools are training items of another recipe, where one is named. Where its encoders give features of another
width, they are projected at random to the width of the recipe's own and given the means and deviations of the pairs'
columns, so that a pool is not foreign by its scale alone. Figures are mean recalls (R@1, 5, 10, both ways) in percent
on the test split: of what `gentle baseline` would take, and of the best form with pools, were it taken whatever
validation says. Differences to no pools are paired by seed, with 95 % intervals of Student's t. AUC is that of `gentle
check-pools` for each tower. docs/explanation/few-pairs.md says what came out.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import defaultdict
from pathlib import Path

import attrs
import numpy as np
import torch
from few_pairs import interval

from gentle_core.closed_form.choice import choose
from gentle_core.closed_form.features import Features
from gentle_core.closed_form.fit import fit_forms
from gentle_core.closed_form.forms import Form
from gentle_core.engine.baselines import feature_source
from gentle_core.engine.closed import FeatureSource, gather
from gentle_core.engine.progress import Display
from gentle_core.engine.run import recorded
from gentle_core.engine.session import Session
from gentle_core.evaluate.retrieval import describe_all, ranks_both
from gentle_core.evaluate.two_sample import separation
from gentle_core.recipe import load_recipe

ROWS = 5000
"""Foreign items of each modality, at most."""


@attrs.frozen(eq=False)
class Opened:
    """A recipe's session, and the features that closed forms see."""

    session: Session
    source: FeatureSource

    @classmethod
    def of(cls, recipe: str, sets: list[str]) -> Opened:
        with tempfile.TemporaryDirectory() as folder:
            session = Session(load_recipe(recipe, sets), Path(folder) / "run", "never", Display(quiet=True))
            with recorded(session):
                session.build()
        return cls(session, feature_source(session.builder, session.model))

    @property
    def pair(self) -> tuple[str, str]:
        return self.session.builder.pairs()[0]

    def features(self) -> Features:
        session = self.session
        assert session.validation is not None
        found = gather(
            self.source, session.split("train"), session.validation, session.pools, self.pair, use_pools=True
        )
        assert found is not None
        return found

    def items(self) -> list[torch.Tensor]:
        """Features of training items, each modality's drawn on its own."""
        train, found = self.session.split("train"), []
        for number, tower in enumerate(self.pair):
            chosen = np.random.default_rng(number).permutation(len(train.index[tower]))[:ROWS].tolist()
            found.append(self.source.of(train, tower, chosen)[chosen])
        return found

    def tested(self, form: Form) -> float:
        test = self.session.splits["test"]
        a, b = self.pair
        rows = form.embed(self.source.of(test, a), "x"), form.embed(self.source.of(test, b), "y")
        samples = test.index[a].samples, test.index[b].samples
        return describe_all(ranks_both(*rows, *samples, ("x", "y")))["retrieval/mean/recall"]


def like(pool: torch.Tensor, own: torch.Tensor, seed: int) -> torch.Tensor:
    """Foreign rows (n, W') as rows (n, W) beside features `own` (m, W): as they are where the widths agree."""
    if pool.shape[1] == own.shape[1]:
        return pool
    generator = torch.Generator().manual_seed(seed)
    rows = pool.double() @ torch.randn(pool.shape[1], own.shape[1], generator=generator, dtype=torch.float64)
    rows = (rows - rows.mean(dim=0)) / rows.std(dim=0).clamp_min(1e-12)
    return (rows * own.double().std(dim=0) + own.double().mean(dim=0)).to(own.dtype)


def told_apart(items: torch.Tensor, labels: np.ndarray, pool: torch.Tensor, seed: int) -> float:
    """AUC between paired items, the first of each sample, and rows of a pool, at most 1,000 of each."""
    rng = np.random.default_rng(seed)
    first = np.unique(labels, return_index=True)[1]
    sets = [rows[np.sort(rng.permutation(len(rows))[:1000])] for rows in (items[first], pool)]
    return separation(*sets, seed=seed).auc


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("recipe")
    parser.add_argument("--foreign", help="a recipe on other data, best with the same encoders")
    parser.add_argument("--pairs", default="0.01", help="a count, or a share (with a dot)")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--set", dest="sets", action="append", default=[])
    arguments = parser.parse_args()
    foreign = Opened.of(arguments.foreign, []).items() if arguments.foreign else None
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for seed in range(arguments.seeds):
        sets = [*arguments.sets, f"dataset.paired={arguments.pairs}", f"train.seed={seed}"]
        opened = Opened.of(arguments.recipe, sets)
        data = opened.features()
        disjoint = Opened.of(arguments.recipe, [*sets, "dataset.pool=disjoint"]).features()
        kinds = {
            "none": attrs.evolve(data, pool_x=data.pool_x[:0], pool_y=data.pool_y[:0]),
            "shuffled": data,
            "disjoint": attrs.evolve(data, pool_x=disjoint.pool_x, pool_y=disjoint.pool_y),
        }
        if foreign is not None:
            pools = [like(pool, own, seed) for pool, own in zip(foreign, (data.x, data.y), strict=True)]
            kinds["foreign"] = attrs.evolve(data, pool_x=pools[0], pool_y=pools[1])
        for kind, given in kinds.items():
            choice = choose(fit_forms(given, seed=seed), seed)
            of = found[kind]
            of["chosen"].append(opened.tested(choice.form))
            of["pools taken"].append(float(choice.form is choice.with_pools))
            if choice.with_pools is not None:
                of["with pools"].append(opened.tested(choice.with_pools))
                of["AUC x"].append(told_apart(given.items_x, given.labels_x, given.pool_x, seed))
                of["AUC y"].append(told_apart(given.items_y, given.labels_y, given.pool_y, seed))
            print(f"  seed {seed}, {kind} pools: {choice.form.label}: {of['chosen'][-1]:.2f}", flush=True)
    print(f"{arguments.pairs} pairs, {arguments.seeds} seeds")
    alone = found["none"]["chosen"]
    for kind, of in found.items():
        print(f"  {kind} pools")
        for label, values in of.items():
            against = label in ("chosen", "with pools") and kind != "none"
            gain = interval([a - b for a, b in zip(values, alone, strict=True)]) if against else ""
            print(f"    {label:<12} {np.mean(values):6.2f}   {gain}", flush=True)


if __name__ == "__main__":
    main()
