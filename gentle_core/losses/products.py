"""The matrix products that the tiles are made of; without a graph."""

from __future__ import annotations

import functools
import platform
from pathlib import Path

import torch
from torch import Tensor


@functools.cache
def _intel() -> bool:
    """Whether the processor calls itself Intel's."""
    try:
        about = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        about = platform.processor()
    return "GenuineIntel" in about


@functools.cache
def _onednn() -> bool:
    """Whether torch brings oneDNN's float32 product, and the processor is one on which it pays.

    `torch.mm` asks MKL, which does not use AVX-512 on other makers' processors; oneDNN does, at the same accuracy and
    more than twice the speed there. On Intel's own MKL is as fast, and can add to what is there.
    A rule and not a measurement, so that runs repeat bit by bit.
    """
    capable = torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    at_home = torch.backends.mkl.is_available() and _intel()
    return capable and not at_home and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _by_onednn(x: Tensor) -> bool:
    fits = _onednn() and x.dtype == torch.float32 and x.device.type == "cpu"
    return fits and bool(torch.backends.mkldnn.enabled)


def times_transposed(x: Tensor, y: Tensor, scale: float = 1.0, *, out: Tensor) -> Tensor:
    """scale · x yᵀ, (m, n) from (m, d) and (n, d); it may be in `out`."""
    if _by_onednn(x):
        product = torch.ops.mkldnn._linear_pointwise(x, y, None, "none", [], "")
        return product if scale == 1 else product.mul_(scale)
    return torch.addmm(out, x, y.T, beta=0, alpha=scale, out=out)


def add_product(total: Tensor, x: Tensor, y: Tensor) -> None:
    """Add x y to `total`, (m, n) from (m, d) and (d, n)."""
    if _by_onednn(x):
        total += torch.ops.mkldnn._linear_pointwise(x, y.T, None, "none", [], "")
    else:
        total.addmm_(x, y)
