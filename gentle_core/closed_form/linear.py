"""Linear maps of two modalities into a common space: regularised CCA, ridge regression and orthogonal Procrustes.

All three need only the pairs' means and covariances (`moments`), so a fit takes a second whatever the number of rows.
On few pairs they are hard to beat, which makes them the baseline that every run should stand beside.
Features are centred, and by default scaled to unit variance, with training statistics.

Sources: Hotelling 1936 (CCA); Vinod 1976 (the ridge in it); Schönemann 1966 (Procrustes). Weighting the canonical
columns by a power of their correlations: Gong et al. 2014, "A Multi-View Embedding Space for Modeling Internet Images".
"""

from __future__ import annotations

from typing import Any, Literal

import attrs
import numpy as np
import scipy.linalg

from gentle_core.closed_form.moments import Moments
from gentle_core.errors import DataError
from gentle_core.evaluate.arrays import as_array

Method = Literal["cca", "ridge", "procrustes"]


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
    """Scaled covariances of two modalities and their eigenvectors: what fits with different ridges have in common."""

    mean_x: np.ndarray
    mean_y: np.ndarray
    scale_x: np.ndarray
    scale_y: np.ndarray
    values_x: np.ndarray
    values_y: np.ndarray
    basis_x: np.ndarray
    basis_y: np.ndarray
    cross: np.ndarray
    """(p, q) covariance of the scaled features."""
    turned: np.ndarray = attrs.field(init=False)
    """(p, q) the same between the eigenvectors."""

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "turned", self.basis_x.T @ self.cross @ self.basis_y)

    @classmethod
    def of(cls, moments: Moments, standardize: bool = True) -> Spectrum:
        if moments.count < 2:
            raise DataError(f"{moments.count} pair: a closed-form alignment needs at least two")
        n = moments.count
        return cls.of_covariances(
            moments.mean_x, moments.mean_y, moments.xx / n, moments.yy / n, moments.xy / n, standardize
        )

    @classmethod
    def of_covariances(
        cls,
        mean_x: np.ndarray,
        mean_y: np.ndarray,
        xx: np.ndarray,
        yy: np.ndarray,
        xy: np.ndarray,
        standardize: bool = True,
    ) -> Spectrum:
        """From covariances (p, p), (q, q), (p, q), which need not come from the same rows."""
        scale_x, scale_y = (_scale(side, standardize) for side in (xx, yy))
        values_x, basis_x = _eigh(xx / np.outer(scale_x, scale_x))
        values_y, basis_y = _eigh(yy / np.outer(scale_y, scale_y))
        cross = xy / np.outer(scale_x, scale_y)
        return cls(mean_x, mean_y, scale_x, scale_y, values_x, values_y, basis_x, basis_y, cross)

    @property
    def used(self) -> tuple[np.ndarray, np.ndarray]:
        """Which eigenvectors (p,), (q,) the cross-covariance knows of: few, with fewer pairs than features."""
        found = []
        for axis in (1, 0):
            size = np.linalg.norm(self.turned, axis=axis)
            found.append(size > 1e-12 * max(float(size.max(initial=0.0)), 1e-300))
        return found[0], found[1]

    def with_cross(self, xy: np.ndarray) -> Spectrum:
        """The same sides with another cross-covariance (p, q) of the unscaled features."""
        return attrs.evolve(self, cross=xy / np.outer(self.scale_x, self.scale_y))

    def alignment(
        self, method: Method, x_map: np.ndarray, y_map: np.ndarray, strength: np.ndarray, groups: tuple[int, ...]
    ) -> Alignment:
        """Maps of scaled features as maps of the features themselves."""
        x_map, y_map = x_map / self.scale_x[:, None], y_map / self.scale_y[:, None]
        return Alignment(method, self.mean_x, self.mean_y, x_map, y_map, strength, groups)


def _scale(covariance: np.ndarray, standardize: bool) -> np.ndarray:
    """Standard deviations (d,), 1 for constant columns; all 1 without `standardize`."""
    deviation = np.sqrt(np.clip(np.diag(covariance), 0.0, None))
    tiny = 1e-12 * max(float(deviation.max(initial=0.0)), 1e-300)
    return np.where(deviation > tiny, deviation, 1.0) if standardize else np.ones_like(deviation)


def _eigh(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values, basis = np.linalg.eigh((matrix + matrix.T) / 2)
    return np.clip(values, 0.0, None), basis


def _ridged(values: np.ndarray, ridge: float) -> np.ndarray:
    """Eigenvalues plus `ridge` times their mean; directions that stay at 0 are given an infinite one, so are unused."""
    damped = values + ridge * values.mean()
    return np.where(damped > 1e-12 * max(float(damped.max(initial=0.0)), 1e-300), damped, np.inf)


def cca(moments: Moments | Spectrum, ridge: float = 0.1, dimension: int | None = None) -> Alignment:
    """Regularised CCA: the SVD of (Cxx + r_x I)^-½ Cxy (Cyy + r_y I)^-½, r = `ridge` times the mean eigenvalue.

    `strength` holds the (regularised) canonical correlations. With `ridge=0` and more rows than columns this is
    classical CCA. Columns come unweighted: see `Alignment.weighted`.

    Args:
        dimension: how many columns to find, for fits in a loop: fewer than there are cost less. They then come from
            eigenvectors of the smaller Gram matrix, so that correlations below 1e-6 of the first one are left out.
    """
    s = moments if isinstance(moments, Spectrum) else Spectrum.of(moments)
    used_x, used_y = s.used
    root_x, root_y = np.sqrt(_ridged(s.values_x, ridge))[used_x], np.sqrt(_ridged(s.values_y, ridge))[used_y]
    white_x, white_y = s.basis_x[:, used_x] / root_x, s.basis_y[:, used_y] / root_y
    whitened = s.turned[np.ix_(used_x, used_y)] / root_x[:, None] / root_y
    if dimension is not None and dimension < min(whitened.shape):
        left, strength, right = _leading(whitened, dimension)
    else:
        left, strength, right = np.linalg.svd(whitened, full_matrices=False)
    strength = np.clip(strength, 0.0, 1.0)
    return s.alignment("cca", white_x @ left, white_y @ right.T, strength, (len(strength),))


def _leading(matrix: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The first `count` singular triples of (p, q), as `np.linalg.svd` gives them."""
    if matrix.shape[0] < matrix.shape[1]:
        right, strength, left = _leading(matrix.T, count)
        return left.T, strength, right.T
    q = matrix.shape[1]
    squares, vectors = scipy.linalg.eigh(matrix.T @ matrix, subset_by_index=(q - count, q - 1))
    strength, vectors = np.sqrt(np.clip(squares[::-1], 0.0, None)), vectors[:, ::-1]
    kept = strength > 1e-6 * max(float(strength[0]), 1e-300)
    strength, vectors = strength[kept], vectors[:, kept]
    return matrix @ vectors / strength, strength, vectors.T


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
