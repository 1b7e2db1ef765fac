"""Semantic density distribution loss: L_SDD, Eqs. 3 to 6 of Gentle-CLIP.

Two sets of rows are alike when the points of each lie as densely in the other as among themselves. Eq. 4 compares
*normalised* densities and cannot see a shift between the sets: it goes with MK-MMD or with matched pairs.
Shapes: m and n rows of two sets T and R, d dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gentle_core.batch import AlignBatch, BuildContext, LossContext, LossOut
from gentle_core.builtin import SddConfig
from gentle_core.losses.cells import Cells, LogSum
from gentle_core.losses.common import CellLoss, mean_over_pairs, tower_pairs
from gentle_core.losses.distances import total_variance
from gentle_core.losses.precision import full_precision, nothing

FLOOR_ROWS = 4096
"""Up to so many pooled rows the null floor is computed in training too; beyond, in evaluation only."""


@full_precision
def sdd(
    u: Tensor,
    v: Tensor,
    bandwidth: float = 1.0,
    normalise: bool = True,
    exclude_self: bool = False,
    detach_target: bool = False,
    *,
    tile: int | str = "auto",
    group: Any = None,
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
        tile, group: see `Cells`.

    Returns:
        A scalar.
    """
    cells = Cells(tile, group)
    finish = ask_sdd(cells, u, v, bandwidth, normalise, exclude_self, detach_target)
    cells.run()
    return finish()


def ask_sdd(
    cells: Cells,
    u: Tensor,
    v: Tensor,
    bandwidth: float = 1.0,
    normalise: bool = True,
    exclude_self: bool = False,
    detach_target: bool = False,
) -> Callable[[], Tensor]:
    """`sdd` as wishes to a plan, and what to do with the answers."""
    if len(u) < 2 or len(v) < 2:
        return lambda: nothing(u, v)
    rate_u, rate_v = (_rate(x, bandwidth) for x in (u, v))
    own_u = cells.within(u).kernel(rate_u, diagonal=not exclude_self).ask("rows")
    own_v = cells.within(v).kernel(rate_v, diagonal=not exclude_self).ask("rows")
    u_in_v = cells.between(u, v).kernel(rate_v).ask("rows")
    v_in_u = cells.between(u, v).kernel(rate_u).ask("columns")

    def log_density(log_sums: LogSum, rows: int) -> Tensor:
        # Normalised, the constant of Eq. 5 cancels.
        return log_sums.value if normalise else log_sums.value - math.log(2 * rows * bandwidth**2 * math.pi)

    def finish() -> Tensor:
        gammas = []
        for own, t, foreign, r in ((own_u.rows, u, u_in_v.rows, v), (own_v.rows, v, v_in_u.columns, u)):
            p = log_density(own, len(t) - exclude_self)
            gammas.append(_gamma(p.detach() if detach_target else p, log_density(foreign, len(r)), normalise))
        return torch.stack(gammas).mean().to(u.dtype)

    return finish


def _gamma(own: Tensor, foreign: Tensor, normalise: bool) -> Tensor:
    """Γ(T,R) of Eq. 4 from log κ(t_i,T) and log κ(t_i,R), both (m,).

    They come in float64: the divergence falls with the number of rows, a float32 normaliser's rounding does not.
    """
    if normalise:
        p, q = own.log_softmax(0), foreign.log_softmax(0)
        return (p.exp() * (p - q)).sum()
    return ((own.exp() - foreign.exp()) * (own - foreign)).mean()


def _rate(x: Tensor, bandwidth: float) -> Tensor:
    """1/(b²σ); σ not below what rounding makes of a set whose rows are all the same, nor where 1/σ would overflow."""
    kind = torch.finfo(x.dtype)
    resolution = (kind.eps * x.detach().norm(dim=1).mean()).square()
    sigma = total_variance(x).clamp_min(resolution.clamp_min(kind.tiny**0.45))
    return (-sigma.log()).exp() / bandwidth**2


@torch.no_grad()
def sdd_floor(u: Tensor, v: Tensor, bandwidth: float = 1.0, **options: Any) -> Tensor:
    """What `sdd` gives for two samples of one distribution: the pooled rows, dealt out at random into m and n."""
    deal = torch.randperm(len(u) + len(v), generator=torch.Generator().manual_seed(0)).to(u.device)
    pooled = torch.cat([u, v])[deal]
    return sdd(pooled[: len(u)], pooled[len(u) :], bandwidth, **options)


class Sdd(CellLoss):
    """`core/sdd`: `sdd` averaged over tower pairs. Logs its null floor beside it."""

    needs = frozenset({"unpaired"})

    def __init__(self, config: SddConfig):
        super().__init__()
        self.config = config

    def ask(self, batch: AlignBatch, ctx: LossContext, cells: Cells) -> Callable[[], LossOut]:
        c = self.config
        options = {"normalise": c.normalise, "exclude_self": c.exclude_self, "detach_target": c.detach_target}
        asked, floors = {}, []
        for a, b in tower_pairs(batch, ctx):
            u, v = (cells.rows(batch.towers[name].z) for name in (a, b))
            asked[a, b] = ask_sdd(cells, u, v, c.bandwidth, **options)
            if ctx.logs and (len(u) + len(v) <= FLOOR_ROWS or not ctx.training):
                floors.append(sdd_floor(u, v, c.bandwidth, tile=ctx.tile, group=ctx.group, **options))

        def finish() -> LossOut:
            loss, logs = mean_over_pairs("sdd", {pair: value() for pair, value in asked.items()})
            if floors:
                logs["sdd_floor"] = torch.stack(floors).mean().item()
            for name, rows in batch.towers.items():
                if ctx.logs and len(rows.z) > 1:
                    logs[f"sigma/{name}"] = total_variance(rows.z.detach().float()).item()
            counts = sum(len(rows.z) for rows in batch.towers.values())
            return LossOut(loss, terms={"sdd": loss}, counts={"sdd": counts}, logs=logs)

        return finish


def build(config: SddConfig, context: BuildContext) -> Sdd:
    return Sdd(config)
