"""What closed forms are fitted and chosen on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor

from gentle_core.closed_form.judge import ALONE, Judge
from gentle_core.evaluate.arrays import matched_rows
from gentle_core.evaluate.retrieval import Mates


@attrs.frozen(eq=False)
class Features:
    """What forms are fitted and chosen on.

    Attributes:
        items_x, items_y: features (N_x, p), (N_y, q) of the paired training items.
        labels_x, labels_y: (N_x,), (N_y,) the number of each one's sample, from 0: equal numbers are pairs.
        pool_x, pool_y: (n, p), (m, q) features of the unmatched pools, in any order.
        x_val, y_val: validation features, with `samples_x_val`, `samples_y_val` for their sample ids.
        joint: how many columns of x and y, the last ones, are a trained model's joint embeddings. They are not features
            to fit on, but a form of their own.
        joint_saw_pools: whether unmatched rows took part in that model's training.
        judge: by whose ranks settings are judged; those of the validation items here.
    """

    items_x: Tensor
    items_y: Tensor
    labels_x: np.ndarray
    labels_y: np.ndarray
    pool_x: Tensor
    pool_y: Tensor
    x_val: Tensor
    y_val: Tensor
    samples_x_val: Sequence[Any]
    samples_y_val: Sequence[Any]
    joint: tuple[int, int] = (0, 0)
    joint_saw_pools: bool = True
    judge: Judge = ALONE
    x: Tensor = attrs.field(init=False)
    """(N, p), (N, q) features of the pairs, row by row: a sample with several items pairs in every combination."""
    y: Tensor = attrs.field(init=False)
    mates: Mates = attrs.field(init=False)
    """Of the validation items."""

    def __attrs_post_init__(self) -> None:
        rows = matched_rows(self.labels_x, self.labels_y)
        for side, items, chosen in zip("xy", (self.items_x, self.items_y), rows, strict=True):
            object.__setattr__(self, side, items[torch.from_numpy(chosen)])
        object.__setattr__(self, "mates", Mates.of(self.samples_x_val, self.samples_y_val))

    @property
    def has_pools(self) -> bool:
        return len(self.pool_x) > 0 or len(self.pool_y) > 0

    @property
    def widths(self) -> tuple[int, int]:
        """How many columns are features to fit on."""
        return self.items_x.shape[1] - self.joint[0], self.items_y.shape[1] - self.joint[1]

    def to_fit(self) -> Features:
        """The same without the joint embeddings."""
        if not any(self.joint):
            return self
        p, q = self.widths
        columns = {"items_x": p, "pool_x": p, "x_val": p, "items_y": q, "pool_y": q, "y_val": q}
        return attrs.evolve(self, joint=(0, 0), **{name: getattr(self, name)[:, :k] for name, k in columns.items()})


def drawn(data: Features, rows: int, seed: int) -> tuple[Tensor, Tensor]:
    """At most so many rows of each pool, each drawn on its own."""
    found = []
    for number, pool in enumerate((data.pool_x, data.pool_y)):
        chosen = np.random.default_rng((seed, number)).permutation(len(pool))[:rows]
        found.append(pool[torch.from_numpy(np.sort(chosen))])
    return found[0], found[1]
