"""Distances and inner products from one matrix product, without losing the small ones.

Shapes: m and n rows of two sets x and y, d dimensions.
"""

from __future__ import annotations

import functools
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor

from gentle_core.losses.precision import full_precision

CENTRE_ROWS = 256
MEDIAN_ROWS = 1024
SLAB = 1024


def spread(most: int, x: Tensor, *more: Tensor) -> Tensor:
    """At most `most` evenly spaced rows of the sets, one after the other."""
    sets, count = (x, *more), len(x) + sum(map(len, more))
    if count <= most:
        return torch.cat(sets) if more else x
    rows = torch.arange(most, device=x.device) * count // most
    found = []
    for z in sets:
        found.append(z[rows[(rows >= 0) & (rows < len(z))]])
        rows = rows - len(z)
    return torch.cat(found)


@attrs.define(eq=False)
class Place:
    """Where a set lies.

    Attributes:
        point: (d,) amid its rows: the median of each coordinate, over evenly spaced rows (a mean is drawn away from a
            cluster by what lies outside).
        width: median squared distance from there.
        reach: largest norm.

    Point and width are empty where no distances are wanted.
    """

    point: Tensor
    width: Tensor
    reach: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, x: Tensor, distances: bool = True) -> Place:
        reach = squared_norms(x).max().sqrt()
        if not distances:
            return cls(x.new_empty(0), x.new_empty(0), reach)
        rows = spread(CENTRE_ROWS, x)
        point = median(rows.T)
        return cls(point, median(squared_norms(rows - point)), reach)


@attrs.define(eq=False)
class Centred:
    """Two sets (or one and itself) about a common point c, and what turns x'·y' into distances and inner products.

    ‖x−y‖² = ‖x'‖² + ‖y'‖² − 2x'·y' loses digits in proportion to the norms, so c lies amid the tighter set, whose
    norms are then small: in a tight cone, where all uncentred products agree in the leading digits, above all.

    Attributes:
        x, y: rows x' (m, d) and y' (n, d); the same tensor for one set and itself.
        point: c (d,), without gradient. None where no distances are wanted: x' and y' are then x and y.
        minus_norm_x, minus_norm_y: −‖x'‖² and −‖y'‖²; D_ij = −‖x_i−y_j‖² is 2x'·y' plus these.
        along_x, along_y: x_i·y_j is x'·y' plus these.
        reach: no |x_i·y_j| is larger.
    """

    x: Tensor
    y: Tensor
    point: Tensor | None
    minus_norm_x: Tensor
    minus_norm_y: Tensor
    along_x: Tensor
    along_y: Tensor
    reach: Tensor


def centred(x: Tensor, y: Tensor | None, place_x: Place, place_y: Place, distances: bool = True) -> Centred:
    """Centre two sets, or (y None) one set for products with itself; if there are no distances, leave them."""
    point, reach = place_x.point, place_x.reach * place_y.reach
    if not distances:
        none = point[:0]
        return Centred(x, x if y is None else y, None, none, none, none, none, reach)
    if y is None:
        near = x - point
        norms, along = -squared_norms(near), near @ point + point @ point / 2
        return Centred(near, near, point, norms, norms, along, along, reach)
    tighter = place_y.width < place_x.width
    point = torch.where(tighter, place_y.point, point)
    near_x, near_y = x - point, y - point
    # x·y = x'·y' + x·c + c·y', or + x'·c + c·y: in the tighter set the centred product, which is small and exact there
    along_x = torch.where(tighter, x @ point, near_x @ point)
    along_y = torch.where(tighter, near_y @ point, y @ point)
    return Centred(near_x, near_y, point, -squared_norms(near_x), -squared_norms(near_y), along_x, along_y, reach)


def squared_norms(x: Tensor) -> Tensor:
    """‖x_i‖², (m,); slab by slab, so that no whole copy of `x` is made."""
    return torch.cat([part.square().sum(1) for part in x.split(SLAB)])


@torch.no_grad()
@full_precision
def median_bandwidth(u: Tensor, v: Tensor) -> Tensor:
    """The median heuristic: the median distance h between two different rows of the pooled sets, detached.

    Taken over at most 1,024 evenly spaced pooled rows, half a million distances. Where more than half of the
    distances are 0, the root mean square takes the median's place, and 1 where all are 0.
    """
    pooled = spread(MEDIAN_ROWS, u, v)
    if len(pooled) < 2:
        return pooled.new_ones(())
    place = Place.of(pooled)
    c = centred(pooled, None, place, place)
    cells = (c.x @ c.x.T).mul_(-2).sub_(c.minus_norm_x[:, None]).sub_(c.minus_norm_x).clamp_min_(0)
    cells = cells.view(-1).index_select(0, _above_diagonal(len(pooled), str(pooled.device)))
    middle, mean = median(cells), cells.mean()
    squared = torch.where(middle > 0, middle, torch.where(mean > 0, mean, torch.ones_like(mean)))
    return squared.sqrt()


@functools.lru_cache(maxsize=4)
def _above_diagonal(count: int, device: str) -> Tensor:
    """Where the cells above the diagonal of a table (count, count) lie in its memory, row by row."""
    row, column = torch.triu_indices(count, count, 1, device=device)
    return row * count + column


def median(x: Tensor) -> Tensor:
    """Along the last axis, the lower of two middle values, without a graph; NaN where there is one.

    The same values as `torch.median`, but on a processor NumPy finds them several times as fast.
    """
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64):
        return x.median(dim=-1).values
    values = np.ascontiguousarray(x.detach().numpy())
    middle = np.partition(values, (x.shape[-1] - 1) // 2, axis=-1)[..., (x.shape[-1] - 1) // 2]
    top = values.max(axis=-1)
    return torch.from_numpy(np.where(np.isnan(top), top, middle))


class _TotalVariance(torch.autograd.Function):
    """With a graph of its own: autograd's would keep two copies of x, and take several times as long."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        mean = x.mean(0)
        return sum((squared_norms(part - mean).sum() for part in x.split(SLAB)), x.new_zeros(())) / (len(x) - 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return (x - x.mean(0)) * (2 * gradient / (len(x) - 1))


def total_variance(x: Tensor) -> Tensor:
    """Sample variance summed over the dimensions, with Bessel's correction (Eq. 6); needs two rows."""
    return _TotalVariance.apply(x)
