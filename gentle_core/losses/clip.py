"""Contrastive loss over matched pairs: L_CL, Eq. 1 of Gentle-CLIP; the loss of CLIP (Radford et al. 2021, fig. 3).

Shapes: m and n rows of two towers, d dimensions, G sample ids that both towers have.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gentle_core.batch import AlignBatch, BuildContext, LossContext, LossOut, ParamGroups
from gentle_core.builtin import ClipConfig
from gentle_core.losses.cells import Cells
from gentle_core.losses.common import CellLoss, mean_over_pairs, tower_pairs
from gentle_core.losses.precision import full_precision, nothing


@full_precision
def clip_loss(
    u: Tensor,
    v: Tensor,
    logit_scale: Tensor | float,
    *,
    ids: tuple[Tensor, Tensor] | None = None,
    negatives: str = "paired",
    tile: int | str = "auto",
    group: Any = None,
) -> Tensor:
    """Symmetric InfoNCE over the matched rows of two towers; logits are s·cosine.

    A row whose sample has several rows on the other side shares its target evenly among them; the loss is then
    bounded below by the mean entropy of these targets rather than by 0.

    Args:
        u, v: unit rows (m, d) and (n, d).
        logit_scale: s = 1/τ itself, not its logarithm.
        ids: sample ids (m,) and (n,), by which rows match; None when row i of `u` belongs to row i of `v`.
        negatives: "paired": unmatched rows take no part. "all": they are further columns, never anchors.
        tile, group: see `Cells`.

    Returns:
        The mean over the anchors of both directions, each direction weighing one half. No matched row, or a single
        pair without further columns: exactly 0.

    Raises:
        ValueError: without `ids`, if the numbers of rows differ.
    """
    if negatives not in ("paired", "all"):
        raise ValueError(f"negatives={negatives!r}: choose 'paired' or 'all'")
    if ids is None:
        if len(u) != len(v):
            raise ValueError(f"rows match by position, but there are {len(u)} and {len(v)}; give ids")
        position = torch.arange(len(u), device=u.device)
        ids = position, position
    cells = Cells(tile, group)
    finish = ask_clip(cells, u, v, torch.as_tensor(logit_scale, dtype=u.dtype, device=u.device), ids, negatives)
    cells.run()
    return finish()


def ask_clip(
    cells: Cells, u: Tensor, v: Tensor, scale: Tensor, ids: tuple[Tensor, Tensor], negatives: str
) -> Callable[[], Tensor]:
    """`clip_loss` as wishes to a plan, and what to do with the answers."""
    group_u, group_v, groups = shared_groups(*ids)
    if groups == 0:
        return lambda: nothing(u, v, scale)
    rows_u, rows_v = (group_u >= 0).nonzero()[:, 0], (group_v >= 0).nonzero()[:, 0]
    keep: dict[str, Tensor] = {}
    if negatives == "paired" and (len(rows_u) < len(u) or len(rows_v) < len(v)):
        if cells.shares(u, v):
            keep = {"keep_x": group_u >= 0, "keep_y": group_v >= 0}
        else:
            u, v, group_u, group_v = u[rows_u], v[rows_v], group_u[rows_u], group_v[rows_v]
            rows_u, rows_v = (torch.arange(len(x), device=x.device) for x in (u, v))
    kernel = cells.between(u, v).kernel(scale, product=True, **keep).ask("rows", "columns")
    if len(rows_u) == len(rows_v) == groups:
        i, j = rows_u[group_u[rows_u].argsort()], rows_v[group_v[rows_v].argsort()]
        kernel.pick(i, j)

        def one_to_one() -> Tensor:
            halves = [log_sums.cross_entropy(kernel.picked).mean() for log_sums in (kernel.rows[i], kernel.columns[j])]
            return torch.stack(halves).mean().to(u.dtype)

        return one_to_one

    def several() -> Tensor:
        halves = []
        for log_sums, x, group, rows, y, other, others in (
            (kernel.rows, u, group_u, rows_u, v, group_v, rows_v),
            (kernel.columns, v, group_v, rows_v, u, group_u, rows_u),
        ):
            targets = group_means(y[others], other[others], groups)[group[rows]]
            halves.append(log_sums[rows].minus(scale * (x[rows] * targets).sum(1)).mean())
        return torch.stack(halves).mean().to(u.dtype)

    return several


def shared_groups(ids_u: Tensor, ids_v: Tensor) -> tuple[Tensor, Tensor, int]:
    """For every row the number (0 … G−1) of its sample id among the ids that both sides have, or −1; and G."""
    names, group = torch.unique(torch.cat([ids_u, ids_v]), return_inverse=True)
    group_u, group_v = group[: len(ids_u)], group[len(ids_u) :]
    on_u, on_v = (torch.bincount(side, minlength=len(names)) > 0 for side in (group_u, group_v))
    both = on_u & on_v
    number = torch.where(both, both.cumsum(0) - 1, -1)
    return number[group_u], number[group_v], int(both.sum())


def group_means(x: Tensor, group: Tensor, count: int) -> Tensor:
    """Mean of the rows of each group, (G, d)."""
    sums = x.new_zeros(count, x.shape[1]).index_add(0, group, x)
    sizes = torch.bincount(group, minlength=count).clamp_min(1)
    return sums / sizes[:, None]


class Clip(CellLoss):
    """`core/clip`: `clip_loss` averaged over tower pairs, with one learnable logit scale."""

    def __init__(self, config: ClipConfig):
        super().__init__()
        self.config = config
        self.largest = math.log(config.max_scale)
        self.needs = config.needs()
        self.log_scale = nn.Parameter(torch.tensor(-math.log(config.temperature)), config.learn_temperature)

    @property
    def logit_scale(self) -> Tensor:
        """s, clamped."""
        return self.log_scale.clamp(max=self.largest).exp()

    def ask(self, batch: AlignBatch, ctx: LossContext, cells: Cells) -> Callable[[], LossOut]:
        scale, asked, counts = self.logit_scale, {}, 0
        for a, b in tower_pairs(batch, ctx):
            left, right = batch.towers[a], batch.towers[b]
            u, v = cells.rows(left.z), cells.rows(right.z)
            asked[a, b] = ask_clip(cells, u, v, scale.to(u.dtype), (left.ids, right.ids), self.config.negatives)
            counts += int(torch.isin(left.ids, right.ids).sum())

        def finish() -> LossOut:
            loss, logs = mean_over_pairs("clip", {pair: value() for pair, value in asked.items()})
            logs |= {"logit_scale": scale.item(), "tau": 1 / scale.item()}
            return LossOut(loss, terms={"clip": loss}, counts={"clip": counts}, logs=logs)

        return finish

    def param_groups(self) -> ParamGroups:
        return ParamGroups(min=[p for p in self.parameters() if p.requires_grad])

    @torch.no_grad()
    def post_step(self, ctx: LossContext) -> None:
        self.log_scale.clamp_(max=self.largest)


def build(config: ClipConfig, context: BuildContext) -> Clip:
    return Clip(config)
