"""The objective of a batch that is spread over ranks.

Each rank embeds its own rows, any number of them. They are gathered (B·d numbers each way); every rank then computes
its share of the tiles, the partial sums are put together (`tiles`), and all ranks end with the same values and with
the whole gradient of the global batch, of which each takes the part of its own rows. Nothing averages per-rank losses:
that would be another objective.
"""

from __future__ import annotations

from typing import Any

import attrs
import torch
import torch.distributed as dist
from torch import Tensor, nn

from gentle_core.batch import AlignBatch, LossContext, LossOut, ParamGroups, Rows
from gentle_core.losses.talk import TALK


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any, factor: float) -> Tensor:
        counts = [torch.zeros(1, dtype=torch.long, device=x.device) for _ in range(dist.get_world_size(group))]
        with TALK.timed():
            dist.all_gather(counts, torch.tensor([len(x)], device=x.device), group=group)
        sizes = [int(count) for count in counts]
        padded = x.new_zeros(max(sizes), *x.shape[1:])  # collectives want equal sizes
        padded[: len(x)] = x
        parts = [torch.empty_like(padded) for _ in sizes]
        with TALK.timed():
            dist.all_gather(parts, padded, group=group)
        rank = dist.get_rank(group)
        ctx.own, ctx.factor = slice(sum(sizes[:rank]), sum(sizes[: rank + 1])), factor
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient[ctx.own] * ctx.factor, None, None


def gather_rows(x: Tensor, group: Any = None, *, averaged: bool = False) -> Tensor:
    """The rows of all ranks, rank after rank; any number of rows each, none included.

    The backward pass takes each rank's own part of the gradient and communicates nothing: what follows must compute
    the same on all ranks, as the losses do when they are given the group.

    Args:
        x: (b, …) this rank's rows.
        group: process group; None for the default one.
        averaged: parameter gradients will be averaged over ranks, as DistributedDataParallel does, where their sum is
            wanted: multiply by the number of ranks.
    """
    return _Gather.apply(x, group, float(dist.get_world_size(group)) if averaged else 1.0)


def gather_batch(batch: AlignBatch, group: Any = None, *, averaged: bool = False) -> AlignBatch:
    """The global batch. Towers and fields must be the same on all ranks; see `gather_rows`."""

    def gathered(x: Tensor | None) -> Tensor | None:
        return None if x is None else gather_rows(x, group, averaged=averaged)

    towers = {}
    for name, rows in batch.towers.items():
        fields = {field.name: getattr(rows, field.name) for field in attrs.fields(Rows) if field.name != "extras"}
        extras = {key: gather_rows(x, group, averaged=averaged) for key, x in sorted(rows.extras.items())}
        towers[name] = Rows(**{key: gathered(x) for key, x in fields.items()}, extras=extras)  # type: ignore[arg-type]
    return AlignBatch(towers)


class AcrossRanks(nn.Module):
    """A loss on batches of which every rank holds its own rows only; itself a loss.

    Args:
        loss: the loss of a global batch, the same on all ranks.
        group: process group; None for the default one.
        averaged: see `gather_rows`. True under DistributedDataParallel, False where gradients are summed.
    """

    def __init__(self, loss: Any, group: Any = None, *, averaged: bool = True):
        super().__init__()
        self.loss, self.averaged = loss, averaged
        self.group = dist.group.WORLD if group is None else group

    def forward(self, batch: AlignBatch, ctx: LossContext) -> LossOut:
        everything = gather_batch(batch, self.group, averaged=self.averaged)
        return self.loss(everything, attrs.evolve(ctx, group=self.group))

    def param_groups(self) -> ParamGroups:
        return self.loss.param_groups()

    def post_step(self, ctx: LossContext) -> None:
        self.loss.post_step(ctx)

    def scorer(self) -> Any:
        return self.loss.scorer()
