"""What the loss components share."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gentle_core.batch import AlignBatch, LossContext


def tower_pairs(batch: AlignBatch, ctx: LossContext) -> tuple[tuple[str, str], ...]:
    """The unordered tower pairs over which pairwise terms are averaged: the context's, or else all."""
    return tuple(ctx.pairs) or tuple(itertools.combinations(batch.towers, 2))


def mean_over_pairs(name: str, values: Mapping[tuple[str, str], Tensor]) -> tuple[Tensor, dict[str, Any]]:
    """The mean of a pairwise term and, where there is more than one pair, each pair's value as a log `name/a-b`."""
    loss = torch.stack(list(values.values())).mean()
    if len(values) == 1:
        return loss, {}
    return loss, {f"{name}/{a}-{b}": value.item() for (a, b), value in values.items()}
