"""Is a pool usable? How its items overlap with the paired ones, tower by tower, before anything is trained on them."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import torch

from gentle_core.batch import ItemIndex
from gentle_core.data.pools import Pools, pools_of
from gentle_core.data.streams import stream
from gentle_core.engine.build import Builder
from gentle_core.engine.closed import FeatureSource, feature_source
from gentle_core.engine.progress import Display
from gentle_core.engine.session import Session, choose_device
from gentle_core.engine.splits import Split
from gentle_core.errors import DataError
from gentle_core.evaluate.two_sample import Discrepancy, Separation, discrepancy, scaled, separation
from gentle_core.losses import sdd
from gentle_core.recipe.load import Resolved

ROWS = 1000
"""Largest number of rows of each set: enough to see what matters, and a second's work."""
FEWEST = 20
"""Pairs below which nothing can be said."""
FOREIGN, DIFFERENT = 0.85, 0.65
"""AUC from which a pool counts as foreign, and as somewhat different (judgements; docs/how-to/few-pairs.md)."""
P = 0.01
"""Of the permutation test, below which the sets count as different at all."""
FEW_PAIRS = 600
"""Beyond so many pairs, pools brought little in development (docs/explanation/closed-forms.md)."""


@attrs.frozen
class PoolCheck:
    """One tower's pool beside its paired items.

    Attributes:
        pairs, pool: how many items there are of each.
        separation: of a classifier between them.
        discrepancy: MMD and its permutation test.
        density, floor: SDD between the two sets, and between two random halves of them together at that size.
        verdict: "alike", "different" or "foreign".
    """

    tower: str
    pairs: int
    pool: int
    separation: Separation
    discrepancy: Discrepancy
    density: float
    floor: float
    verdict: str

    @property
    def sentence(self) -> str:
        auc = self.separation.auc
        if self.verdict == "foreign":
            return (
                f"the pool of {self.tower!r} looks foreign: a classifier tells it from the paired items with AUC "
                f"{auc:.2f} (0.5: cannot tell)"
            )
        if self.verdict == "different":
            return f"the pool of {self.tower!r} is somewhat different from the paired items (AUC {auc:.2f})"
        return f"the pool of {self.tower!r} looks like the paired items (AUC {auc:.2f})"


@attrs.frozen
class PoolReport:
    """All towers, and what to expect."""

    towers: list[PoolCheck]
    pairs: int

    @property
    def foreign(self) -> list[PoolCheck]:
        return [check for check in self.towers if check.verdict == "foreign"]

    @property
    def expectation(self) -> str:
        """In plain words."""
        if not self.towers:
            return "There is no unmatched pool: nothing to expect from one."
        if self.foreign:
            return (
                "Expect harm: pools that do not resemble the pairs lowered results in development (irrelevant captions "
                "cost 9 points of zero-shot accuracy). Leave such items out (dataset.unpaired = 0, or fewer sources), "
                "or let gentle baseline show on validation that they help."
            )
        caution = any(check.verdict == "different" for check in self.towers)
        end = "gentle baseline RECIPE measures it in a minute, beside the same forms on the pairs alone."
        if self.pairs > FEW_PAIRS:
            return f"Expect little: with more than about {FEW_PAIRS} pairs, pools brought little in development. {end}"
        if caution:
            return f"A gain is possible, not to be counted on: the pools differ somewhat from the pairs. {end}"
        return f"A gain can be expected, the larger the fewer the pairs. {end}"

    def as_json(self) -> dict[str, Any]:
        """JSON-ready."""
        towers = [attrs.asdict(check) | {"sentence": check.sentence} for check in self.towers]
        return {"pairs": self.pairs, "towers": towers, "expectation": self.expectation}


def check_pool(
    tower: str, pairs: torch.Tensor, pool: torch.Tensor, *, seed: int = 0, permutations: int = 200
) -> PoolCheck:
    """Compare features (N, W) of paired items with features (M, W) of a pool; at most `ROWS` of each are drawn."""
    x, y = (z[_draw(len(z), seed, tower, name)].double() for z, name in ((pairs, "pairs"), (pool, "pool")))
    found = separation(x, y, seed=seed)
    gap = discrepancy(x, y, permutations=permutations, seed=seed)
    density, floor = _densities(x, y, seed)
    # MMD misses sets that share their means where pairs are few; a classifier that is nearly always right is enough.
    differs = found.auc > 0.5 + 3 * found.noise and (gap.p <= P or found.auc >= FOREIGN)
    verdict = "alike"
    if differs and found.auc >= DIFFERENT:
        verdict = "foreign" if found.auc >= FOREIGN else "different"
    return PoolCheck(tower, len(pairs), len(pool), found, gap, density, floor, verdict)


def _draw(count: int, seed: int, tower: str, name: str) -> np.ndarray:
    return np.sort(stream(seed, "check-pools", tower, name).permutation(count)[:ROWS])


def _densities(x: torch.Tensor, y: torch.Tensor, seed: int) -> tuple[float, float]:
    """SDD of the scaled sets cut to one size, and its mean over five random divisions of the two together."""
    a, b = (torch.from_numpy(z) for z in scaled(x, y))
    size = min(len(a), len(b))
    rng = stream(seed, "check-pools", "densities")
    a, b = a[torch.from_numpy(rng.permutation(len(a))[:size])], b[torch.from_numpy(rng.permutation(len(b))[:size])]
    pooled, floors = torch.cat([a, b]), []
    for _ in range(5):
        order = torch.from_numpy(rng.permutation(2 * size))
        floors.append(float(sdd(pooled[order[:size]], pooled[order[size:]])))
    return float(sdd(a, b)), float(np.mean(floors))


def check_pools(resolved: Resolved, display: Display | None = None) -> PoolReport:
    """Compare every tower's pool with its paired items, by the features that closed forms see.

    Raises:
        DataError: fewer than `FEWEST` pairs.
    """
    recipe, display = resolved.recipe, display or Display()
    builder = Builder(recipe=recipe, catalog=resolved.catalog, notify=display.warn, progress=display.say)
    dataset = builder.dataset()
    towers = {name: table.modality for name, table in recipe.towers.items()}
    index = dataset.index("train")
    pools = pools_of(recipe.dataset, index, towers, recipe.train.seed)
    if pools.pairs < FEWEST:
        raise DataError(
            f"{pools.pairs} pairs: to compare a pool with them takes {FEWEST} at least; raise dataset.paired"
        )
    source = feature_source(builder, builder.model().to(choose_device(recipe.engine.device)))
    split, seed = Split(dataset, index, towers, "train", display), recipe.train.seed
    found = []
    for tower in towers:
        if (sets := _drawn_sets(source, split, pools, tower, seed)) is not None:
            check = check_pool(tower, *sets, seed=seed)
            found.append(attrs.evolve(check, pairs=pools.pairs, pool=len(pools.unmatched[tower])))
    return PoolReport(found, pools.pairs)


def _drawn_sets(
    source: FeatureSource, split: Split, pools: Pools, tower: str, seed: int
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Features of the paired items and of the pool's, at most `ROWS` of each; None where there are too few to tell."""
    index = split.index[tower]
    pairs = _one_each(
        index, [p for positions in pools.matched[tower] for p in positions.tolist()], seed, tower, "pairs"
    )
    pool = _one_each(index, pools.unmatched[tower].tolist(), seed, tower, "pool")
    if len(pool) < FEWEST or len(pairs) < FEWEST:
        return None
    pairs = [pairs[i] for i in _draw(len(pairs), seed, tower, "pairs")]
    pool = [pool[i] for i in _draw(len(pool), seed, tower, "pool")]
    features = source.of(split, tower, [*pairs, *pool])
    return features[pairs], features[pool]


def _one_each(index: ItemIndex, positions: list[int], seed: int, tower: str, name: str) -> list[int]:
    """One position of each sample, drawn: captions of one image resemble each other, which tells them apart."""
    order = stream(seed, "check-pools", "samples", tower, name).permutation(len(positions))
    chosen = {index.samples[positions[i]]: positions[i] for i in order.tolist()}
    return sorted(chosen.values())


def warn_of_foreign_pools(session: Session) -> None:
    """A notice where a frozen tower's pool looks foreign, and the objective makes use of it.

    Towers whose encoders train are left out: what they will see is not known yet.
    """
    frozen = [name for name, table in session.recipe.towers.items() if table.encoder.freeze]
    if "unpaired" not in session.needs or session.pools.pairs < FEWEST or not any(session.rows.unpaired.values()):
        return
    source, seed = FeatureSource(session.model, {}, "feature"), session.recipe.train.seed
    for name in (name for name in frozen if session.rows.unpaired.get(name)):
        sets = _drawn_sets(source, session.train, session.pools, name, seed)
        # The classifier comes first: where it cannot tell them apart, the rest need not be asked.
        if sets is None or separation(*(z.double() for z in sets), seed=seed).auc < FOREIGN:
            continue
        check = check_pool(name, *sets, seed=seed, permutations=100)
        if check.verdict == "foreign":
            session.notice(f"{check.sentence}; such pools harm as a rule. gentle check-pools says more")
