"""Means and covariances of any number of rows, block by block: all that a closed form needs of its data.

Memory is O(d²), whatever the number of rows; sums are kept in float64.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import attrs
import numpy as np

from gentle_core.errors import DataError
from gentle_core.evaluate.arrays import as_array


@attrs.define(eq=False)
class Moments:
    """Running count, means and central second moments of paired rows x (n, p) and y (n, q), in float64.

    Blocks are merged by the pairwise update of Chan, Golub and LeVeque 1983, which stays exact for features whose
    mean is far larger than their spread. `xx`, `yy` and `xy` are covariances once divided by `count`.
    """

    count: int
    mean_x: np.ndarray
    mean_y: np.ndarray
    xx: np.ndarray
    yy: np.ndarray
    xy: np.ndarray

    @classmethod
    def of(cls, x: Any, y: Any, block: int = 8192) -> Moments:
        """The moments of two arrays or tensors whose rows are pairs."""
        if len(x) != len(y):
            raise ValueError(f"{len(x)} rows of x but {len(y)} of y; rows must be pairs")
        return cls.stream((x[i : i + block], y[i : i + block]) for i in range(0, len(x), block))

    @classmethod
    def stream(cls, blocks: Iterable[tuple[Any, Any]]) -> Moments:
        """The moments of blocks ((b, p), (b, q)) of paired rows."""
        total: Moments | None = None
        for block_x, block_y in blocks:
            x, y = as_array(block_x), as_array(block_y)
            if not len(x):
                continue
            mean_x, mean_y = x.mean(axis=0), y.mean(axis=0)
            x, y = x - mean_x, y - mean_y
            part = cls(len(x), mean_x, mean_y, x.T @ x, y.T @ y, x.T @ y)
            total = part if total is None else total + part
        if total is None:
            raise DataError("no pairs: a closed-form alignment needs at least two")
        return total

    def __add__(self, other: Moments) -> Moments:
        count = self.count + other.count
        step_x, step_y = other.mean_x - self.mean_x, other.mean_y - self.mean_y
        share, weight = other.count / count, self.count * other.count / count
        return Moments(
            count,
            self.mean_x + share * step_x,
            self.mean_y + share * step_y,
            self.xx + other.xx + weight * np.outer(step_x, step_x),
            self.yy + other.yy + weight * np.outer(step_y, step_y),
            self.xy + other.xy + weight * np.outer(step_x, step_y),
        )
