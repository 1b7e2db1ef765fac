"""Rows to try the objectives on."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Small tensors gain nothing from several, and suffer where the machine is busy."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def reference() -> ModuleType:
    """The slow loops of reference.py."""
    spec = importlib.util.spec_from_file_location("losses_reference", Path(__file__).with_name("reference.py"))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def unit() -> Callable[..., Tensor]:
    """`unit(5, 3, seed=1)`: random unit rows (5, 3), float64 unless told otherwise."""

    def rows(count: int, d: int, seed: int = 0, dtype: torch.dtype = torch.float64, centre: float = 0.0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(count, d, generator=generator, dtype=torch.float64) + centre
        return torch.nn.functional.normalize(x, dim=1).to(dtype)

    return rows


@pytest.fixture
def rotation() -> Callable[[int], Tensor]:
    """A random rotation (d, d) in float64."""

    def matrix(d: int) -> Tensor:
        generator = torch.Generator().manual_seed(3)
        return torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64)).Q

    return matrix
