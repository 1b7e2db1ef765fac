"""What is to be computed on which tile, by which rank: the book-keeping of `tiles`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import attrs
import torch
import torch.distributed as dist
from torch import Tensor

from gentle_core.losses.cells import Block, Kernel
from gentle_core.losses.distances import SLAB, Centred, Place, centred
from gentle_core.losses.talk import TALK

SHARED = 2**18
"""Numbers up to which a tensor shares an exchange between ranks with others."""
KEPT_SHARE = 4
KEPT_BYTES = 112 * 2**20


@attrs.define
class Tile:
    """One tile: its rows of x and of y, its number in both directions, and whether it straddles the diagonal of a
    set with itself, where it holds both (i, j) and (j, i)."""

    i: slice
    j: slice
    at: tuple[int, int]
    mirror: bool

    @property
    def shape(self) -> tuple[int, int]:
        return self.i.stop - self.i.start, self.j.stop - self.j.start

    def sides(self, name: str, symmetric: bool) -> list[tuple[slice, int]]:
        """Which of the log-sums "rows" or "columns" the tile adds to, and over which axis it runs.

        Those of both sides, where it stands for another tile as well: off the diagonal of a set with itself.
        """
        both = [(self.i, 1), (self.j, 0)]
        return both if symmetric and not self.mirror else both[:1] if name == "rows" else both[1:]


class Scratch:
    """Buffers for tiles; pieces of them are handed out, so that no tile allocates."""

    def __init__(self, like: Tensor, side: int):
        self.like, self.cells = like, side * side
        self.buffers: dict[int, Tensor] = {}
        self.views: dict[tuple[int, int, int], Tensor] = {}

    def __call__(self, which: int, rows: int, columns: int) -> Tensor:
        key = which, rows, columns
        if key not in self.views:
            if which not in self.buffers:
                self.buffers[which] = self.like.new_empty(self.cells)
            self.views[key] = self.buffers[which][: rows * columns].view(rows, columns)
        return self.views[key]


class Kept:
    """Products that the backward pass need not compute again: the first ones, as far as `cells` go.

    Enough to save a good part of the recomputation at some thousand rows, and nothing to speak of beside the rows
    themselves where there are many.
    """

    def __init__(self, cells: int):
        self.left = cells
        self.tiles: dict[tuple[int, tuple[int, int]], Tensor] = {}

    @classmethod
    def beside(cls, sets: Sequence[Tensor]) -> Kept:
        """As many as `KEPT_SHARE` times the numbers in the sets, at most `KEPT_BYTES`."""
        most = KEPT_BYTES // max((x.element_size() for x in sets), default=1)
        return cls(min(most, KEPT_SHARE * sum(x.numel() for x in sets)))

    def room(self, tile: Tile) -> bool:
        """Whether this tile is one of those to keep; call it once for each."""
        rows, columns = tile.shape
        fits = rows * columns <= self.left
        self.left -= rows * columns if fits else 0
        return fits


class Picked:
    """Single cells, sorted by tile."""

    def __init__(self, cells: tuple[Tensor, Tensor] | None, side: int):
        i, j = cells or (torch.zeros(0, dtype=torch.long),) * 2
        row, column = i // side, j // side
        columns = int(column.max()) + 1 if len(column) else 1
        numbers, order = (row * columns + column).sort(stable=True)
        tiles, counts = numbers.unique_consecutive(return_counts=True)
        self.count = len(i)
        self._of = {
            (number // columns, number % columns): (where, i[where] % side, j[where] % side)
            for number, where in zip(tiles.tolist(), order.split(counts.tolist()), strict=True)
        }
        self._none = (order[:0], order[:0], order[:0])

    def __len__(self) -> int:
        return self.count

    def of(self, tile: Tile) -> tuple[Tensor, Tensor, Tensor]:
        """Which cells lie in the tile, and where."""
        return self._of.get(tile.at, self._none)


@attrs.define(eq=False)
class Step:
    """A kernel, with the positions of its tensors among the inputs and outputs.

    It holds no output itself: the autograd graph holds the plan, and the two must not hold each other.

    Attributes:
        gradients: the positions of outputs that carry gradient.
        alive, whole: for tiles in both directions, whether any of their rows counts, and whether all do; None for all.
    """

    rate: int
    product: bool
    shift: float
    keep: tuple[Tensor | None, Tensor | None]
    diagonal: bool
    power: int
    outputs: dict[str, int]
    gradients: list[int]
    picked: Picked
    alive: tuple[list[bool] | None, list[bool] | None]
    whole: tuple[list[bool] | None, list[bool] | None]

    def entire(self, side: int, number: int) -> bool:
        """Whether all rows (side 0) or columns (side 1) of the tile of that number count."""
        of_side = self.whole[side]
        return of_side is None or of_side[number]

    def concerns(self, tile: Tile) -> bool:
        """Whether the kernel has anything to find in the tile."""
        return all(side is None or side[number] for side, number in zip(self.alive, tile.at, strict=True))


@attrs.define(eq=False)
class Job:
    """A block: its number, where its sets are among the inputs; and `about`, what centring found, without the sets."""

    number: int
    x: int
    y: int | None
    steps: list[Step]
    about: Centred | None = None

    @property
    def distances(self) -> bool:
        """Whether a kernel is of distances."""
        return any(not step.product for step in self.steps)


class Plan:
    """Blocks and moments in terms of flat lists of inputs and outputs.

    Attributes:
        side: rows of a tile.
        tops: positions of outputs without gradient.
        kept: products of the forward pass for the backward pass.
    """

    def __init__(self, blocks: Sequence[Block], moments: Sequence[Tensor], tile: int, group: Any):
        self.group = group
        self.rank, self.world = (dist.get_rank(group), dist.get_world_size(group)) if group is not None else (0, 1)
        longest = max((len(z) for block in blocks for z in (block.x, block.y) if z is not None), default=1)
        # With several ranks there must be tiles for all of them.
        self.side = max(1, min(tile, -(-longest // self.world)))
        self.inputs: list[Tensor] = []
        self._position: dict[int, int] = {}
        self.outputs = 0
        self.tops: list[int] = []
        self.jobs = [
            Job(n, self._input(b.x), None if b.y is None else self._input(b.y), [self._step(b, k) for k in b.kernels])
            for n, b in enumerate(blocks)
        ]
        self.moments = [(self._input(x), self._output()) for x in moments]
        sets = {p for job in self.jobs for p in (job.x, job.y) if p is not None}
        distances = {p for job in self.jobs if job.distances for p in (job.x, job.y)}
        self.places = {p: Place.of(self.inputs[p], p in distances) for p in sets}
        graph = torch.is_grad_enabled() and any(x.requires_grad for x in self.inputs)
        self.kept = Kept.beside([self.inputs[p] for p in sets] if graph else [])

    def centred(self, job: Job, inputs: Sequence[Tensor]) -> Centred:
        """The sets of a block about their common point."""
        x, y = inputs[job.x], None if job.y is None else inputs[job.y]
        if job.about is None:
            place_y = self.places[job.x if job.y is None else job.y]
            found = centred(x, y, self.places[job.x], place_y, job.distances)
            job.about = attrs.evolve(found, x=found.x[:0].clone(), y=found.y[:0].clone())
            return found
        point = job.about.point
        near_x = x if point is None else x - point
        near_y = near_x if y is None else y if point is None else y - point
        return attrs.evolve(job.about, x=near_x, y=near_y)

    def _input(self, x: Tensor) -> int:
        if id(x) not in self._position:
            self._position[id(x)] = len(self.inputs)
            self.inputs.append(x)
        return self._position[id(x)]

    def _output(self, width: int = 1) -> int:
        self.outputs += width
        return self.outputs - width

    def _step(self, block: Block, kernel: Kernel) -> Step:
        outputs, gradients = {}, []
        for name in kernel.asked:
            if name in ("rows", "columns"):
                outputs[name] = self._output(2)
                self.tops.append(outputs[name])
                gradients.append(outputs[name] + 1)
            else:
                outputs[name] = self._output()
                gradients.append(outputs[name])
        keep = kernel.keep_x, kernel.keep_x if block.y is None else kernel.keep_y
        return Step(
            self._input(kernel.rate), product=kernel.product, shift=kernel.shift, keep=keep, diagonal=kernel.diagonal,
            power=kernel.power, outputs=outputs, gradients=gradients,
            picked=Picked(kernel.asked.get("picked"), self.side),
            alive=(self._by_tile(keep[0], any), self._by_tile(keep[1], any)),
            whole=(self._by_tile(keep[0], all), self._by_tile(keep[1], all)),
        )  # fmt: skip

    def _by_tile(self, keep: Tensor | None, join: Callable[[list[bool]], bool]) -> list[bool] | None:
        if keep is None:
            return None
        rows = keep.tolist()
        parts = [join(rows[start : start + self.side]) for start in range(0, len(rows), self.side)]
        return None if all(parts) else parts

    def tiles(self, m: int, n: int, symmetric: bool) -> Iterator[Tile]:
        """This rank's tiles, one column of tiles after the other."""
        side, turn = self.side, 0
        for b in range(-(-n // side)):
            for a in range(b + 1 if symmetric else -(-m // side)):
                if turn % self.world == self.rank:
                    i, j = slice(a * side, min(a * side + side, m)), slice(b * side, min(b * side + side, n))
                    yield Tile(i, j, (a, b), symmetric and a == b)
                turn += 1

    def slabs(self, m: int) -> list[slice]:
        """This rank's part of m rows, in pieces."""
        return [slice(start, start + SLAB) for start in range(0, m, SLAB)][self.rank :: self.world]

    def sum_over_ranks(self, tensors: Sequence[Tensor]) -> None:
        """In place; nothing to do for one process."""
        self._over_ranks(tensors, dist.ReduceOp.SUM)

    def _over_ranks(self, tensors: Sequence[Tensor], how: Any) -> None:
        """An exchange costs a round trip, so small tensors share one."""
        if self.group is None:
            return
        together: dict[torch.dtype, list[Tensor]] = {}
        with TALK.timed():
            for x in tensors:
                if x.numel() > SHARED:
                    dist.all_reduce(x, op=how, group=self.group)
                else:
                    together.setdefault(x.dtype, []).append(x)
            for small in together.values():
                flat = torch.cat([x.reshape(-1) for x in small])
                dist.all_reduce(flat, op=how, group=self.group)
                for x, part in zip(small, flat.split([x.numel() for x in small]), strict=True):
                    x.copy_(part.view_as(x))

    def combine(self, log_sums: Sequence[tuple[Tensor, Tensor]], sums: Sequence[Tensor]) -> None:
        """Put the ranks' parts together, in place: (top, sum) of each log-sum, and plain sums."""
        if self.group is None:
            return
        own = [top.clone() for top, _ in log_sums]
        self._over_ranks([top for top, _ in log_sums], dist.ReduceOp.MAX)
        for mine, (top, total) in zip(own, log_sums, strict=True):
            total.mul_((mine - top).exp_())
        self.sum_over_ranks([*(total for _, total in log_sums), *sums])
