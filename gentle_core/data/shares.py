"""Which rows of a batch go through an encoder together, and on which rank."""

from __future__ import annotations

import itertools

import numpy as np

EXCHANGED = 8
"""Rows on each side of a cut that may change sides."""
EXCHANGES = 4
"""How often two of them do, at most."""


def cut(places: np.ndarray, sizes: np.ndarray | None, chunks: int) -> list[list[int]]:
    """Rows 0 … n − 1 in chunks of as many rows, or one less, each in ascending order.

    Rows go where their place says, lowest first, so that a row of the same place mostly comes to the same chunk. Only
    close to a cut a few of them change sides to even out the chunks' sizes: ranks wait for the one with most to do.

    Args:
        places: (n,) numbers that belong to the rows' items.
        sizes: (n,) what the rows cost; None where that is unknown.
        chunks: how many; some are empty where there are fewer rows.
    """
    rows = len(places)
    order = np.argsort(places, kind="stable")
    ends = [-(-i * rows // chunks) for i in range(chunks + 1)]
    if sizes is not None and rows:
        for before, end, after in zip(ends, ends[1:], ends[2:], strict=False):
            width = min(EXCHANGED, (end - before) // 2, (after - end) // 2)
            _even_out(order, sizes, end, width, float(sizes.sum()) * end / rows)
    return [sorted(order[start:stop].tolist()) for start, stop in itertools.pairwise(ends)]


def _even_out(order: np.ndarray, sizes: np.ndarray, end: int, width: int, wanted: float) -> None:
    """Exchange rows across a cut, in place, until those before it come as close to the wanted size as they get."""
    left, right = order[end - width : end], order[end : end + width]  # views
    excess = float(sizes[order[:end]].sum()) - wanted
    for _ in range(EXCHANGES if width else 0):
        left_over = np.abs(excess - sizes[left][:, None] + sizes[right][None, :])
        i, j = np.unravel_index(left_over.argmin(), left_over.shape)
        if left_over[i, j] >= abs(excess):
            return
        excess += float(sizes[right[j]]) - float(sizes[left[i]])
        left[i], right[j] = right[j], left[i]
