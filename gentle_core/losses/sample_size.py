"""How large a batch must be to stand for its distribution: Eqs. 10 and 11 of Gentle-CLIP (its appendix E).

Two batches of one distribution are compared by the densities that each gives to the points of both. The smaller the
difference, the better a batch of that size represents the distribution, and the less of a density loss is noise.
Shapes: R draws, B rows, d dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import attrs
import numpy as np
import torch
from torch import Tensor

SIZES = tuple(2**k for k in range(1, 11))
CELLS = 2**22
"""How many cells are held at once."""


@attrs.frozen
class SamplePoint:
    """One size on the curve.

    Attributes:
        size: rows of a batch.
        gap: Eq. 10, averaged over draws.
        percent: the same in % of its value at two rows.
        floor: SDD between the two batches, averaged over draws: what the loss reads where there is nothing to learn.
        draws: how many pairs of batches were drawn.
    """

    size: int
    gap: float
    percent: float
    floor: float
    draws: int


def _squared(x: Tensor, y: Tensor) -> Tensor:
    """‖x_i−y_j‖² (R, B, B); float64 leaves enough digits."""
    cells = x.square().sum(-1)[..., :, None] + y.square().sum(-1)[..., None, :] - 2 * x @ y.mT
    return cells.clamp_min(0)


def _log_densities(t: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    """log Σ_j exp(−‖t_i−t_j‖²/σ(T)) and log Σ_j exp(−‖t_i−r_j‖²/σ(R)), (R, B) each."""

    def sums(x: Tensor, y: Tensor) -> Tensor:
        sigma = (y - y.mean(-2, keepdim=True)).square().sum((-1, -2)) / (y.shape[-2] - 1)
        return (-_squared(x, y) / sigma.clamp_min(1e-300)[..., None, None]).logsumexp(-1)

    return sums(t, t), sums(t, r)


def density_gap(t: Tensor, r: Tensor) -> Tensor:
    """Eq. 10: mean squared difference of the two batches' densities (Eq. 11) at the points of both.

    Args:
        t, r: (…, B, d) batches of the same size, at least two rows.

    Returns:
        (…,) in float64.
    """
    return _gap_and_floor(t.double(), r.double())[0]


def _gap_and_floor(t: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    gap, floor = t.new_zeros(t.shape[:-2]), t.new_zeros(t.shape[:-2])
    for x, y in ((t, r), (r, t)):
        own, foreign = _log_densities(x, y)
        scale = x.shape[-2] * math.pi
        gap = gap + ((own.exp() - foreign.exp()) / scale).square().mean(-1)
        p, q = own.log_softmax(-1), foreign.log_softmax(-1)
        floor = floor + (p.exp() * (p - q)).sum(-1) / 2
    return gap, floor


@torch.no_grad()
def sample_size_curve(
    z: Tensor | np.ndarray, sizes: Sequence[int] = SIZES, *, rows: int = 8192, seed: int = 0
) -> list[SamplePoint]:
    """Eq. 10 for batches of these sizes, drawn from the rows of `z`.

    Args:
        z: (N, d) embeddings of one modality. The two batches of a draw share no row, so sizes beyond N/2 are left out.
        sizes: rows of a batch, at least 2.
        rows: about how many rows a batch size is judged by in all: small batches are drawn more often.
        seed: of the draws.

    Raises:
        ValueError: fewer than four rows, or a size below two.
    """
    z = torch.as_tensor(z)
    if len(z) < 4:
        raise ValueError(f"{len(z)} rows: two batches of two rows need four")
    if min(sizes) < 2:
        raise ValueError("a batch of one row has no variance; sizes begin at 2")
    generator = torch.Generator().manual_seed(seed)
    points: list[SamplePoint] = []
    first = 0.0
    for size in sorted({2, *sizes}):
        if 2 * size > len(z):
            break
        draws = max(8, rows // size)
        sums = torch.zeros(2, dtype=torch.float64)
        at_once = max(1, CELLS // (size * size))
        for start in range(0, draws, at_once):
            count = min(at_once, draws - start)
            picked = torch.stack([torch.randperm(len(z), generator=generator)[: 2 * size] for _ in range(count)])
            t, r = z[picked.to(z.device)].double().split(size, dim=1)
            sums += torch.stack([value.sum().cpu() for value in _gap_and_floor(t, r)])
        gap, floor = (sums / draws).tolist()
        first = first or gap
        points.append(SamplePoint(size, gap, 100 * gap / first if first else 0.0, floor, draws))
    return [point for point in points if point.size in set(sizes)]


def enough(points: Sequence[SamplePoint], percent: float = 1.0) -> int | None:
    """The smallest size from which on the gap stays at or below `percent`; None where no size does."""
    found = None
    for point in reversed(points):
        if point.percent > percent:
            break
        found = point.size
    return found
