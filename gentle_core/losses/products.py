"""The matrix product that the tiles are made of."""

from __future__ import annotations

import functools

import torch
from torch import Tensor


@functools.cache
def _onednn() -> bool:
    """Whether torch brings oneDNN's float32 product, and the processor is one on which it pays.

    `torch.mm` asks MKL, which does not use AVX-512 on other makers' processors; oneDNN does, at the same accuracy and
    more than twice the speed there. A rule and not a measurement, so that runs repeat bit by bit.
    """
    capable = torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return capable and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def times_transposed(x: Tensor, y: Tensor) -> Tensor:
    """x yᵀ, (m, n) from (m, d) and (n, d); without a graph."""
    if x.dtype == torch.float32 and x.device.type == "cpu" and torch.backends.mkldnn.enabled and _onednn():
        return torch.ops.mkldnn._linear_pointwise(x, y, None, "none", [], "")
    return x @ y.T
