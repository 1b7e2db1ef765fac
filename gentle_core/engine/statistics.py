"""Running statistics of batch normalisation, where a batch is encoded on several ranks."""

from __future__ import annotations

from torch import nn

from gentle_core.engine.ranks import Ranks
from gentle_core.losses.chunks import BATCH_NORMS


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
