"""How far an attribute alone goes: retrieval by a chain's length looks like understanding, and is none.

Three figures put a shortcut beside the model's retrieval: what an oracle that knows the attribute, and nothing else,
would reach; what the model reaches among candidates that all have the query's value; and how much of the attribute
can be read from each embedding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import attrs
import numpy as np

from gentle_core.errors import DataError
from gentle_core.evaluate.arrays import Ids, as_array, match_codes
from gentle_core.evaluate.retrieval import KS, TIE, Scorer, hit_probability, ranks, standings

SMALLEST_POOL = 5
RIDGES = tuple(10.0**e for e in range(-6, 3))


def log_attribute(values: Any, name: str = "the attribute") -> np.ndarray:
    """log of a column (n,); a `DataError` where it is not a positive finite number."""
    try:
        column = as_array(values).reshape(-1)
    except (TypeError, ValueError):
        raise DataError(f"{name} cannot be a shortcut: its values are not numbers") from None
    if not (np.isfinite(column).all() and (column > 0).all()):
        raise DataError(f"{name} cannot be a shortcut: its values must be positive and finite (their log is compared)")
    return np.log(column)


def oracle_recall(
    attribute_u: Any,
    attribute_v: Any,
    samples_u: Ids,
    samples_v: Ids,
    ks: Sequence[int] = KS,
    ties: Literal["expected", "against"] = "expected",
) -> dict[str, float]:
    """R@k in percent of a ranker that sees the attribute alone: it orders candidates by |log a_u - log a_v|.

    `ties="expected"`: candidates at one distance come in random order, and the figure is the exact expectation. For
    mates that share the attribute, R@1 is then the number of distinct values over the number of items.
    `ties="against"`: as in `ranks`, every tie is lost; a model with one more bit of information can beat that.
    """
    u, v = log_attribute(attribute_u), log_attribute(attribute_v)
    found = standings(u, v, samples_u, samples_v, scorer=lambda a, b: -(a - b.T).abs(), tolerance=TIE)
    if not len(found.rows):
        return {}
    if ties == "against":
        return {f"R@{k}": 100.0 * float(np.mean(1 + found.above + found.tied <= k)) for k in ks}
    tied = found.tied + found.mates_tied
    return {f"R@{k}": 100.0 * float(np.mean(hit_probability(tied, found.mates_tied, k - found.above))) for k in ks}


@attrs.frozen
class EqualRecall:
    """Retrieval among candidates of the query's own value.

    Attributes:
        recall: R@1 in percent, averaged over the queries.
        chance: its exact expectation under random order, in percent.
        queries: how many queries had a pool that is large enough, with their mate in it.
        pool: mean size of their pools.
    """

    recall: float
    chance: float
    queries: int
    pool: float


def equal_attribute_recall(
    u: Any,
    v: Any,
    samples_u: Ids,
    samples_v: Ids,
    attribute_u: Any,
    attribute_v: Any,
    scorer: Scorer | None = None,
    smallest: int = SMALLEST_POOL,
) -> EqualRecall | None:
    """R@1 of queries `u` (m, d) in pools of `v` (n, d) that have exactly the query's attribute.

    Pools below `smallest` candidates are left out, and so are queries whose mate has another value. None where
    nothing remains.
    """
    value_u, value_v = as_array(attribute_u).reshape(-1), as_array(attribute_v).reshape(-1)
    code_u, code_v = match_codes(samples_u, samples_v)
    hits, chances, sizes = [], [], []
    for value in np.unique(value_u):
        rows, pool = np.flatnonzero(value_u == value), np.flatnonzero(value_v == value)
        if len(pool) < smallest:
            continue
        found = ranks(u[rows], v[pool], code_u[rows], code_v[pool], scorer)
        hits.append(found.rank <= 1)
        chances.append(found.mates / len(pool))
        sizes.append(np.full(len(found.rank), len(pool)))
    queries = sum(map(len, hits))
    if not queries:
        return None
    recall, expected, size = (float(np.mean(np.concatenate(part))) for part in (hits, chances, sizes))
    return EqualRecall(100.0 * recall, 100.0 * expected, queries, size)


def attribute_r2(z: Any, attribute: Any, groups: Ids | None = None, folds: int = 5, seed: int = 0) -> float:
    """Cross-validated R² of the log attribute, predicted from the embedding `z` (n, d) by ridge regression.

    Each fold is predicted from the others; the ridge (relative to the mean eigenvalue) is chosen on those by
    generalised cross-validation (Golub, Heath and Wahba 1979). Rows of one group (a sample's several items) stay in
    one fold. Near 1: the embedding tells the attribute; 0 or below: it does not. NaN for constant attributes or
    fewer than two groups a fold.
    """
    x, y = as_array(z), log_attribute(attribute)
    group = match_codes(groups, [])[0] if groups is not None else np.arange(len(x))
    count = int(group.max(initial=-1)) + 1
    total = float(np.square(y - y.mean()).sum()) if len(y) else 0.0
    if count < 2 * folds or total <= 1e-20 * len(y):
        return math.nan
    fold = (np.random.default_rng(seed).permutation(count) % folds)[group]
    residual = 0.0
    for held_out in range(folds):
        test = fold == held_out
        weights, intercept = _ridge(x[~test], y[~test])
        residual += float(np.square(y[test] - x[test] @ weights - intercept).sum())
    return 1.0 - residual / total


def _ridge(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, float]:
    """Ridge regression of y (n,) on x (n, d) with the ridge of least generalised cross-validation error."""
    n = len(x)
    mean_x, mean_y = x.mean(axis=0), y.mean()
    centred, target = x - mean_x, y - mean_y
    eigenvalues, basis = np.linalg.eigh(centred.T @ centred)
    eigenvalues = np.clip(eigenvalues, 0.0, None)
    projected = basis.T @ (centred.T @ target)
    best, chosen = math.inf, np.zeros(x.shape[1])
    for ridge in RIDGES:
        damped = eigenvalues + ridge * max(float(eigenvalues.mean()), 1e-300)
        coefficients = projected / damped
        freedom = float((eigenvalues / damped).sum()) + 1.0  # one for the mean
        error = float(np.square(target - centred @ (basis @ coefficients)).sum())
        score = error / max(n - freedom, 1e-9) ** 2
        if score < best:
            best, chosen = score, basis @ coefficients
    return chosen, float(mean_y - mean_x @ chosen)
