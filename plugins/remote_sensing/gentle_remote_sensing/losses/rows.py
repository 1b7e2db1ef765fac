"""What both pseudo-labels start from: rows without a mate, and the pairs beside them.

Shapes: M rows without a mate (queries) and N with one (anchors) in one tower, P rows of the other tower that are
their mates, d dimensions.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import attrs
import torch
from torch import Tensor, nn

from gentle_core.api import AlignBatch, LossContext, LossModule, ParamGroups, RecipeError
from gentle_remote_sensing.losses.config import PseudoConfig


@attrs.frozen(eq=False)
class Side:
    """One direction: the unmatched rows of a tower ask, the mates of its matched rows answer.

    Attributes:
        name: the tower that asks.
        query: (M, d) rows of it without a mate in the other tower.
        anchors: (N, d) rows of it that have one.
        answers: (P,) positions of the mates among the rows of the other tower.
        share: (N, P) row i says how anchor i is spread over its mates; rows sum to 1.
        other: the other tower's name.
    """

    name: str
    query: Tensor
    anchors: Tensor
    answers: Tensor
    share: Tensor
    other: str


def sides(batch: AlignBatch, ctx: LossContext, queries: tuple[str, ...]) -> Iterator[Side]:
    """The directions that have something to learn: at least one query and one pair."""
    unknown = sorted(set(queries) - set(batch.towers))
    if unknown:
        raise RecipeError(f"queries names no tower {', '.join(unknown)}; there are {', '.join(batch.towers)}")
    pairs = tuple(ctx.pairs) or tuple(itertools.combinations(batch.towers, 2))
    for a, b in (pair for ab in pairs for pair in (ab, ab[::-1])):
        if queries and a not in queries:
            continue
        left, right = batch.pairs(a, b)
        anchors, row = torch.unique(left, return_inverse=True)
        answers, column = torch.unique(right, return_inverse=True)
        z = _wide(batch.towers[a].z)
        alone = torch.ones(len(z), dtype=torch.bool, device=z.device)
        alone[anchors] = False
        if not len(anchors) or not alone.any():
            continue
        share = z.new_zeros(len(anchors), len(answers)).index_put((row, column), z.new_tensor(1.0))
        yield Side(a, z[alone], z[anchors], answers, share / share.sum(1, keepdim=True), b)


def other_rows(batch: AlignBatch, side: Side) -> Tensor:
    """The embeddings of the tower that answers, in full precision."""
    return _wide(batch.towers[side.other].z)


def _wide(z: Tensor) -> Tensor:
    return z if z.dtype == torch.float64 else z.float()


def zero(batch: AlignBatch) -> Tensor:
    """Exactly 0, with a graph: the value where there is nothing to learn."""
    return torch.stack([(rows.z * 0).sum() for rows in batch.towers.values()]).sum()


class Scaled(LossModule):
    """A loss with a learnable logit scale s = 1/τ."""

    def __init__(self, config: PseudoConfig):
        super().__init__()
        self.queries = tuple(config.queries)
        self.largest = math.log(config.max_scale)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(config.temperature)), config.learn_temperature)

    @property
    def scale(self) -> Tensor:
        """s, clamped."""
        return self.log_scale.clamp(max=self.largest).exp()

    def param_groups(self) -> ParamGroups:
        return ParamGroups(min=[p for p in self.parameters() if p.requires_grad])

    @torch.no_grad()
    def post_step(self, ctx: LossContext) -> None:
        self.log_scale.clamp_(max=self.largest)
