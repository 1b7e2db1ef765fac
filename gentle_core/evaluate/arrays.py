"""Small conversions that every evaluation shares: arrays or tensors in, float64 on one device inside."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

Ids = Sequence[Any] | np.ndarray | Tensor
"""Sample ids, one a row: strings or integers."""

BLOCK_ENTRIES = 1 << 22
"""Entries of a streamed block of scores: 32 MiB in float64."""


def as_tensor(x: Any) -> Tensor:
    """`x` (array or tensor) as a detached floating tensor (rows, columns); integers become float64.

    Tensors stay on their device, except that Apple's MPS, which has no float64, hands over to the CPU.
    """
    tensor = x.detach() if isinstance(x, Tensor) else torch.as_tensor(np.ascontiguousarray(x))
    if tensor.device.type == "mps":
        tensor = tensor.cpu()
    if not tensor.is_floating_point():
        tensor = tensor.double()
    return tensor[:, None] if tensor.ndim == 1 else tensor


def as_array(x: Any) -> np.ndarray:
    """`x` (array, tensor or sequence) as a float64 array, two-dimensional for matrices, one for columns."""
    if isinstance(x, Tensor):
        x = x.detach().double().cpu().numpy()
    return np.asarray(x, dtype=np.float64)


def match_codes(a: Ids, b: Ids) -> tuple[np.ndarray, np.ndarray]:
    """Integer codes (m,), (n,) of two lists of sample ids; codes are equal exactly where the ids are."""
    number: dict[Any, int] = {}
    left = np.fromiter((number.setdefault(i, len(number)) for i in plain(a)), dtype=np.int64, count=len(a))
    right = np.fromiter((number.setdefault(i, len(number)) for i in plain(b)), dtype=np.int64, count=len(b))
    return left, right


def plain(ids: Any) -> list[Any]:
    """Ids as Python values, so that `np.str_("a")`, `"a"` and a tensor's elements compare as expected."""
    return ids.tolist() if isinstance(ids, np.ndarray | Tensor) else list(ids)


def matched_rows(samples_a: Ids, samples_b: Ids) -> tuple[np.ndarray, np.ndarray]:
    """Row indices (n,), (n,) of the matched pairs of two towers, ordered by their row in the first.

    A sample with several items (five captions of a photograph) pairs in every combination.
    """
    left, right = match_codes(samples_a, samples_b)
    order = np.argsort(right, kind="stable")
    start = np.searchsorted(right[order], left, side="left")
    count = np.searchsorted(right[order], left, side="right") - start
    rows = np.repeat(np.arange(len(left)), count)
    within = np.arange(len(rows)) - np.repeat(np.cumsum(count) - count, count)
    return rows, order[np.repeat(start, count) + within]


def blocks(rows: int, columns: int, block: int | None = None) -> Iterator[slice]:
    """Slices that cut `rows` so that a block of scores has at most `BLOCK_ENTRIES` entries (or `block` rows)."""
    size = block or max(1, BLOCK_ENTRIES // max(1, columns))
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))
