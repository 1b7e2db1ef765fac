"""Squared distances from one matrix product, without losing the small ones.

Shapes: B rows, m and n rows of two sets, d dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gentle_core.losses.precision import full_precision

CENTRE_ROWS = 1024
MEDIAN_ROWS = 2048


def spread(count: int, most: int) -> Tensor:
    """Indices of at most `most` evenly spaced rows of `count`."""
    if count <= most:
        return torch.arange(count)
    return torch.arange(most) * count // most


def centre(*sets: Tensor) -> Tensor:
    """A point (d,) amid the rows of the sets: the median of each coordinate, over evenly spaced rows, detached.

    ‖x−y‖² = ‖x‖² + ‖y‖² − 2x·y loses digits in proportion to ‖x‖² + ‖y‖², so rows are centred first: a tight cone
    then has small norms. A median, since a mean is drawn away from a cluster by the rows outside it.
    """
    pooled = torch.cat([x.detach()[spread(len(x), CENTRE_ROWS).to(x.device)] for x in sets])
    return pooled.median(dim=0).values


def squared_distances(x: Tensor, y: Tensor | None = None) -> Tensor:
    """‖x_i − y_j‖² as (m, n), never negative; among the rows of `x` alone, with an exact zero diagonal, as (m, m)."""
    if y is None:
        x = x - centre(x)
        norms = x.square().sum(1)
        cells = (norms[:, None] + norms[None, :] - 2 * (x @ x.T)).clamp_min(0)
        return cells.masked_fill(torch.eye(len(x), dtype=torch.bool, device=x.device), 0)
    middle = centre(x, y)
    x, y = x - middle, y - middle
    return (x.square().sum(1)[:, None] + y.square().sum(1)[None, :] - 2 * (x @ y.T)).clamp_min(0)


@torch.no_grad()
@full_precision
def median_bandwidth(u: Tensor, v: Tensor) -> Tensor:
    """The median heuristic: the median distance h between two different rows of the pooled sets, detached.

    Taken over at most 2,048 evenly spaced pooled rows, about two million distances. Where more than half of the
    distances are 0, the root mean square takes the median's place, and 1 where all are 0.
    """
    pooled = torch.cat([u, v])
    pooled = pooled[spread(len(pooled), MEDIAN_ROWS).to(pooled.device)]
    if len(pooled) < 2:
        return pooled.new_ones(())
    cells = squared_distances(pooled)
    row, column = torch.triu_indices(len(pooled), len(pooled), offset=1, device=pooled.device)
    cells = cells[row, column]
    median, mean = cells.median(), cells.mean()
    squared = torch.where(median > 0, median, torch.where(mean > 0, mean, torch.ones_like(mean)))
    return squared.sqrt()


def total_variance(x: Tensor) -> Tensor:
    """Sample variance summed over the dimensions, with Bessel's correction (Eq. 6); needs two rows."""
    return x.var(dim=0).sum()
