"""Sums over all cells (i, j) of pairs of row sets: what every term of the objective is made of.

A kernel gives each cell a number t_ij: rate·D_ij with D_ij = −‖x_i − y_j‖², or rate·x_i·y_j + shift. Terms ask for
reductions of it (log-sums over rows or columns, the sum over all cells, single cells). When all have asked, `run`
computes everything together, so that one matrix product for each pair of sets serves all terms: densely, by ordinary
autograd, or in tiles that the backward pass computes again; memory then grows as B·d + tile².

Shapes: m and n rows of two sets x and y, d dimensions, P picked cells.
"""

from __future__ import annotations

from typing import Any

import attrs
import torch
from torch import Tensor

from gentle_core.losses.distances import Place, centred
from gentle_core.losses.precision import wide
from gentle_core.losses.products import exact_product

DENSE_ROWS = 128
"""Up to so many rows `tile="auto"` keeps cells in memory (measured: docs/explanation/objective.md)."""
TILE_ROWS = 512
"""The tile of `tile="auto"` beyond that."""
ALONE_ROWS = 512
"""Up to so many rows `tile="auto"` lets every rank compute the whole: to share costs more than it saves
(`tests/benchmarks/objective.py ranks`)."""


@attrs.define(eq=False)
class LogSum:
    """log Σ exp(t), kept as some large t (a constant) and a rest; in float64 where the device has it.

    Of no terms at all it is a number far below any other.
    """

    top: Tensor
    rest: Tensor

    @property
    def value(self) -> Tensor:
        return self.top + self.rest

    def minus(self, x: Tensor) -> Tensor:
        """The log-sum minus `x`, without loss where the two are near."""
        return (self.top - x) + self.rest

    def plus(self, other: LogSum) -> LogSum:
        """The log-sum over the terms of both."""
        top = torch.maximum(self.top, other.top)
        return LogSum(top, torch.logaddexp((self.top - top) + self.rest, (other.top - top) + other.rest))

    def cross_entropy(self, positive: Tensor) -> Tensor:
        """log(Σ exp(t) + exp(positive)) − positive."""
        return torch.nn.functional.softplus(self.minus(positive), threshold=40)

    def __getitem__(self, rows: Tensor) -> LogSum:
        return LogSum(self.top[rows], self.rest[rows])


@attrs.define(eq=False)
class Kernel:
    """A kernel on one block, and what is asked of it.

    Attributes:
        rate: scalar tensor, may carry a graph.
        product: t is rate·x·y + shift instead of rate·D.
        keep_x, keep_y: (m,) and (n,) boolean, None for all: rows and columns that count. For log-sums only.
        diagonal: whether cells (i, i) count, in a block of one set.
        power: the total is of t**power; 0 for exp(t).
    """

    rate: Tensor
    product: bool = False
    shift: float = 0.0
    keep_x: Tensor | None = None
    keep_y: Tensor | None = None
    diagonal: bool = True
    power: int = 0
    asked: dict[str, Any] = attrs.field(factory=dict)
    found: dict[str, Any] = attrs.field(factory=dict)

    def ask(self, *what: str) -> Kernel:
        """Ask for "rows" (log-sums over y for each x), "columns" (over x for each y) or "total" (the plain sum)."""
        self.asked |= dict.fromkeys(what)
        return self

    def pick(self, i: Tensor, j: Tensor) -> Kernel:
        """Ask for t at the cells (i, j), both (P,), and leave these cells out of the log-sums.

        At most one in a row or column, in a block of two sets. The log-sum over all is then
        picked + softplus(log-sum − picked), so that a cross-entropy near 0 keeps its digits: `LogSum.cross_entropy`.
        """
        self.asked["picked"] = (i, j)
        return self

    @property
    def rows(self) -> LogSum:
        return self.found["rows"]

    @property
    def columns(self) -> LogSum:
        return self.found["columns"]

    @property
    def total(self) -> Tensor:
        return self.found["total"]

    @property
    def picked(self) -> Tensor:
        return self.found["picked"]


@attrs.define(eq=False)
class Block:
    """The cells of two sets, or (y None) of one set with itself."""

    x: Tensor
    y: Tensor | None
    kernels: list[Kernel] = attrs.field(factory=list)

    @property
    def distances(self) -> bool:
        """Whether a kernel is of distances."""
        return any(not kernel.product for kernel in self.kernels)

    def kernel(self, rate: Tensor, **options: Any) -> Kernel:
        """A further kernel on these cells; see `Kernel`."""
        self.kernels.append(Kernel(rate, **options))
        return self.kernels[-1]


class Cells:
    """A plan of reductions.

    Args:
        tile: rows of a tile; 0 for dense; "auto" for dense up to `DENSE_ROWS` rows.
        group: process group among which the tiles are shared out; with "auto" only above `ALONE_ROWS` rows. Every
            rank must hold the same global rows and make the same plan; every rank then has the same values, and the
            same whole gradient.
    """

    def __init__(self, tile: int | str = "auto", group: Any = None):
        self.tile, self.group = tile, group
        self.blocks: dict[tuple[int, int], Block] = {}
        self.moments: dict[int, list[Tensor]] = {}
        self._cast: dict[int, tuple[Tensor, Tensor]] = {}

    def rows(self, x: Tensor) -> Tensor:
        """`x` in full precision; the same tensor each time it is asked for."""
        if x.dtype in (torch.float32, torch.float64):
            return x
        if id(x) not in self._cast:
            self._cast[id(x)] = (x, x.float())
        return self._cast[id(x)][1]

    def within(self, x: Tensor) -> Block:
        """The cells of a set with itself."""
        return self.blocks.setdefault((id(x), 0), Block(x, None))

    def between(self, x: Tensor, y: Tensor) -> Block:
        """The cells of two sets."""
        return self.blocks.setdefault((id(x), id(y)), Block(x, y))

    def shares(self, x: Tensor, y: Tensor) -> bool:
        """Whether the cells of these sets are computed anyhow."""
        return (id(x), id(y)) in self.blocks

    def second_moment(self, x: Tensor) -> list[Tensor]:
        """xᵀx (d, d), as the only element of a list that is filled by `run`."""
        return self.moments.setdefault(id(x), [x])

    def run(self) -> None:
        """Compute all that was asked for."""
        rows = max((len(z) for b in self.blocks.values() for z in (b.x, b.y) if z is not None), default=0)
        tile, group = self.tile, self.group
        if tile == "auto":
            group = None if rows <= ALONE_ROWS else group
            tile = 0 if rows <= DENSE_ROWS else TILE_ROWS
        if not isinstance(tile, int) or tile < 0:
            raise ValueError(f"tile={tile!r}: give a number of rows, 0 for dense, or 'auto'")
        if tile or group is not None:
            from gentle_core.losses.tiles import run_tiled

            run_tiled(list(self.blocks.values()), list(self.moments.values()), tile or TILE_ROWS, group)
            return
        places: dict[int, Place] = {}
        for block in sorted(self.blocks.values(), key=lambda block: not block.distances):
            _run_dense(block, places)
        for moment in self.moments.values():
            moment[0] = exact_product(moment[0].T, moment[0].T)


def _run_dense(block: Block, places: dict[int, Place]) -> None:
    """Ordinary autograd; can be differentiated twice."""
    sets = block.x, block.x if block.y is None else block.y
    for z in sets:
        if id(z) not in places:
            places[id(z)] = Place.of(z, block.distances)
    place_x, place_y = (places[id(z)] for z in sets)
    c = centred(block.x, block.y, place_x, place_y, block.distances)
    gram = exact_product(c.x, c.y)
    itself = torch.eye(len(gram), dtype=torch.bool, device=gram.device) if block.y is None else None
    distances = products = None
    for kernel in block.kernels:
        if kernel.product:
            if products is None:
                products = gram if c.point is None else gram + c.along_x[:, None] + c.along_y
            t = products * kernel.rate + kernel.shift
        else:
            if distances is None:
                distances = 2 * gram + c.minus_norm_x[:, None] + c.minus_norm_y
                distances = distances if itself is None else distances.masked_fill(itself, 0)
            t = distances * kernel.rate
        for keep, axis in ((kernel.keep_x, 1), (kernel.keep_y, 0)):
            if keep is not None:
                t = t.masked_fill(~keep.unsqueeze(axis), -torch.inf)
        if not kernel.diagonal and itself is not None:
            t = t.masked_fill(itself, -torch.inf)
        if "picked" in kernel.asked:
            kernel.found["picked"] = t[kernel.asked["picked"]].to(wide(t))
            t = t.index_put(kernel.asked["picked"], t.new_tensor(-torch.inf))
        for name, axis in (("rows", 1), ("columns", 0)):
            if name in kernel.asked:
                top = t.detach().amax(axis).clamp_min(torch.finfo(t.dtype).min)
                # At least 1, the largest term, where there is any term; logsumexp has no gradient where there is none.
                rest = (t - top.unsqueeze(axis)).exp().sum(axis).clamp_min(0.5).to(wide(t)).log()
                kernel.found[name] = LogSum(top.to(wide(t)), rest)
        if "total" in kernel.asked:
            kernel.found["total"] = (t.pow(kernel.power) if kernel.power else t.exp()).sum(dtype=wide(t))
