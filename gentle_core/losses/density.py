"""Semantic density distribution loss: L_SDD, Eqs. 3 to 6 of Gentle-CLIP.

Two sets of rows are alike when the points of each lie as densely in the other as among themselves. Eq. 4 compares
*normalised* densities and cannot see a shift between the sets: it goes with MK-MMD or with matched pairs.
Shapes: m and n rows of two sets T and R, d dimensions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gentle_core.batch import AlignBatch, BuildContext, LossContext, LossOut
from gentle_core.builtin import SddConfig
from gentle_core.losses.common import mean_over_pairs, tower_pairs
from gentle_core.losses.distances import squared_distances, total_variance
from gentle_core.losses.precision import full_precision, nothing
from gentle_core.modules import LossModule

FLOOR_ROWS = 4096
"""Up to so many pooled rows the null floor is computed at every training step; beyond, in evaluation only."""


@full_precision
def sdd(
    u: Tensor,
    v: Tensor,
    bandwidth: float = 1.0,
    normalise: bool = True,
    exclude_self: bool = False,
    detach_target: bool = False,
) -> Tensor:
    """½[Γ(U,V) + Γ(V,U)], the densities κ(x,T) ∝ Σ_i exp(−‖x−t_i‖²/(b²σ(T))) in log space throughout.

    σ(T), the total sample variance of T, carries gradient: that makes the loss exactly scale-invariant, where a
    detached σ would reward collapse. Identical sets give 0.

    Args:
        u, v: rows (m, d) and (n, d). With fewer than two rows a set has no variance, and the loss is exactly 0.
        bandwidth: b.
        normalise: Γ(T,R) is the divergence KL(p‖q) of p_i ∝ κ(t_i,T) and q_i ∝ κ(t_i,R) over the points of T. If
            False: the mean over i of (κ(t_i,T) − κ(t_i,R))·(log κ(t_i,T) − log κ(t_i,R)), Jeffreys' form of the raw
            densities with the constant 1/(2mb²π) of Eq. 5. It is never negative either, and does see a shift.
        exclude_self: leave the term of t_i itself out of κ(t_i,T).
        detach_target: κ(t_i,T) is a constant in Γ(T,R).

    Returns:
        A scalar.
    """
    if len(u) < 2 or len(v) < 2:
        return nothing(u, v)
    # Scale-invariant, so a common factor is free: it keeps σ far from underflow. A power of two loses no digits.
    size = torch.maximum(u.detach().abs().amax(), v.detach().abs().amax()).clamp_min(torch.finfo(u.dtype).tiny)
    factor = torch.exp2(-size.log2().round())
    u, v = u * factor, v * factor
    rate_u, rate_v = (-1 / (bandwidth**2 * variance(x)) for x in (u, v))
    between = squared_distances(u, v)
    gammas = []
    for inside, rate, across, other_rate in (
        (squared_distances(u), rate_u, between, rate_v),
        (squared_distances(v), rate_v, between.T, rate_u),
    ):
        within = inside * rate
        if exclude_self:
            within = within.masked_fill(torch.eye(len(within), dtype=torch.bool, device=u.device), -torch.inf)
        own, foreign = within.logsumexp(1), (across * other_rate).logsumexp(1)
        if not normalise:
            own = own - math.log(len(own) - exclude_self) - math.log(2 * bandwidth**2 * math.pi)
            foreign = foreign - math.log(across.shape[1]) - math.log(2 * bandwidth**2 * math.pi)
        gammas.append(gamma(own.detach() if detach_target else own, foreign, normalise))
    return torch.stack(gammas).mean()


def gamma(own: Tensor, foreign: Tensor, normalise: bool) -> Tensor:
    """Γ(T,R) of Eq. 4 from log κ(t_i,T) and log κ(t_i,R), both (m,).

    In float64 where the device has it: the divergence falls with the number of rows, the rounding of a float32
    normaliser does not, and of these vectors there are but four.
    """
    dtype = own.dtype
    if own.device.type != "mps":
        own, foreign = own.double(), foreign.double()
    if normalise:
        p, q = own.log_softmax(0), foreign.log_softmax(0)
        return (p.exp() * (p - q)).sum().to(dtype)
    return ((own.exp() - foreign.exp()) * (own - foreign)).mean().to(dtype)


def variance(x: Tensor) -> Tensor:
    """σ, but not below what rounding makes of a set whose rows are all the same, nor where 1/σ² would overflow."""
    kind = torch.finfo(x.dtype)
    resolution = (kind.eps * x.detach().norm(dim=1).mean()).square()
    return total_variance(x).clamp_min(resolution.clamp_min(kind.tiny**0.45))


@torch.no_grad()
def sdd_floor(u: Tensor, v: Tensor, bandwidth: float = 1.0, **options: bool) -> Tensor:
    """What `sdd` gives for two samples of one distribution: the pooled rows, dealt out at random into m and n."""
    deal = torch.randperm(len(u) + len(v), generator=torch.Generator().manual_seed(0)).to(u.device)
    pooled = torch.cat([u, v])[deal]
    return sdd(pooled[: len(u)], pooled[len(u) :], bandwidth, **options)


class Sdd(LossModule):
    """`core/sdd`: `sdd` averaged over tower pairs. Logs its null floor beside it."""

    def __init__(self, config: SddConfig):
        super().__init__()
        self.config = config

    def forward(self, batch: AlignBatch, ctx: LossContext) -> LossOut:
        c = self.config
        options = {"normalise": c.normalise, "exclude_self": c.exclude_self, "detach_target": c.detach_target}
        values, floors = {}, []
        for a, b in tower_pairs(batch, ctx):
            u, v = batch.towers[a].z, batch.towers[b].z
            values[a, b] = sdd(u, v, c.bandwidth, **options)
            if len(u) + len(v) <= FLOOR_ROWS or not ctx.training:
                floors.append(sdd_floor(u, v, c.bandwidth, **options))
        loss, logs = mean_over_pairs("sdd", values)
        if floors:
            logs["sdd_floor"] = torch.stack(floors).mean().item()
        for name, rows in batch.towers.items():
            if len(rows.z) > 1:
                logs[f"sigma/{name}"] = total_variance(rows.z.detach()).item()
        counts = sum(len(rows.z) for rows in batch.towers.values())
        return LossOut(loss, terms={"sdd": loss}, counts={"sdd": counts}, logs=logs)


def build(config: SddConfig, context: BuildContext) -> Sdd:
    return Sdd(config)
