"""Closed-form alignment of frozen features: regularised CCA, ridge regression and orthogonal Procrustes.

All three need only the pairs' means and covariances, so any number of rows is streamed in O(d²) memory and a fit takes
a second. On few pairs they are hard to beat, which makes them the baseline that every run should stand beside.
Features are centred, and by default scaled to unit variance, with training statistics.

Sources: Hotelling 1936 (CCA); Vinod 1976 (the ridge in it); Schönemann 1966 (Procrustes). Weighting the canonical
columns by a power of their correlations: Gong et al. 2014, "A Multi-View Embedding Space for Modeling Internet Images".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import attrs
import numpy as np

from gentle_core.errors import DataError
from gentle_core.evaluate.arrays import Ids, as_array
from gentle_core.evaluate.retrieval import KS, describe_all, ranks_both

Method = Literal["cca", "ridge", "procrustes"]

RIDGES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
POWERS = (0.0, 0.5, 1.0, 2.0, 3.0)
DIMENSIONS = (32, 128, 512)


@attrs.define(eq=False)
class Moments:
    """Running count, means and central second moments of paired rows x (n, p) and y (n, q), in float64.

    Blocks are merged by the pairwise update of Chan, Golub and LeVeque 1983, which stays exact for features whose
    mean is far larger than their spread. `xx`, `yy` and `xy` are covariances once divided by `count`.
    """

    count: int
    mean_x: np.ndarray
    mean_y: np.ndarray
    xx: np.ndarray
    yy: np.ndarray
    xy: np.ndarray

    @classmethod
    def of(cls, x: Any, y: Any, block: int = 8192) -> Moments:
        """The moments of two arrays or tensors whose rows are pairs."""
        if len(x) != len(y):
            raise ValueError(f"{len(x)} rows of x but {len(y)} of y; rows must be pairs")
        return cls.stream((x[i : i + block], y[i : i + block]) for i in range(0, len(x), block))

    @classmethod
    def stream(cls, blocks: Iterable[tuple[Any, Any]]) -> Moments:
        """The moments of blocks ((b, p), (b, q)) of paired rows."""
        total: Moments | None = None
        for block_x, block_y in blocks:
            x, y = as_array(block_x), as_array(block_y)
            if not len(x):
                continue
            mean_x, mean_y = x.mean(axis=0), y.mean(axis=0)
            x, y = x - mean_x, y - mean_y
            part = cls(len(x), mean_x, mean_y, x.T @ x, y.T @ y, x.T @ y)
            total = part if total is None else total + part
        if total is None:
            raise DataError("no pairs: a closed-form alignment needs at least two")
        return total

    def __add__(self, other: Moments) -> Moments:
        count = self.count + other.count
        step_x, step_y = other.mean_x - self.mean_x, other.mean_y - self.mean_y
        share, weight = other.count / count, self.count * other.count / count
        return Moments(
            count,
            self.mean_x + share * step_x,
            self.mean_y + share * step_y,
            self.xx + other.xx + weight * np.outer(step_x, step_x),
            self.yy + other.yy + weight * np.outer(step_y, step_y),
            self.xy + other.xy + weight * np.outer(step_x, step_y),
        )


@attrs.frozen(eq=False)
class Alignment:
    """Two linear maps into a common space.

    Attributes:
        method: how it was fitted.
        mean_x, mean_y: training means, (p,) and (q,).
        x_map, y_map: (p, k), (q, k); scaling of the features is folded in.
        strength: (k,) canonical correlations or singular values of the columns, descending (empty for ridge).
        groups: sizes of column groups that are normalised apart, so that the inner product of two embeddings is the
            mean of the groups' cosines.
    """

    method: Method
    mean_x: np.ndarray
    mean_y: np.ndarray
    x_map: np.ndarray
    y_map: np.ndarray
    strength: np.ndarray
    groups: tuple[int, ...]

    def embed_x(self, x: Any) -> np.ndarray:
        """Unit embeddings (n, k) float64 of features x (n, p)."""
        return self.unit(self.project_x(x))

    def embed_y(self, y: Any) -> np.ndarray:
        """Unit embeddings (n, k) float64 of features y (n, q)."""
        return self.unit(self.project_y(y))

    def project_x(self, x: Any) -> np.ndarray:
        """The same (n, k) before normalisation."""
        return (as_array(x) - self.mean_x) @ self.x_map

    def project_y(self, y: Any) -> np.ndarray:
        """The same (n, k) before normalisation."""
        return (as_array(y) - self.mean_y) @ self.y_map

    def unit(self, z: np.ndarray) -> np.ndarray:
        """Rows (n, k) with each of `groups` scaled to norm 1 / √(number of groups); rows of zeros stay."""
        parts = np.split(z, np.cumsum(self.groups)[:-1], axis=1)
        norms = [np.linalg.norm(part, axis=1, keepdims=True) for part in parts]
        unit = [part / np.maximum(norm, 1e-300) for part, norm in zip(parts, norms, strict=True)]
        return np.concatenate(unit, axis=1) / np.sqrt(len(parts))

    def weigh(self, z: np.ndarray, power: float = 0.0, dimension: int | None = None) -> np.ndarray:
        """The first `dimension` columns of `z` (n, k), each multiplied by strength^power."""
        return z[:, :dimension] * self.strength[:dimension] ** power

    def weighted(self, power: float = 0.0, dimension: int | None = None) -> Alignment:
        """This alignment with the columns of both maps weighed (see `weigh`); ridge regression has none to weigh."""
        if self.method == "ridge":
            raise ValueError("ridge regression has no canonical columns to weigh or truncate")
        x_map, y_map = (self.weigh(side, power, dimension) for side in (self.x_map, self.y_map))
        return attrs.evolve(
            self, x_map=x_map, y_map=y_map, strength=self.strength[:dimension], groups=(x_map.shape[1],)
        )


@attrs.frozen(eq=False)
class Spectrum:
    """Scaled covariances of `Moments` and their eigenvectors: what fits with different ridges have in common."""

    moments: Moments
    scale_x: np.ndarray
    scale_y: np.ndarray
    values_x: np.ndarray
    values_y: np.ndarray
    basis_x: np.ndarray
    basis_y: np.ndarray
    cross: np.ndarray
    """(p, q) covariance of the scaled features."""

    @classmethod
    def of(cls, moments: Moments, standardize: bool = True) -> Spectrum:
        if moments.count < 2:
            raise DataError(f"{moments.count} pair: a closed-form alignment needs at least two")
        scale_x, scale_y = (_scale(m, moments.count, standardize) for m in (moments.xx, moments.yy))
        values_x, basis_x = _eigh(moments.xx / moments.count / np.outer(scale_x, scale_x))
        values_y, basis_y = _eigh(moments.yy / moments.count / np.outer(scale_y, scale_y))
        cross = moments.xy / moments.count / np.outer(scale_x, scale_y)
        return cls(moments, scale_x, scale_y, values_x, values_y, basis_x, basis_y, cross)

    def alignment(
        self, method: Method, x_map: np.ndarray, y_map: np.ndarray, strength: np.ndarray, groups: tuple[int, ...]
    ) -> Alignment:
        """Maps of scaled features as maps of the features themselves."""
        x_map, y_map = x_map / self.scale_x[:, None], y_map / self.scale_y[:, None]
        return Alignment(method, self.moments.mean_x, self.moments.mean_y, x_map, y_map, strength, groups)


def _scale(second: np.ndarray, count: int, standardize: bool) -> np.ndarray:
    """Standard deviations (d,), 1 for constant columns; all 1 without `standardize`."""
    deviation = np.sqrt(np.clip(np.diag(second) / count, 0.0, None))
    tiny = 1e-12 * max(float(deviation.max(initial=0.0)), 1e-300)
    return np.where(deviation > tiny, deviation, 1.0) if standardize else np.ones_like(deviation)


def _eigh(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values, basis = np.linalg.eigh((matrix + matrix.T) / 2)
    return np.clip(values, 0.0, None), basis


def _ridged(values: np.ndarray, ridge: float) -> np.ndarray:
    """Eigenvalues plus `ridge` times their mean; directions that stay at 0 are given an infinite one, so are unused."""
    damped = values + ridge * values.mean()
    return np.where(damped > 1e-12 * max(float(damped.max(initial=0.0)), 1e-300), damped, np.inf)


def cca(moments: Moments | Spectrum, ridge: float = 0.1) -> Alignment:
    """Regularised CCA: the SVD of (Cxx + r_x I)^-½ Cxy (Cyy + r_y I)^-½, r = `ridge` times the mean eigenvalue.

    `strength` holds the (regularised) canonical correlations. With `ridge=0` and more rows than columns this is
    classical CCA. Columns come unweighted: see `Alignment.weighted`.
    """
    s = moments if isinstance(moments, Spectrum) else Spectrum.of(moments)
    white_x = s.basis_x / np.sqrt(_ridged(s.values_x, ridge))
    white_y = s.basis_y / np.sqrt(_ridged(s.values_y, ridge))
    left, strength, right = np.linalg.svd(white_x.T @ s.cross @ white_y, full_matrices=False)
    strength = np.clip(strength, 0.0, 1.0)
    return s.alignment("cca", white_x @ left, white_y @ right.T, strength, (len(strength),))


def ridge_regression(
    moments: Moments | Spectrum, ridge: float = 0.1, direction: Literal["x->y", "y->x", "both"] = "both"
) -> Alignment:
    """Ridge regression of one side on the other; a score is the cosine of prediction and truth.

    "both" predicts both ways and averages the two cosines.
    """
    s = moments if isinstance(moments, Spectrum) else Spectrum.of(moments)
    forward = s.basis_x @ ((s.basis_x.T @ s.cross) / _ridged(s.values_x, ridge)[:, None])
    backward = s.basis_y @ ((s.basis_y.T @ s.cross.T) / _ridged(s.values_y, ridge)[:, None])
    p, q = s.cross.shape
    parts = {"x->y": (forward, np.eye(q)), "y->x": (np.eye(p), backward)}
    chosen = list(parts.values()) if direction == "both" else [parts[direction]]
    x_map, y_map = (np.concatenate([part[i] for part in chosen], axis=1) for i in (0, 1))
    return s.alignment("ridge", x_map, y_map, np.empty(0), tuple(part[0].shape[1] for part in chosen))


def procrustes(moments: Moments | Spectrum) -> Alignment:
    """The orthogonal maps that bring the centred x closest to y: both are rotated into the singular bases of Cxy.

    For equal widths, embed_x and embed_y differ by the rotation R = U Vᵀ that minimises |xR - y|² (and a common one).
    `strength` holds the singular values, relative to the largest.
    """
    s = moments if isinstance(moments, Spectrum) else Spectrum.of(moments)
    left, strength, right = np.linalg.svd(s.cross, full_matrices=False)
    strength = strength / max(float(strength.max(initial=0.0)), 1e-300)
    return s.alignment("procrustes", left, right.T, strength, (len(strength),))


@attrs.frozen(eq=False)
class Selected:
    """An alignment whose settings were chosen on validation data.

    Attributes:
        alignment: the maps, with weights and dimension applied.
        settings: what was chosen: "ridge" (c), "power" (p), "dimension".
        metrics: retrieval on the validation data, as `retrieval_both` names it, x being "x" and y "y".
        tried: every setting and its validation mean recall (percent), in the order of the search.
    """

    alignment: Alignment
    settings: dict[str, float]
    metrics: dict[str, float]
    tried: list[dict[str, float]]


def fit_select(
    x_train: Any,
    y_train: Any,
    x_val: Any,
    y_val: Any,
    *,
    samples_x_val: Ids | None = None,
    samples_y_val: Ids | None = None,
    method: Method = "cca",
    ridges: Sequence[float] = RIDGES,
    powers: Sequence[float] = POWERS,
    dimensions: Sequence[int] = DIMENSIONS,
    ks: Sequence[int] = KS,
    standardize: bool = True,
) -> Selected:
    """Fit on paired rows and choose ridge c, weight power p and dimension by mean recall on validation data.

    Args:
        x_train, y_train: (n, p), (n, q): row i of one is a pair with row i of the other (repeat rows where a sample
            has several items: `arrays.matched_rows` gives their indices).
        x_val, y_val: (m, p), (l, q) validation features.
        samples_x_val, samples_y_val: their sample ids; by position where absent.
        dimensions: tried where smaller than the full dimension, which is always tried.

    Of settings with equal mean recall, the one with the higher mean reciprocal rank wins, then the first tried.
    The best of many settings is a little too good on the data that chose it: report other data where there are any.
    Raises:
        DataError: fewer than two pairs, or no validation pair.
    """
    samples = (
        range(len(x_val)) if samples_x_val is None else samples_x_val,
        range(len(y_val)) if samples_y_val is None else samples_y_val,
    )
    spectrum = Spectrum.of(Moments.of(x_train, y_train), standardize)
    best = (-1.0, -1.0)
    chosen: Selected | None = None
    tried: list[dict[str, float]] = []
    for full, found_by in _fits(spectrum, method, ridges):
        # Weights and truncation act on columns: project the validation rows once a fit.
        x, y = full.project_x(x_val), full.project_y(y_val)
        for setting in _weightings(full, powers, dimensions):
            weighted = full.weighted(**setting) if setting else full
            z_x, z_y = (weighted.unit(full.weigh(z, **setting) if setting else z) for z in (x, y))
            metrics = describe_all(ranks_both(z_x, z_y, *samples, names=("x", "y")), ks)
            if "retrieval/mean/recall" not in metrics:
                raise DataError("no pair among the validation items: the settings of a closed form cannot be chosen")
            settings = found_by | setting
            recall = metrics["retrieval/mean/recall"]
            score = (recall, metrics["retrieval/x->y/MRR"] + metrics["retrieval/y->x/MRR"])
            tried.append(settings | {"recall": recall})
            if score > best:
                best, chosen = score, Selected(weighted, settings, metrics, tried)
    if chosen is None:
        raise ValueError("nothing to choose from: give at least one ridge and one power")
    return chosen


def _fits(spectrum: Spectrum, method: Method, ridges: Sequence[float]) -> Iterator[tuple[Alignment, dict[str, float]]]:
    """The costly part: one fit a ridge."""
    if method == "procrustes":
        yield procrustes(spectrum), {}
        return
    fit = cca if method == "cca" else ridge_regression
    for ridge in ridges:
        yield fit(spectrum, ridge), {"ridge": ridge}


def _weightings(full: Alignment, powers: Sequence[float], dimensions: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Every dimension and power of a fit; ridge regression has neither."""
    k = len(full.strength)
    if not k:
        yield {}
        return
    for dimension in [d for d in dimensions if d < k] + [k]:
        for power in powers:
            yield {"power": power, "dimension": dimension}
