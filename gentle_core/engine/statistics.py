"""Running statistics of batch normalisation, where a batch is encoded in chunks, twice, or on several ranks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn

from gentle_core.engine.ranks import Ranks

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


@contextlib.contextmanager
def batch_statistics_held(model: nn.Module) -> Iterator[None]:
    """Let batch normalisation use a batch's statistics without counting them a second time."""
    layers = [m for m in model.modules() if isinstance(m, BATCH_NORMS)]
    kept = [(n, n.momentum, None if n.num_batches_tracked is None else n.num_batches_tracked.clone()) for n in layers]
    for layer in layers:
        layer.momentum = 0.0
    try:
        yield
    finally:
        for layer, momentum, tracked in kept:
            layer.momentum = momentum
            if tracked is not None:
                layer.num_batches_tracked.copy_(tracked)  # type: ignore[union-attr]


def average_statistics(model: nn.Module, ranks: Ranks) -> None:
    """Replace the running statistics of batch normalisation by their mean over ranks, each of which has followed its
    own chunks. A running mean is linear in what it has seen, so this is as if each step had averaged."""
    if ranks.size == 1:
        return
    found = [
        buffer
        for layer in model.modules()
        if isinstance(layer, BATCH_NORMS)
        for buffer in (layer.running_mean, layer.running_var)
        if buffer is not None
    ]
    for dtype in {b.dtype for b in found}:
        same = [b for b in found if b.dtype == dtype]
        ranks.sum_(same)
        for buffer in same:
            buffer.div_(ranks.size)
