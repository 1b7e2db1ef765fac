"""The matrix products that cells are made of."""

from __future__ import annotations

import functools
import platform
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gentle_core.losses.precision import exact


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


class _Exact(torch.autograd.Function):
    """x yᵀ. Autograd's own backward pass would follow whatever autocast or TF32 setting it is called under."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(x, y)
        with exact(x.device):
            return x @ y.T

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, y = ctx.saved_tensors
        by_x = exact_product(gradient, y.T) if ctx.needs_input_grad[0] else None
        return by_x, exact_product(gradient.T, x.T) if ctx.needs_input_grad[1] else None


def exact_product(x: Tensor, y: Tensor) -> Tensor:
    """x yᵀ with a graph, in the precision of its arguments in the backward pass too; can be differentiated twice."""
    return _Exact.apply(x, y)


def times_transposed(x: Tensor, y: Tensor, scale: float = 1.0, *, out: Tensor) -> Tensor:
    """scale · x yᵀ, (m, n) from (m, d) and (n, d), without a graph; it may be in `out`."""
    if _by_onednn(x):
        product = torch.ops.mkldnn._linear_pointwise(x, y, None, "none", [], "")
        return product if scale == 1 else product.mul_(scale)
    return torch.addmm(out, x, y.T, beta=0, alpha=scale, out=out)


def add_product(total: Tensor, x: Tensor, y: Tensor) -> None:
    """Add x y to `total`, (m, n) from (m, d) and (d, n), without a graph."""
    if _by_onednn(x):
        total += torch.ops.mkldnn._linear_pointwise(x, y.T, None, "none", [], "")
    else:
        total.addmm_(x, y)
