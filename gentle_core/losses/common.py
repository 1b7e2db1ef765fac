"""What the loss components share."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from gentle_core.batch import AlignBatch, LossContext, LossOut
from gentle_core.losses.cells import Cells
from gentle_core.losses.precision import exact
from gentle_core.modules import LossModule


class CellLoss(LossModule):
    """A loss made of reductions over cells (see `cells`). Subclass it and write `ask`.

    Inside a composition all such losses put their wishes into one plan and share its matrix products.
    """

    def ask(self, batch: AlignBatch, ctx: LossContext, cells: Cells) -> Callable[[], LossOut]:
        """Put wishes into the plan; return what computes the loss once they are fulfilled."""
        raise TypeError(f"{type(self).__name__} must define ask(batch, ctx, cells)")

    def forward(self, batch: AlignBatch, ctx: LossContext) -> LossOut:
        cells = Cells(ctx.tile, ctx.group)
        with exact(next(iter(batch.towers.values())).z.device):
            finish = self.ask(batch, ctx, cells)
            cells.run()
            return finish()


def tower_pairs(batch: AlignBatch, ctx: LossContext) -> tuple[tuple[str, str], ...]:
    """The unordered tower pairs over which pairwise terms are averaged: the context's, or else all."""
    return tuple(ctx.pairs) or tuple(itertools.combinations(batch.towers, 2))


def mean_over_pairs(name: str, values: Mapping[tuple[str, str], Tensor]) -> tuple[Tensor, dict[str, Any]]:
    """The mean of a pairwise term and, where there is more than one pair, each pair's value as a log `name/a-b`."""
    loss = torch.stack(list(values.values())).mean()
    if len(values) == 1:
        return loss, {}
    return loss, {f"{name}/{a}-{b}": value.item() for (a, b), value in values.items()}
