"""Do two models retrieve differently, or is it the draw of the queries? A paired bootstrap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
import numpy as np

from gentle_core.evaluate.arrays import match_codes
from gentle_core.evaluate.retrieval import KS, Ranks

CHUNK_ENTRIES = 1 << 22


@attrs.frozen
class Difference:
    """A figure of two models and the interval of their difference, all in percentage points.

    Attributes:
        first, second: the two models' figures.
        difference: first - second.
        low, high: the bootstrap interval of the difference.
    """

    first: float
    second: float
    difference: float
    low: float
    high: float

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


def paired_bootstrap(
    first: Mapping[str, Ranks],
    second: Mapping[str, Ranks],
    ks: Sequence[int] = KS,
    *,
    draws: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Difference]:
    """Intervals for the difference of two models' recalls on the same queries and candidates.

    Samples are drawn with replacement, each with all its queries in all directions (a chain as sequence and as
    structure, all captions of an image), and the same draw serves both models: their shared difficulty cancels.
    The interval is the percentile one (Efron and Tibshirani 1993, chapter 13).

    It speaks of these two trained models and of other queries against this pool. How much another random seed of the
    training would change either model, it cannot know: for that, compare several seeds.

    Args:
        first, second: ranks by direction, as `ranks_both` or `all_ranks` return them.
        level: probability mass of the interval.

    Returns:
        By name `a->b/R@k`, `mean/R@k`, and `mean/recall` (over directions and ks).
    """
    names = [name for name in first if len(first[name].rank)]
    _check_same_queries(first, second)
    if not names:
        return {}
    every = [sample for name in names for sample in first[name].samples]
    codes, _ = match_codes(every, [])
    clusters = int(codes.max()) + 1
    bounds = np.cumsum([0] + [len(first[name].rank) for name in names])

    # For each sample: its number of queries in each direction, and each model's hits for each k.
    queries = np.zeros((clusters, len(names)))
    hits = np.zeros((2, clusters, len(names), len(ks)))
    for d, name in enumerate(names):
        code = codes[bounds[d] : bounds[d + 1]]
        np.add.at(queries[:, d], code, 1.0)
        for model, found in enumerate((first[name], second[name])):
            for j, k in enumerate(ks):
                np.add.at(hits[model, :, d, j], code, found.rank <= k)

    flat = np.concatenate([queries, hits.reshape(2, clusters, -1).transpose(1, 0, 2).reshape(clusters, -1)], axis=1)
    rng = np.random.default_rng(seed)
    size = max(1, CHUNK_ENTRIES // clusters)
    sums = [flat.sum(axis=0, keepdims=True)]  # the data as they are come first
    for start in range(0, draws, size):
        weights = rng.multinomial(clusters, np.full(clusters, 1.0 / clusters), size=min(size, draws - start))
        sums.append(weights @ flat)
    total = np.concatenate(sums)
    drawn_queries = total[:, : len(names)]
    counts = total[:, len(names) :].reshape(len(total), 2, len(names), len(ks))
    # A draw may miss every query of a direction that has few; such draws say nothing.
    recall = 100.0 * counts / drawn_queries[:, None, :, None].clip(1e-300)
    recall = recall[(drawn_queries > 0).all(axis=1)]

    figures = {f"{name}/R@{k}": recall[:, :, d, j] for d, name in enumerate(names) for j, k in enumerate(ks)}
    figures |= {f"mean/R@{k}": recall[:, :, :, j].mean(axis=2) for j, k in enumerate(ks)}
    figures["mean/recall"] = recall.mean(axis=(2, 3))
    return {name: _difference(values, level) for name, values in figures.items()}


def _difference(values: np.ndarray, level: float) -> Difference:
    """From (1 + draws, 2) figures of the two models, the observed ones first."""
    difference = values[:, 0] - values[:, 1]
    low, high = np.quantile(difference[1:], [(1 - level) / 2, (1 + level) / 2])
    return Difference(float(values[0, 0]), float(values[0, 1]), float(difference[0]), float(low), float(high))


def _check_same_queries(first: Mapping[str, Ranks], second: Mapping[str, Ranks]) -> None:
    if set(first) != set(second):
        raise ValueError(f"directions differ: {sorted(first)} and {sorted(second)}")
    for name, found in first.items():
        other = second[name]
        if found.samples != other.samples or found.candidates != other.candidates:
            raise ValueError(f"{name}: the two models were not ranked on the same queries and candidates")
