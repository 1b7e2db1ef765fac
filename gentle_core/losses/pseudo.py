"""Contrastive loss over pseudo-pairs: L_CL on rows that a teacher takes for mates, weighted by how sure it is.

Shapes: P pseudo-pairs of a batch, d dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gentle_core.batch import AlignBatch, BuildContext, LossContext, LossOut, ParamGroups
from gentle_core.builtin import PseudoPairsConfig
from gentle_core.losses.cells import Cells
from gentle_core.losses.common import CellLoss
from gentle_core.losses.precision import full_precision, nothing


@full_precision
def weighted_clip_loss(
    u: Tensor, v: Tensor, logit_scale: Tensor | float, weight: Tensor, *, tile: int | str = "auto", group: Any = None
) -> Tensor:
    """Symmetric InfoNCE of which pair i counts `weight[i]`; its negatives are the other pairs, whatever they weigh.

    Args:
        u, v: unit rows (P, d); row i of one belongs to row i of the other.
        logit_scale: s = 1/τ itself.
        weight: (P,) non-negative.
        tile, group: see `Cells`.

    Returns:
        Σ w_i (ℓ_i + ℓ'_i) / (2 Σ w_i) over both directions' cross-entropies; exactly 0 where nothing weighs anything.
    """
    cells = Cells(tile, group)
    scale = torch.as_tensor(logit_scale, dtype=u.dtype, device=u.device)
    finish = ask_weighted(cells, u, v, scale, weight, torch.arange(len(u), device=u.device))
    cells.run()
    return finish()


def ask_weighted(
    cells: Cells, u: Tensor, v: Tensor, scale: Tensor, weight: Tensor, mate: Tensor
) -> Callable[[], Tensor]:
    """`weighted_clip_loss` as wishes to a plan; `mate[i]` is the row of v that belongs to row i of u."""
    if not len(u) or not float(weight.sum()) > 0:
        return lambda: nothing(u, v, scale)
    i = torch.arange(len(u), device=u.device)
    kernel = cells.between(u, v).kernel(scale, product=True).ask("rows", "columns").pick(i, mate)

    def finish() -> Tensor:
        share = (weight / weight.sum()).to(kernel.picked.dtype)
        halves = [sums.cross_entropy(kernel.picked) for sums in (kernel.rows[i], kernel.columns[mate])]
        return ((halves[0] + halves[1]) / 2 * share).sum().to(u.dtype)

    return finish


class PseudoPairs(CellLoss):
    """`core/pseudo-pairs`: `weighted_clip_loss` on the batch's pseudo-pairs, with a logit scale of its own."""

    def __init__(self, config: PseudoPairsConfig):
        super().__init__()
        self.largest = math.log(config.max_scale)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(config.temperature)), config.learn_temperature)

    def ask(self, batch: AlignBatch, ctx: LossContext, cells: Cells) -> Callable[[], LossOut]:
        scale = self.log_scale.clamp(max=self.largest).exp()
        sides = list(batch.pseudo.values())
        if len(sides) != 2 or not len(sides[0].ids):
            rows = [r.z for r in batch.towers.values()]

            def empty() -> LossOut:
                loss = nothing(*rows, scale)
                return LossOut(loss, terms={"pseudo": loss}, counts={"pseudo": 0})

            return empty
        left, right = sides
        u, v = cells.rows(left.z), cells.rows(right.z)
        order_u, order_v = left.ids.argsort(), right.ids.argsort()
        mate = torch.empty_like(order_v)
        mate[order_u] = order_v
        value = ask_weighted(cells, u, v, scale.to(u.dtype), left.extras["weight"].to(u.dtype), mate)

        def finish() -> LossOut:
            loss = value()
            logs = {"pseudo_logit_scale": scale.item(), "pseudo_weight": float(left.extras["weight"].mean())}
            return LossOut(loss, terms={"pseudo": loss}, counts={"pseudo": len(left.ids)}, logs=logs)

        return finish

    def param_groups(self) -> ParamGroups:
        return ParamGroups(min=[p for p in self.parameters() if p.requires_grad])

    @torch.no_grad()
    def post_step(self, ctx: LossContext) -> None:
        self.log_scale.clamp_(max=self.largest)


def build(config: PseudoPairsConfig, context: BuildContext) -> PseudoPairs:
    return PseudoPairs(config)
