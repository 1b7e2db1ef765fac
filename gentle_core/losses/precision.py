"""Objectives are computed in float32 at least: exp(1/0.07) is already infinite in float16."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor

Function = TypeVar("Function", bound=Callable[..., Any])


@contextlib.contextmanager
def exact(device: torch.device) -> Iterator[None]:
    """No autocast, and float32 matrix products in float32: neither bfloat16 nor TF32 in its place."""
    precision = torch.get_float32_matmul_precision()
    try:
        if precision != "highest":
            torch.set_float32_matmul_precision("highest")
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        if precision != "highest":
            torch.set_float32_matmul_precision(precision)


def full_precision(function: Function) -> Function:
    """Run `function` in `exact`, its floating-point tensors in float64 if any of them is, else in float32.

    Looks at arguments that are tensors; the first one must be, and gives the device.
    """

    @functools.wraps(function)
    def wrapped(*args: Any, **options: Any) -> Any:
        tensors = [x for x in (*args, *options.values()) if isinstance(x, Tensor) and x.is_floating_point()]
        dtype = torch.float64 if any(x.dtype == torch.float64 and x.dim() > 0 for x in tensors) else torch.float32

        def cast(x: Any) -> Any:
            return x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x

        with exact(args[0].device):
            return function(*map(cast, args), **{key: cast(value) for key, value in options.items()})

    return wrapped  # type: ignore[return-value]


def wide(x: Tensor) -> torch.dtype:
    """The widest type for sums: float64, where the device has it."""
    return x.dtype if x.device.type == "mps" else torch.float64


def nothing(*tensors: Tensor) -> Tensor:
    """Exactly 0, connected to the graph of every tensor: the value of a term that has no rows to work on."""
    return sum((x.reshape(-1)[:0].sum() for x in tensors[1:]), start=tensors[0].reshape(-1)[:0].sum())
