"""Normalisation layers whose weights are kept in half precision: they work with them in float32."""

from __future__ import annotations

import functools
from typing import Any

from torch import nn

from gentle_core.losses.chunks import BATCH_NORMS

NORMS = (*BATCH_NORMS, nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)


def normalise_in_float32(model: nn.Module) -> None:
    """Let the layers of a model lift their weights for each pass.

    DeepSpeed casts a whole model. torch's kernels take statistics in float32 beside inputs in half precision only with
    float32 weights, and weights in half precision not beside inputs in float32. Weights near 1 also lose most by it.
    """
    for layer in model.modules():
        if isinstance(layer, NORMS):
            layer.forward = functools.partial(_lifted, layer, layer.forward)  # type: ignore[method-assign]


def _lifted(layer: nn.Module, forward: Any, *inputs: Any) -> Any:
    own = dict(layer._parameters)
    layer._parameters.update({name: None if p is None else p.float() for name, p in own.items()})  # type: ignore[misc]
    try:
        return forward(*inputs)
    finally:
        layer._parameters.update(own)
