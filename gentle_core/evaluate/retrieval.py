"""Cross-modal retrieval: ranks, recall, median rank and reciprocal rank, each with what chance would give.

A query's rank is one more than the number of wrong candidates that score at least as high as its best-scoring mate:
ties count against us, so a collapsed model ranks last, not first. R@k is the share of queries with rank <= k, in
percent. With several mates (five captions of a photograph) the best one counts, as is usual in image-text retrieval.
Queries without a mate among the candidates are left out and counted; candidates without a query stay as distractors.

The other usual convention keeps one fixed item a sample (`first_rows`: the first caption of each photograph), on both
sides; its figures stand under `ONE` instead of `ANY`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor

from gentle_core.evaluate.arrays import Ids, as_tensor, blocks, match_codes, matched_rows, plain

Scorer = Callable[[Tensor, Tensor], Tensor]
"""(b, d), (n, d) -> scores (b, n), higher is better. Rows are streamed, so one's scores must not depend on others."""

KS = (1, 5, 10)

ANY, ONE = "retrieval", "retrieval_one"
"""First part of the names of metrics: any mate counts; one fixed item a sample."""

TIE = 1e-12
"""Inner products closer than this (times the largest norms) are ties. Equal rows can differ in the last bits of their
products, depending on where in a matrix they stand; float64 products of float32 rows are good to about 1e-15."""


@attrs.frozen(eq=False)
class Ranks:
    """Where the mates of each query came.

    Attributes:
        rank: (q,) int64, 1 is best; only queries that have a mate.
        rows: (q,) row of each of them among all queries.
        samples: (q,) their sample ids.
        mates: (q,) how many candidates are mates.
        candidates: size of the pool.
        without_mate: how many queries were left out.
    """

    rank: np.ndarray
    rows: np.ndarray
    samples: list[Any]
    mates: np.ndarray
    candidates: int
    without_mate: int

    def recall(self, k: int) -> float:
        """R@k in percent."""
        return 100.0 * float(np.mean(self.rank <= k))


@attrs.frozen(eq=False)
class Standings:
    """Counts behind a rank, (q,) each: wrong candidates above the best mate, wrong ones tied with it, mates tied."""

    rows: np.ndarray
    above: np.ndarray
    tied: np.ndarray
    mates_tied: np.ndarray
    mates: np.ndarray


def standings(
    u: Any,
    v: Any,
    samples_u: Ids,
    samples_v: Ids,
    scorer: Scorer | None = None,
    tolerance: float | None = None,
    block: int | None = None,
) -> Standings:
    """Compare every candidate of `v` (n, d) with the best mate of every query of `u` (m, d).

    Memory is O(block * n). Without a `scorer` the score is the inner product in float64. `tolerance` is the largest
    difference of scores that is a tie: `TIE` times the largest norms by default, 0 with a `scorer`.
    A score that is not a number counts against us, whether it is the mate's or another's.
    """
    u, v = as_tensor(u), as_tensor(v)
    if len(u) != len(samples_u) or len(v) != len(samples_v):
        raise ValueError(f"{len(u)} and {len(v)} rows, but {len(samples_u)} and {len(samples_v)} sample ids")
    code_u, code_v = match_codes(samples_u, samples_v)
    mates = _count(code_u, code_v)
    rows = np.flatnonzero(mates)

    if scorer is None:
        u, v = u.double(), v.double()
        if tolerance is None and len(u) and len(v):
            tolerance = TIE * float(largest_norm(u) * largest_norm(v))
    tolerance = tolerance or 0.0
    code_u_t, code_v_t = (torch.as_tensor(c, device=v.device) for c in (code_u, code_v))

    above, tied, mates_tied = (np.zeros(len(rows), dtype=np.int64) for _ in range(3))
    for part in blocks(len(rows), len(v), block):
        queries = torch.as_tensor(rows[part], device=u.device)
        scores = u[queries] @ v.T if scorer is None else scorer(u[queries], v).detach()
        mate = code_u_t[queries, None] == code_v_t
        best = scores.masked_fill(~mate, -torch.inf).amax(dim=1, keepdim=True)
        # Negated comparisons: a NaN on either side then counts as a better candidate.
        higher = ~(scores <= best + tolerance)
        not_lower = ~(scores < best - tolerance)
        above[part] = (higher & ~mate).sum(dim=1).cpu().numpy()
        tied[part] = (not_lower & ~higher & ~mate).sum(dim=1).cpu().numpy()
        mates_tied[part] = (not_lower & mate).sum(dim=1).cpu().numpy()
    return Standings(rows, above, tied, mates_tied, mates[rows])


def _count(code_u: np.ndarray, code_v: np.ndarray) -> np.ndarray:
    """How often each code of u occurs among those of v."""
    size = int(max(code_u.max(initial=-1), code_v.max(initial=-1))) + 1
    return np.bincount(code_v, minlength=size)[code_u]


def match_counts(samples_u: Ids, samples_v: Ids) -> np.ndarray:
    """Number of mates of each query that has any: what `chance` wants."""
    mates = _count(*match_codes(samples_u, samples_v))
    return mates[mates > 0]


def largest_norm(z: Tensor) -> Tensor:
    """The largest finite norm of a row."""
    return z.norm(dim=1).nan_to_num(nan=0.0, posinf=0.0).max()


def ranks(
    u: Any,
    v: Any,
    samples_u: Ids,
    samples_v: Ids,
    scorer: Scorer | None = None,
    tolerance: float | None = None,
    block: int | None = None,
) -> Ranks:
    """Rank of the best mate of each query of `u` (m, d) among the candidates `v` (n, d); see `standings`."""
    found = standings(u, v, samples_u, samples_v, scorer, tolerance, block)
    ids = plain(samples_u)
    return Ranks(
        rank=1 + found.above + found.tied,
        rows=found.rows,
        samples=[ids[row] for row in found.rows],
        mates=found.mates,
        candidates=len(samples_v),
        without_mate=len(ids) - len(found.rows),
    )


@attrs.frozen(eq=False)
class Mates:
    """Which rows of two modalities belong together: found once, for many rankings of the same items in both directions.

    Attributes:
        samples_u, samples_v: sample ids of the m rows of u and of the n rows of v.
        rows_u, rows_v: (P,) both rows of each pair of mates, ordered by the row in u.
    """

    samples_u: list[Any]
    samples_v: list[Any]
    rows_u: np.ndarray
    rows_v: np.ndarray

    @classmethod
    def of(cls, samples_u: Ids, samples_v: Ids) -> Mates:
        return cls(plain(samples_u), plain(samples_v), *matched_rows(samples_u, samples_v))

    def ranks_of_rows(
        self, u: Any, v: Any, names: tuple[str, str] = ("a", "b"), block: int | None = None
    ) -> dict[str, Ranks]:
        """Ranks of both directions by the inner product in float64 of u (m, d) and v (n, d)."""
        u, v = as_tensor(u).double(), as_tensor(v).double()
        if (len(u), len(v)) != (len(self.samples_u), len(self.samples_v)):
            raise ValueError(
                f"{len(u)} and {len(v)} rows, but {len(self.samples_u)} and {len(self.samples_v)} sample ids"
            )
        tolerance = TIE * float(largest_norm(u) * largest_norm(v)) if len(u) and len(v) else 0.0
        return self.ranks_of_scores(lambda part: u[part] @ v.T, names, tolerance, block=block)

    def ranks_of_scores(
        self,
        scores: Callable[[slice], Tensor],
        names: tuple[str, str] = ("a", "b"),
        tolerance: float = 0.0,
        bias: tuple[Tensor, Tensor] | None = None,
        block: int | None = None,
    ) -> dict[str, Ranks]:
        """Ranks of both directions, as `ranks` defines them, from the same scores.

        Args:
            scores: a slice of the rows of u to their scores (b, n) with all rows of v. Called once where all scores fit
                in a block, twice otherwise.
            tolerance: the largest difference of scores that is a tie.
            bias: (m,), (n,) what is taken off a row's scores where it is a candidate.
        """
        m, n = len(self.samples_u), len(self.samples_v)
        forwards, backwards = f"{names[0]}->{names[1]}", f"{names[1]}->{names[0]}"
        if not len(self.rows_u):
            nothing = np.empty(0, dtype=np.int64)
            return {forwards: self._ranks(nothing, 0), backwards: self._ranks(nothing, 1)}
        parts = list(blocks(m, n, block))
        held = scores(parts[0]) if len(parts) == 1 else None

        def both(part: slice) -> tuple[Tensor, Tensor]:
            """Scores (b, n) in which the rows of v are candidates, and those in which the rows of u are."""
            found = scores(part) if held is None else held
            return (found, found) if bias is None else (found - bias[1], found - bias[0][part, None])

        own: tuple[list[Tensor], list[Tensor]] = ([], [])
        for part in parts:
            first, last = np.searchsorted(self.rows_u, (part.start, part.stop))
            for side, found in zip(own, both(part), strict=True):
                side.append(found[self.rows_u[first:last] - part.start, self.rows_v[first:last]])
        at_mates = [torch.cat(side) for side in own]
        rows = [torch.as_tensor(side, device=at_mates[0].device) for side in (self.rows_u, self.rows_v)]
        # What has at least this score stands with the best mate or above it; so does what is not a number.
        least = [
            found.new_full((size,), -torch.inf).scatter_reduce(0, row, found, "amax") - tolerance
            for found, row, size in zip(at_mates, rows, (m, n), strict=True)
        ]
        below = [torch.zeros_like(found, dtype=torch.int32) for found in least]  # int64 sums take twice the time
        for part in parts:
            forward, backward = both(part)
            below[0][part] = (forward < least[0][part, None]).sum(dim=1, dtype=torch.int32)
            below[1] += (backward < least[1]).sum(dim=0, dtype=torch.int32)
        ranks = []
        for found, row, enough, lower, candidates in zip(at_mates, rows, least, below, (n, m), strict=True):
            mates = torch.zeros_like(lower).index_add_(0, row, (~(found < enough[row])).to(torch.int32))
            ranks.append((1 + candidates - lower - mates).to(torch.int64).cpu().numpy())
        return {forwards: self._ranks(ranks[0], 0), backwards: self._ranks(ranks[1], 1)}

    def _ranks(self, rank: np.ndarray, side: int) -> Ranks:
        """From the rank of each row of a side; those without a mate are left out."""
        ids, other = (self.samples_u, self.samples_v) if side == 0 else (self.samples_v, self.samples_u)
        queries, mates = np.unique((self.rows_u, self.rows_v)[side], return_counts=True)
        samples = [ids[row] for row in queries]
        return Ranks(rank[queries], queries, samples, mates, len(other), len(ids) - len(queries))


def hit_probability(candidates: Any, mates: Any, k: Any) -> np.ndarray:
    """Probability that a random order of `candidates` has one of `mates` among its first `k` (broadcast together).

    1 - C(n - p, k) / C(n, k), as a product of k factors: exact where binomials would overflow.
    """
    n, p, k = np.broadcast_arrays(np.asarray(candidates, float), np.asarray(mates, float), np.asarray(k))
    miss = np.ones(n.shape)
    for i in range(int(k.max(initial=0))):
        factor = np.clip(n - p - i, 0.0, None) / np.maximum(n - i, 1.0)
        miss *= np.where(i < k, factor, 1.0)
    return 1.0 - miss


def chance(candidates: int, mates: np.ndarray, ks: Sequence[int] = KS) -> dict[str, float]:
    """Exact expectations under a uniformly random order of the candidates: R@k (percent), MRR and the median rank.

    `mates` (q,) counts each query's mates; the figures are averages over the queries. The median is that of the
    mixture of the queries' rank distributions, midway where it falls between two ranks: (n + 1) / 2 for one mate.
    """
    values, weights = np.unique(mates, return_counts=True)
    weights = weights / weights.sum()
    figures = {f"R@{k}": 100.0 * float(weights @ hit_probability(candidates, values, k)) for k in ks}
    rank = np.arange(1, candidates + 1)
    at_most = np.zeros(candidates)
    for p, weight in zip(values, weights, strict=True):
        miss = np.clip(candidates - p - rank + 1.0, 0.0, None) / (candidates - rank + 1.0)
        at_most += weight * (1.0 - np.cumprod(miss))
    figures["MRR"] = float(np.diff(at_most, prepend=0.0) @ (1.0 / rank))
    slack = 1e-12 * candidates  # sums of weights miss one half by rounding
    low, high = np.argmax(at_most >= 0.5 - slack), np.argmax(at_most > 0.5 + slack)
    figures["median_rank"] = float(rank[low] + rank[high]) / 2.0
    return figures


def describe(found: Ranks, ks: Sequence[int] = KS, prefix: str = "a->b", family: str = ANY) -> dict[str, float]:
    """The metrics of `ranks` under `retrieval/<prefix>/…`; only the counts where no query has a mate."""
    name = f"{family}/{prefix}"
    metrics = {
        f"{name}/queries": float(len(found.rank)),
        f"{name}/candidates": float(found.candidates),
        f"{name}/without_mate": float(found.without_mate),
    }
    if not len(found.rank):
        return metrics
    figures = {f"R@{k}": found.recall(k) for k in ks}
    figures["median_rank"] = float(np.median(found.rank))
    figures["MRR"] = float(np.mean(1.0 / found.rank))
    expected = chance(found.candidates, found.mates, ks)
    for key, value in figures.items():
        metrics[f"{name}/{key}"] = value
        metrics[f"{name}/{key}_chance"] = expected[key]
    return metrics


def retrieval(
    u: Any,
    v: Any,
    samples_u: Ids,
    samples_v: Ids,
    ks: Sequence[int] = KS,
    scorer: Scorer | None = None,
    prefix: str = "a->b",
    block: int | None = None,
) -> dict[str, float]:
    """Retrieve the mates of `u` (m, d) among `v` (n, d).

    Returns:
        Under `retrieval/<prefix>/`: `R@k` in percent, `median_rank`, `MRR` (mean reciprocal rank), each with its
        `…_chance`, and the counts `queries`, `candidates`, `without_mate`.
    """
    return describe(ranks(u, v, samples_u, samples_v, scorer, block=block), ks, prefix)


def first_rows(samples: Ids) -> np.ndarray:
    """The first row of each sample (k,), in their order: one fixed item a sample."""
    return np.sort(np.unique(match_codes(samples, [])[0], return_index=True)[1])


def flipped(scorer: Scorer | None) -> Scorer | None:
    """The same scorer for queries from the other side: scorer(u, v) -> (m, n) becomes f(v, u) -> (n, m)."""
    return None if scorer is None else lambda query, candidates: scorer(candidates, query).T


def ranks_both(
    u: Any,
    v: Any,
    samples_u: Ids,
    samples_v: Ids,
    names: tuple[str, str] = ("a", "b"),
    scorer: Scorer | None = None,
    block: int | None = None,
) -> dict[str, Ranks]:
    """Ranks of both directions by their name, "a->b" and "b->a". `scorer` takes rows of `u` first, always."""
    if scorer is None:
        return Mates.of(samples_u, samples_v).ranks_of_rows(u, v, names, block)
    a, b = names
    return {
        f"{a}->{b}": ranks(u, v, samples_u, samples_v, scorer, block=block),
        f"{b}->{a}": ranks(v, u, samples_v, samples_u, flipped(scorer), block=block),
    }


def describe_all(found: Mapping[str, Ranks], ks: Sequence[int] = KS, family: str = ANY) -> dict[str, float]:
    """The metrics of several directions, and their means `retrieval/mean/R@k`.

    `retrieval/mean/recall` is the mean over directions and ks (the "mean recall" of the image-text literature).
    Directions without queries do not enter the means.
    """
    metrics: dict[str, float] = {}
    for prefix, direction in found.items():
        metrics |= describe(direction, ks, prefix, family)
    counted = [f"{family}/{prefix}" for prefix, direction in found.items() if len(direction.rank)]
    if counted:
        for suffix in ("", "_chance"):
            means = {k: float(np.mean([metrics[f"{name}/R@{k}{suffix}"] for name in counted])) for k in ks}
            metrics |= {f"{family}/mean/R@{k}{suffix}": value for k, value in means.items()}
            metrics[f"{family}/mean/recall{suffix}"] = float(np.mean(list(means.values())))
    return metrics


def mean_recall(found: Mapping[str, Ranks], ks: Sequence[int] = KS) -> float:
    """`retrieval/mean/recall` of `describe_all` and nothing else; 0 without any query."""
    counted = [direction for direction in found.values() if len(direction.rank)]
    return float(np.mean([np.mean([direction.recall(k) for direction in counted]) for k in ks])) if counted else 0.0


def retrieval_both(
    u: Any,
    v: Any,
    samples_u: Ids,
    samples_v: Ids,
    names: tuple[str, str] = ("a", "b"),
    ks: Sequence[int] = KS,
    scorer: Scorer | None = None,
    block: int | None = None,
) -> dict[str, float]:
    """`retrieval` both ways and `retrieval/mean/…` over the two."""
    return describe_all(ranks_both(u, v, samples_u, samples_v, names, scorer, block), ks)
