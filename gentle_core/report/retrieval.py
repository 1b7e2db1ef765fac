"""What the comparison needs beyond the recorded averages: ranks per query, and how sure a difference is.

Ranks are recomputed from the stored embeddings of the run and of each baseline, so that two methods can be compared
on the very same queries. A method whose recomputed recall misses the recorded one ranks by another score than the
inner product; it is then left to the recorded averages.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np

from gentle_core.report.rundir import Points
from gentle_core.report.words import finite

CUTOFF = 10
"""The k of the R@k on which methods are compared."""
LARGEST_POOL = 20_000
"""Candidates above which ranks are not recomputed (a report must not take minutes)."""
BLOCK_ENTRIES = 1 << 23
TIE = 1e-6
Z95 = 1.959964
SMALLEST_SAMPLE = 20
"""Held-out samples below which no interval is given."""


@attrs.frozen(eq=False)
class Ranks:
    """Ranks of one direction. `rank` (q,) is 1-based; `items`, `samples` (q,) say whose; `candidates` is the pool."""

    rank: np.ndarray
    items: np.ndarray
    samples: np.ndarray
    candidates: int


@attrs.frozen
class Difference:
    """Run minus baseline in points, with a 95 % interval; `paired` says whether the same queries were compared."""

    value: float
    low: float
    high: float
    paired: bool = True

    @property
    def sign(self) -> int:
        """1 or -1 where the interval excludes zero, else 0."""
        return int(self.low > 0) - int(self.high < 0)


def ranks(queries: Points, targets: Points) -> Ranks:
    """Rank of the best mate of each query among `targets`, ties against us; queries without a mate are left out."""
    known = {sample: code for code, sample in enumerate(dict.fromkeys(targets.samples.tolist()))}
    target_code = np.array([known[sample] for sample in targets.samples.tolist()], dtype=np.int64)
    query_code = np.array([known.get(sample, -1) for sample in queries.samples.tolist()], dtype=np.int64)
    rows = np.flatnonzero(query_code >= 0)
    rank = np.empty(len(rows), dtype=np.int64)
    block = max(1, BLOCK_ENTRIES // max(1, len(targets)))
    for start in range(0, len(rows), block):
        part = rows[start : start + block]
        scores = queries.z[part] @ targets.z.T
        mate = query_code[part, None] == target_code[None, :]
        best = np.where(mate, scores, -np.inf).max(axis=1, keepdims=True)
        rank[start : start + block] = 1 + ((scores >= best - TIE) & ~mate).sum(axis=1)
    return Ranks(rank, queries.items[rows], queries.samples[rows], len(targets))


def all_ranks(embeddings: Mapping[str, Points]) -> dict[str, Ranks]:
    """Ranks of every direction "a->b" whose towers share a dimension and at least one sample."""
    found = {}
    for a, queries in embeddings.items():
        for b, targets in embeddings.items():
            if a == b or queries.z.shape[1] != targets.z.shape[1] or max(len(queries), len(targets)) > LARGEST_POOL:
                continue
            direction = ranks(queries, targets)
            if len(direction.rank):
                found[f"{a}->{b}"] = direction
    return found


def directions(metrics: Mapping[str, Any], family: str = "retrieval") -> list[str]:
    """The directions "a->b" that flat metrics report, in their order."""
    names = [key.split("/")[1] for key in metrics if key.startswith(f"{family}/") and key.count("/") >= 2]
    return [name for name in dict.fromkeys(names) if "->" in name]


def mean_recall(metrics: Mapping[str, Any], k: int = CUTOFF, suffix: str = "") -> float | None:
    """R@k in percent, averaged over the directions; as recorded, or from the directions' own values."""
    recorded = finite(metrics.get(f"retrieval/mean/R@{k}{suffix}"))
    if recorded is not None:
        return recorded
    values = [finite(metrics.get(f"retrieval/{name}/R@{k}{suffix}")) for name in directions(metrics)]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def chance(metrics: Mapping[str, Any], k: int = CUTOFF) -> float | None:
    """Mean chance of R@k in percent: as recorded, or k over the pool's size where only that is known."""
    recorded = mean_recall(metrics, k, "_chance")
    pool = pool_size(metrics)
    return recorded if recorded is not None or pool is None else min(100.0, 100.0 * k / pool)


def pool_size(metrics: Mapping[str, Any]) -> int | None:
    """Candidates of the (largest) direction, from the recorded count or from the chance level of R@1."""
    found = []
    for name in directions(metrics):
        candidates = finite(metrics.get(f"retrieval/{name}/candidates"))
        one = finite(metrics.get(f"retrieval/{name}/R@1_chance"))
        if candidates:
            found.append(round(candidates))
        elif one:
            found.append(round(100.0 / one))
    return max(found) if found else None


def query_count(metrics: Mapping[str, Any]) -> int | None:
    """Queries of the smallest direction; the pool's size where they are not recorded."""
    found = [finite(metrics.get(f"retrieval/{name}/queries")) for name in directions(metrics)]
    known = [round(value) for value in found if value]
    return min(known) if known else pool_size(metrics)


def agrees(found: Mapping[str, Ranks], metrics: Mapping[str, Any], k: int = CUTOFF) -> bool:
    """Whether recomputed ranks give the recorded R@k of every direction, to a tenth of a point or one query."""
    for name in directions(metrics):
        recorded = finite(metrics.get(f"retrieval/{name}/R@{k}"))
        if recorded is None or name not in found:
            return False
        hits = found[name].rank <= k
        if abs(100.0 * hits.mean() - recorded) > max(0.1, 101.0 / len(hits)):
            return False
    return bool(directions(metrics))


def paired_difference(run: Mapping[str, Ranks], base: Mapping[str, Ranks], k: int = CUTOFF) -> Difference | None:
    """Mean R@k of `run` minus `base` on the same queries, with a 95 % interval over held-out samples.

    Queries of one sample (both directions, five captions) vary together, so samples are what is counted: each
    contributes the sum of its queries' deviations, and the interval is 1.96 standard errors of those sums.
    None where the queries differ or there are fewer than `SMALLEST_SAMPLE` samples.
    """
    if not run or set(run) != set(base):
        return None
    deviation: dict[str, float] = {}
    total = 0.0
    for name, ours in run.items():
        theirs = base[name]
        place = {item: row for row, item in enumerate(theirs.items.tolist())}
        if len(place) != len(ours.items) or ours.candidates != theirs.candidates:
            return None
        try:
            order = [place[item] for item in ours.items.tolist()]
        except KeyError:
            return None
        gain = 100.0 * ((ours.rank <= k).astype(float) - (theirs.rank[order] <= k))
        total += float(gain.mean()) / len(run)
        for sample, part in zip(ours.samples.tolist(), (gain - gain.mean()) / (len(gain) * len(run)), strict=True):
            deviation[sample] = deviation.get(sample, 0.0) + float(part)
    n = len(deviation)
    if n < SMALLEST_SAMPLE:
        return None
    half = Z95 * math.sqrt(sum(value * value for value in deviation.values()) * n / (n - 1))
    return Difference(total, total - half, total + half)


def recorded_difference(comparison: Any, k: int = CUTOFF) -> Difference | None:
    """The interval that the run itself wrote down: {"mean/R@10": {"difference", "low", "high"}}."""
    if not isinstance(comparison, Mapping):
        return None
    entry = comparison.get(f"mean/R@{k}", comparison.get(f"R@{k}"))
    values = [finite(entry.get(key)) for key in ("difference", "low", "high")] if isinstance(entry, Mapping) else [None]
    return None if None in values else Difference(*values)


def independent_difference(run: Mapping[str, Any], base: Mapping[str, Any], k: int = CUTOFF) -> Difference | None:
    """The same from recorded averages alone, as if the two methods had met different queries: a wider interval."""
    a, b, n = mean_recall(run, k), mean_recall(base, k), query_count(run)
    if a is None or b is None or n is None or n < SMALLEST_SAMPLE:
        return None
    half = Z95 * math.sqrt((a * (100.0 - a) + b * (100.0 - b)) / n)
    return Difference(a - b, a - b - half, a - b + half, paired=False)


def recall_interval(metrics: Mapping[str, Any], k: int = CUTOFF) -> tuple[float, float] | None:
    """95 % interval (Wilson) of the mean R@k in percent over the draw of held-out samples."""
    value, n = mean_recall(metrics, k), query_count(metrics)
    if value is None or not n:
        return None
    p, z2 = value / 100.0, Z95 * Z95
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return 100.0 * max(0.0, centre - half), 100.0 * min(1.0, centre + half)


def recall_curve(found: Ranks) -> tuple[np.ndarray, np.ndarray]:
    """Cut-offs k (at most 60, spaced evenly in log k) and R@k in percent."""
    ks = np.unique(np.geomspace(1, max(2, found.candidates), 60).round().astype(int))
    ordered = np.sort(found.rank)
    return ks, 100.0 * np.searchsorted(ordered, ks, side="right") / len(ordered)
