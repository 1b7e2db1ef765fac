"""Distances and inner products from one matrix product, without losing the small ones.

Shapes: m and n rows of two sets x and y, d dimensions.
"""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from gentle_core.losses.precision import full_precision

CENTRE_ROWS = 256
MEDIAN_ROWS = 1024
SLAB = 1024


def spread(x: Tensor, most: int) -> Tensor:
    """At most `most` evenly spaced rows of `x`."""
    if len(x) <= most:
        return x
    return x[torch.arange(most, device=x.device) * len(x) // most]


@attrs.define(eq=False)
class Place:
    """Where a set lies.

    Attributes:
        point: (d,) amid its rows: the median of each coordinate, over evenly spaced rows (a mean is drawn away from a
            cluster by what lies outside).
        width: median squared distance from there.
        reach: largest norm.
    """

    point: Tensor
    width: Tensor
    reach: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, x: Tensor) -> Place:
        rows = spread(x, CENTRE_ROWS)
        point = rows.median(dim=0).values
        return cls(point, squared_norms(rows - point).median(), squared_norms(x).max().sqrt())


@attrs.define(eq=False)
class Centred:
    """Two sets (or one and itself) about a common point c, and what turns x'·y' into distances and inner products.

    ‖x−y‖² = ‖x'‖² + ‖y'‖² − 2x'·y' loses digits in proportion to the norms, so c lies amid the tighter set, whose
    norms are then small: in a tight cone, where all uncentred products agree in the leading digits, above all.

    Attributes:
        x, y: rows (m, d) and (n, d), not yet centred; the same tensor for one set and itself.
        point: c (d,), without gradient.
        minus_norm_x, minus_norm_y: −‖x'‖² and −‖y'‖²; D_ij = −‖x_i−y_j‖² is 2x'·y' plus these.
        along_x, along_y: x_i·y_j is x'·y' plus these.
        reach: no |x_i·y_j| is larger.
    """

    x: Tensor
    y: Tensor
    point: Tensor
    minus_norm_x: Tensor
    minus_norm_y: Tensor
    along_x: Tensor
    along_y: Tensor
    reach: Tensor

    def near_x(self, rows: slice = slice(None)) -> Tensor:
        """x' of some rows."""
        return self.x[rows] - self.point

    def near_y(self, rows: slice = slice(None)) -> Tensor:
        """y' of some rows."""
        return self.y[rows] - self.point


def centred(x: Tensor, y: Tensor | None, place_x: Place, place_y: Place) -> Centred:
    """Centre two sets, or (y None) one set for products with itself."""
    point, reach = place_x.point, place_x.reach * place_y.reach
    if y is None:
        norms, along = _about(x, point)
        along = along + point @ point / 2
        return Centred(x, x, point, norms, norms, along, along, reach)
    tighter = place_y.width < place_x.width
    point = torch.where(tighter, place_y.point, point)
    norms_x, along_x = _about(x, point)
    norms_y, along_y = _about(y, point)
    # x·y = x'·y' + x·c + c·y', or + x'·c + c·y: in the tighter set the centred product, which is small and exact there
    along_x, along_y = torch.where(tighter, x @ point, along_x), torch.where(tighter, along_y, y @ point)
    return Centred(x, y, point, norms_x, norms_y, along_x, along_y, reach)


def _about(x: Tensor, point: Tensor) -> tuple[Tensor, Tensor]:
    """−‖x'‖² and x'·c, (m,) each; slab by slab, so that no whole copy of `x` is made."""
    norms, along = [], []
    for start in range(0, len(x), SLAB):
        near = x[start : start + SLAB] - point
        norms.append(-squared_norms(near))
        along.append(near @ point)
    return torch.cat(norms), torch.cat(along)


def squared_norms(x: Tensor) -> Tensor:
    """‖x_i‖², (m,), without a copy of x."""
    return torch.einsum("id,id->i", x, x)


@torch.no_grad()
@full_precision
def median_bandwidth(u: Tensor, v: Tensor) -> Tensor:
    """The median heuristic: the median distance h between two different rows of the pooled sets, detached.

    Taken over at most 1,024 evenly spaced pooled rows, half a million distances. Where more than half of the
    distances are 0, the root mean square takes the median's place, and 1 where all are 0.
    """
    pooled = spread(torch.cat([u, v]), MEDIAN_ROWS)
    if len(pooled) < 2:
        return pooled.new_ones(())
    place = Place.of(pooled)
    c = centred(pooled, None, place, place)
    near = c.near_x()
    cells = (near @ near.T).mul_(-2).sub_(c.minus_norm_x[:, None]).sub_(c.minus_norm_x).clamp_min_(0)
    number = torch.arange(len(pooled), device=pooled.device)
    cells = cells.masked_select(number[:, None] < number)
    median, mean = cells.median(), cells.mean()
    squared = torch.where(median > 0, median, torch.where(mean > 0, mean, torch.ones_like(mean)))
    return squared.sqrt()


def total_variance(x: Tensor) -> Tensor:
    """Sample variance summed over the dimensions, with Bessel's correction (Eq. 6); needs two rows."""
    return (x - x.mean(0)).square().sum() / (len(x) - 1)
