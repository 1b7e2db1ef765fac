"""OT-EM CCA: canonical correlations from few pairs and large unmatched pools, by turns of matching and fitting.

A CCA of the pairs embeds the two pools; the entropic transport plan P between them (Sinkhorn and Knopp; Cuturi 2013)
says softly who could belong to whom; the cross-covariance XᵀPY of that soft matching, mixed with the one of the pairs,
gives the next CCA: an EM-like alternation (compare, for words, Alvarez-Melis and Jaakkola 2018 and Grave et al. 2019).
Covariances within a modality can be mixed with those of all rows, which needs no matching at all.
True mates in the pools are never used: P depends on the features alone, not on the order of a pool's rows.

The gain is large with few pairs, falls with their number and turns into a loss (validation shows it): a share of 0 is
always among the choices.

Shapes: N pairs of x (N, p) and y (N, q); pools (n, p) and (m, q).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor

from gentle_core.closed_form.linear import Alignment, Spectrum, cca
from gentle_core.closed_form.moments import Moments
from gentle_core.evaluate.arrays import as_array

SINKHORN_STEPS = 100


def sinkhorn_plan(similarity: Tensor, epsilon: float, steps: int = SINKHORN_STEPS, tolerance: float = 1e-3) -> Tensor:
    """The entropic transport plan (n, m) for uniform masses: the P that maximises ⟨P, S⟩ + ε·H(P).

    Args:
        similarity: S (n, m); the cost is its negative.
        epsilon: ε, in units of S.
        steps: alternations of rows and columns, at most.
        tolerance: relative error of the row sums at which they end. The columns sum to 1/m exactly.
    """
    n, m = similarity.shape
    # Scaled by rows in front: then no row underflows, and a column only where all its entries are far below the best.
    kernel = ((similarity - similarity.amax(dim=1, keepdim=True)) / epsilon).exp()
    tiny = torch.finfo(kernel.dtype).tiny
    right = kernel.new_full((m,), 1.0)
    rows = kernel @ right
    for _ in range(steps):
        left = 1.0 / n / rows.clamp_min(tiny)
        right = 1.0 / m / (left @ kernel).clamp_min(tiny)
        rows = kernel @ right
        if float((left * rows * n - 1).abs().max()) < tolerance:
            break
    return left[:, None] * kernel * right


@attrs.frozen
class OtEm:
    """Settings of OT-EM CCA.

    Attributes:
        share: l, of the pools in the cross-covariance; 0 is a CCA of the pairs (with mixed covariances).
        epsilon: ε of the transport plan.
        rounds: turns of matching and fitting.
        mixing: a, of all rows in the covariances within the modalities.
        ridge: r, times the mean eigenvalue.
        power, dimension: columns are weighted with their correlation to this power, the first ones kept (None: all).
    """

    share: float = 0.5
    epsilon: float = 0.04
    rounds: int = 5
    mixing: float = 0.5
    ridge: float = 3.0
    power: float = 2.0
    dimension: int | None = None

    def weigh(self, fitted: Alignment) -> Alignment:
        return fitted.weighted(self.power, self.dimension)


@attrs.define(eq=False)
class OtEmData:
    """What all settings have in common: moments of the pairs and of all rows, and the rows drawn from the pools."""

    pairs: Moments
    all_x: Moments
    all_y: Moments
    pool_x: np.ndarray
    pool_y: np.ndarray
    _spectra: dict[float, Spectrum] = attrs.field(factory=dict)

    @classmethod
    def of(cls, x: Any, y: Any, pool_x: Any, pool_y: Any, rows: int = 2000, seed: int = 0) -> OtEmData:
        """
        Args:
            x, y: features of the pairs, row by row.
            pool_x, pool_y: features of the unmatched pools, in any order and number.
            rows: largest number of rows of each pool in the matching (a draw of its own for each); covariances
                take all of them.
        """
        pairs = Moments.of(x, y)
        sides = ((x, pool_x), (y, pool_y))
        every = [_alone(side) + _alone(pool) if len(pool) else _alone(side) for side, pool in sides]
        drawn = []
        for number, pool in enumerate((pool_x, pool_y)):
            # A draw by content would be costly; by position it depends on the pool's order, not on the other pool.
            chosen = np.random.default_rng((seed, number)).permutation(len(pool))[:rows]
            drawn.append(as_array(pool[np.sort(chosen)]))
        return cls(pairs, every[0], every[1], drawn[0], drawn[1])

    def spectrum(self, mixing: float) -> Spectrum:
        """Covariances (1 − a)·pairs + a·all, with the cross-covariance of the pairs."""
        if mixing not in self._spectra:
            p, a, x, y = self.pairs, mixing, self.all_x, self.all_y
            self._spectra[mixing] = Spectrum.of_covariances(
                (1 - a) * p.mean_x + a * x.mean_x,
                (1 - a) * p.mean_y + a * y.mean_x,
                (1 - a) * p.xx / p.count + a * x.xx / x.count,
                (1 - a) * p.yy / p.count + a * y.xx / y.count,
                p.xy / p.count,
            )
        return self._spectra[mixing]


def _alone(side: Any) -> Moments:
    """Moments of one modality, as the x of `Moments`."""
    return Moments.of(side, np.empty((len(side), 0)))


def ot_em_rounds(data: OtEmData, settings: OtEm) -> Iterator[Alignment]:
    """The weighted CCA after 0, 1, … `rounds` turns. Without a pool on both sides, or a share of 0, only the first."""
    spectrum = data.spectrum(settings.mixing)
    pairs_xy = data.pairs.xy / data.pairs.count
    fitted = settings.weigh(cca(spectrum, settings.ridge, settings.dimension))
    yield fitted
    if not settings.share or not len(data.pool_x) or not len(data.pool_y):
        return
    x = data.pool_x - data.pool_x.mean(axis=0)
    y = torch.from_numpy(data.pool_y - data.pool_y.mean(axis=0)).float()
    for _ in range(settings.rounds):
        z_x, z_y = (torch.from_numpy(z).float() for z in (fitted.embed_x(data.pool_x), fitted.embed_y(data.pool_y)))
        moved = (sinkhorn_plan(z_x @ z_y.T, settings.epsilon) @ y).double().numpy()
        xy = (1 - settings.share) * pairs_xy + settings.share * (x.T @ moved)
        fitted = settings.weigh(cca(spectrum.with_cross(xy), settings.ridge, settings.dimension))
        yield fitted


def ot_em(data: OtEmData, settings: OtEm) -> Alignment:
    """OT-EM CCA with these settings."""
    *_, last = ot_em_rounds(data, settings)
    return last
