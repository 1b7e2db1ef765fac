"""Soft labels from intra-modal neighbours: an unmatched row takes its cross-modal target from the pairs it resembles.

In its own modality an unmatched row is near some matched rows; their mates are what it should be near in the other
modality. The targets are a softmax over the batch's matched rows (compare Mo et al. 2023, S-CLIP, whose soft
pseudo-labels do this for images); no mate of the row itself is needed or used.

Shapes: m unmatched rows, n pairs, d dimensions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gentle_core.batch import AlignBatch, BuildContext, LossContext, LossOut
from gentle_core.builtin import NeighboursConfig
from gentle_core.losses.cells import Cells
from gentle_core.losses.clip import shared_groups
from gentle_core.losses.common import mean_over_pairs, tower_pairs
from gentle_core.losses.klot import first_of_each
from gentle_core.losses.plans import soft_averages
from gentle_core.losses.precision import exact, full_precision, nothing
from gentle_core.modules import LossModule


@full_precision
def neighbour_loss(
    rows: Tensor,
    anchors: Tensor,
    mates: Tensor,
    temperature: float = 0.07,
    target_temperature: float = 0.1,
    by: tuple[Tensor, Tensor] | None = None,
    *,
    tile: int | str = "auto",
    group: Any = None,
) -> Tensor:
    """Mean cross-entropy between softmax(rows·anchorsᵀ/τ*), a constant, and softmax(rows·matesᵀ/τ).

    Args:
        rows: unit rows (m, d) of one modality without mates.
        anchors, mates: unit rows (n, d) of the pairs, in that modality and in the other.
        temperature, target_temperature: τ and τ*.
        by: other rows (m, e) and anchors (n, e) from which the targets are made, such as frozen features.
        tile, group: see `Cells`.

    Returns:
        A scalar; 0 without rows or pairs.
    """
    if len(rows) == 0 or len(anchors) == 0:
        return nothing(rows, anchors, mates)
    near, far = (rows, anchors) if by is None else by
    wanted_rows, wanted_mates = soft_averages(near, far, target_temperature, (rows, mates), tile, group)
    cells = Cells(tile, group)
    kernel = cells.between(rows, mates).kernel(rows.new_tensor(1 / temperature), product=True).ask("rows")
    cells.run()
    # Σ_ij q_ij x_i·y_j with q constant: the value once, the gradient of both sides.
    agreement = (rows * wanted_rows).sum() + (mates * wanted_mates).sum()
    agreement = agreement - (mates * wanted_mates).sum().detach()
    return (kernel.rows.value.sum().to(rows.dtype) - agreement / temperature) / len(rows)


class Neighbours(LossModule):
    """`core/neighbours`: `neighbour_loss` of both towers' unmatched rows, averaged over tower pairs."""

    needs = frozenset({"pairs", "unpaired"})

    def __init__(self, config: NeighboursConfig):
        super().__init__()
        self.config = config

    def forward(self, batch: AlignBatch, ctx: LossContext) -> LossOut:
        c, values, count = self.config, {}, 0
        with exact(next(iter(batch.towers.values())).z.device):
            for a, b in tower_pairs(batch, ctx):
                u, v = (batch.towers[name].z for name in (a, b))
                group_u, group_v, groups = shared_groups(batch.towers[a].ids, batch.towers[b].ids)
                x, y = u[first_of_each(group_u, groups)], v[first_of_each(group_v, groups)]
                halves = []
                for z, group, own, other in ((u, group_u, x, y), (v, group_v, y, x)):
                    alone = z[group < 0]
                    count += len(alone)
                    halves.append(neighbour_loss(
                        alone, own, other, c.temperature, c.target_temperature, tile=ctx.tile, group=ctx.group
                    ))  # fmt: skip
                values[a, b] = torch.stack(halves).mean()
        loss, logs = mean_over_pairs("neighbours", values)
        return LossOut(loss, terms={"neighbours": loss}, counts={"neighbours": count}, logs=logs)


def build(config: NeighboursConfig, context: BuildContext) -> Neighbours:
    return Neighbours(config)
