"""Contrastive loss over matched pairs: L_CL, Eq. 1 of Gentle-CLIP; the loss of CLIP (Radford et al. 2021, fig. 3).

Shapes: m and n rows of two towers, d dimensions, G sample ids that both towers have.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from gentle_core.batch import AlignBatch, BuildContext, LossContext, LossOut, ParamGroups
from gentle_core.builtin import ClipConfig
from gentle_core.losses.common import mean_over_pairs, tower_pairs
from gentle_core.losses.precision import full_precision, nothing
from gentle_core.modules import LossModule


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


@full_precision
def clip_loss(
    u: Tensor,
    v: Tensor,
    logit_scale: Tensor | float,
    *,
    ids: tuple[Tensor, Tensor] | None = None,
    negatives: str = "paired",
) -> Tensor:
    """Symmetric InfoNCE over the matched rows of two towers; logits are s·cosine.

    A row whose sample has several rows on the other side shares its target evenly among them; the loss is then
    bounded below by the mean entropy of these targets rather than by 0.

    Args:
        u, v: unit rows (m, d) and (n, d).
        logit_scale: s = 1/τ itself, not its logarithm.
        ids: sample ids (m,) and (n,), by which rows match; None when row i of `u` belongs to row i of `v`.
        negatives: "paired": unmatched rows take no part. "all": they are further columns, never anchors.

    Returns:
        The mean over the anchors of both directions, each direction weighing one half. No matched row, or a single
        pair without further columns: exactly 0.

    Raises:
        ValueError: without `ids`, if the numbers of rows differ.
    """
    if negatives not in ("paired", "all"):
        raise ValueError(f"negatives={negatives!r}: choose 'paired' or 'all'")
    scale = torch.as_tensor(logit_scale, dtype=u.dtype, device=u.device)
    if ids is None:
        if len(u) != len(v):
            raise ValueError(f"rows match by position, but there are {len(u)} and {len(v)}; give ids")
        if len(u) == 0:
            return nothing(u, v, scale)
        logits = scale * (u @ v.T)
        return torch.stack([_cross_entropy(logits), _cross_entropy(logits.T)]).mean()
    group_u, group_v, groups = shared_groups(*ids)
    if groups == 0:
        return nothing(u, v, scale)
    matched_u, matched_v = group_u >= 0, group_v >= 0
    means_u = group_means(u[matched_u], group_u[matched_u], groups)
    means_v = group_means(v[matched_v], group_v[matched_v], groups)
    columns_u, columns_v = (u, v) if negatives == "all" else (u[matched_u], v[matched_v])
    halves = []
    for anchors, group, means, columns in (
        (u[matched_u], group_u[matched_u], means_v, columns_v),
        (v[matched_v], group_v[matched_v], means_u, columns_u),
    ):
        if len(columns) == 1:
            halves.append(nothing(anchors, columns, scale))
            continue
        positive = scale * (anchors * means[group]).sum(1)
        halves.append(((scale * (anchors @ columns.T)).logsumexp(1) - positive).mean())
    return torch.stack(halves).mean()


def _cross_entropy(logits: Tensor) -> Tensor:
    return (logits.logsumexp(1) - logits.diagonal()).mean()


class Clip(LossModule):
    """`core/clip`: `clip_loss` averaged over tower pairs, with one learnable logit scale."""

    def __init__(self, config: ClipConfig):
        super().__init__()
        self.config = config
        self.largest = math.log(config.max_scale)
        self.log_scale = nn.Parameter(
            torch.tensor(-math.log(config.temperature)), requires_grad=config.learn_temperature
        )

    @property
    def logit_scale(self) -> Tensor:
        """s, clamped."""
        return self.log_scale.clamp(max=self.largest).exp()

    def forward(self, batch: AlignBatch, ctx: LossContext) -> LossOut:
        scale = self.logit_scale
        values, counts = {}, 0
        for a, b in tower_pairs(batch, ctx):
            left, right = batch.towers[a], batch.towers[b]
            values[a, b] = clip_loss(left.z, right.z, scale, ids=(left.ids, right.ids), negatives=self.config.negatives)
            counts += int((shared_groups(left.ids, right.ids)[0] >= 0).sum())
        loss, logs = mean_over_pairs("clip", values)
        logs |= {"logit_scale": scale.item(), "tau": 1 / scale.item()}
        return LossOut(loss, terms={"clip": loss}, counts={"clip": counts}, logs=logs)

    def param_groups(self) -> ParamGroups:
        return ParamGroups(min=[p for p in self.parameters() if p.requires_grad])

    @torch.no_grad()
    def post_step(self, ctx: LossContext) -> None:
        self.log_scale.clamp_(max=self.largest)


def build(config: ClipConfig, context: BuildContext) -> Clip:
    return Clip(config)
