"""The objectives. The functions work on plain tensors; the components behind `core/...` wrap them.

Names are loaded when they are first used, so that a component's options can be read without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gentle_core.losses.chunks import backward_in_chunks
    from gentle_core.losses.clip import clip_loss
    from gentle_core.losses.density import sdd
    from gentle_core.losses.klot import klot_loss
    from gentle_core.losses.mmd import mk_mmd
    from gentle_core.losses.neighbours import neighbour_loss
    from gentle_core.losses.sinkhorn import sinkhorn_divergence
    from gentle_core.losses.ssl import ssl_loss

__all__ = [
    "backward_in_chunks", "clip_loss", "klot_loss", "mk_mmd", "neighbour_loss", "sdd", "sinkhorn_divergence",
    "ssl_loss",
]  # fmt: skip

_HOME = {
    "backward_in_chunks": "chunks",
    "clip_loss": "clip",
    "klot_loss": "klot",
    "mk_mmd": "mmd",
    "neighbour_loss": "neighbours",
    "sdd": "density",
    "sinkhorn_divergence": "sinkhorn",
    "ssl_loss": "ssl",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"gentle_core.losses.{_HOME[name]}"), name)
    raise AttributeError(f"module 'gentle_core.losses' has no attribute {name!r}")
