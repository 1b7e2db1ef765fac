"""How embeddings lie on the sphere: modality gap, alignment, uniformity, effective rank."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from gentle_core.evaluate.arrays import Ids, as_tensor, blocks, matched_rows


def modality_gap(u: Any, v: Any) -> float:
    """Distance of the centroids of `u` (m, d) and `v` (n, d): 0 when they coincide, 2 at opposite poles.

    Source: Liang et al. 2022, "Mind the Gap", section 4.
    """
    return float((as_tensor(u).double().mean(dim=0) - as_tensor(v).double().mean(dim=0)).norm())


def alignment(u: Any, v: Any, samples_u: Ids | None = None, samples_v: Ids | None = None) -> float:
    """Mean squared distance of the matched pairs; 0 is best, 2 is what independent directions give.

    Rows pair by sample id, in every combination, or by position where no ids are given. NaN without a pair.
    Source: Wang and Isola 2020, "Understanding Contrastive Representation Learning", eq. 4 with exponent 2.
    """
    u, v = as_tensor(u).double(), as_tensor(v).double()
    if samples_u is None or samples_v is None:
        return float((u - v).square().sum(dim=1).mean())
    left, right = matched_rows(samples_u, samples_v)
    total = 0.0
    for part in blocks(len(left), u.shape[1]):
        rows_u, rows_v = (torch.as_tensor(side[part], device=u.device) for side in (left, right))
        total += float((u[rows_u] - v[rows_v].to(u.device)).square().sum())
    return total / len(left) if len(left) else math.nan


def uniformity(z: Any, t: float = 2.0, block: int | None = None) -> float:
    """log of the mean of exp(-t |z_i - z_j|²) over the pairs i < j of `z` (n, d), streamed: lower is more uniform.

    0 when all rows are equal. NaN below two rows. Memory is O(block * n).
    Source: Wang and Isola 2020, eq. 5.
    """
    z = as_tensor(z).double()
    n = len(z)
    if n < 2:
        return math.nan
    squares = z.square().sum(dim=1)
    total = torch.tensor(-torch.inf, dtype=torch.float64, device=z.device)
    for part in blocks(n, n, block):
        rest = slice(part.start, n)  # the pairs below the diagonal were seen from the other side
        energy = (z[part] @ z[rest].T).mul_(2.0).sub_(squares[part, None]).sub_(squares[None, rest])
        energy.clamp_max_(0.0).mul_(t)
        b = len(energy)
        itself = torch.ones(b, b, dtype=torch.bool, device=z.device).tril_()  # and pairs that were seen already
        energy[:, :b].masked_fill_(itself, -torch.inf)
        top = energy.max()
        if top.isfinite():
            total = torch.logaddexp(total, energy.sub_(top).exp_().sum().log() + top)
    return float(total) - math.log(n * (n - 1) / 2)


def covariance(z: Any) -> Tensor:
    """Covariance (d, d) of the rows of `z` (n, d), divided by n, in float64."""
    z = as_tensor(z).double()
    centred = z - z.mean(dim=0)
    return centred.T @ centred / len(z)


def effective_rank(z: Any) -> float:
    """exp(entropy) of the covariance's normalised eigenvalues: between 1 and d, and 0 where all rows are equal.

    k directions of equal variance give exactly k. Roy and Vetterli 2007, "The Effective Rank", take the singular
    values of the matrix itself; we take the eigenvalues of the covariance, which are their squares after centring.
    """
    z = as_tensor(z).double()
    if not len(z):
        return 0.0
    eigenvalues = torch.linalg.eigvalsh(covariance(z)).clamp_min(0.0)
    total = float(eigenvalues.sum())
    # A variance that float32 rounding of the rows explains is no spread.
    if total <= 1e-13 * float(z.square().sum(dim=1).mean()):
        return 0.0
    share = eigenvalues / total
    return math.exp(float(-torch.xlogy(share, share).sum()))
