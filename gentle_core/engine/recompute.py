"""Activation checkpointing: inner activations are computed again in the backward pass instead of being kept."""

from __future__ import annotations

import contextlib
import functools
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from gentle_core.losses.chunks import batch_statistics_held


def checkpoint_activations(encoder: nn.Module) -> int:
    """Keep only what enters and leaves each block of an encoder; returns how many blocks there are.

    A block is a member of a list or sequence of modules that has parts of its own (a transformer's layer, a residual
    block), outermost ones only; an encoder without any is one block. Dropout draws the same again, and batch
    normalisation does not count a batch twice.
    """
    blocks = blocks_of(encoder)
    for block in blocks:
        block.forward = functools.partial(
            checkpoint, block.forward, use_reentrant=False, context_fn=functools.partial(_contexts, block)
        )
    return len(blocks)


def blocks_of(encoder: nn.Module) -> list[nn.Module]:
    """The parts that `checkpoint_activations` computes again, each by itself."""
    return _blocks(encoder) or [encoder]


def _blocks(module: nn.Module) -> list[nn.Module]:
    found: list[nn.Module] = []
    for child in module.children():
        if isinstance(child, nn.ModuleList | nn.Sequential):
            parts = [part for part in child if next(part.children(), None) is not None]
            if len(parts) > 1:
                found += parts
                continue
        found += _blocks(child)
    return found


def _contexts(block: nn.Module) -> tuple[Any, Any]:
    """What surrounds a block's first pass and its second."""
    return contextlib.nullcontext(), batch_statistics_held(block)
