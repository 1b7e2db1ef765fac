"""A kernel on tiles: its values from the shared distances or products, and the sums it feeds."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch
from torch import Tensor

from gentle_core.losses.distances import Centred
from gentle_core.losses.products import times_transposed
from gentle_core.losses.tileplan import Kept, Scratch, Step, Tile

GRAM, PRODUCTS, VALUES, PART, SLOPE, WEIGHTS, MORE_WEIGHTS = range(7)

SAFE_TOP = 60.0
"""exp(60) is so far below the largest float32 that no sum of such terms over a batch comes near it."""
SAFE_RANGE = 80.0
"""exp(−80) is well above the least float32: sums of such terms keep all their digits."""


@attrs.define(eq=False)
class Form:
    """A kernel as t = rate·base + shift.

    Attributes:
        bounded: all |t| are small enough for exp(t) as it is. One exponential then serves rows, columns and the total;
            rows and columns that do not count are left out of the sums, with weights 0. Otherwise each log-sum
            follows its own largest term, and what does not count has t = −∞.
        keep: 1 for rows and columns that count and 0 for others; None for all.
    """

    step: Step
    rate: float
    bounded: bool
    keep: tuple[Tensor | None, Tensor | None]

    @classmethod
    def of(cls, step: Step, rate: Tensor, c: Centred) -> Form:
        value = rate.item()
        if step.product:
            bounded = abs(value) * c.reach.item() + abs(step.shift) <= SAFE_TOP
        else:
            widths = [(-norms.min()).sqrt() for norms in (c.minus_norm_x, c.minus_norm_y)]
            bounded = 0 <= value * (widths[0] + widths[1]).square().item() + abs(step.shift) <= SAFE_RANGE
        sides = [None if keep is None else keep.to(c.x.dtype) for keep in step.keep]
        return cls(step, value, bounded, (sides[0], sides[1]))

    def values(self, base: Base, cells: Tensor, tile: Tile, out: Tensor) -> Tensor:
        """t of a tile; unless `bounded`, −∞ where a cell does not count. `out` may be `cells`."""
        t = torch.mul(cells, self.rate / base.unit, out=out)
        if self.step.shift:
            t.add_(self.step.shift)
        if self.bounded:
            return t
        if tile.mirror and not self.step.diagonal:
            t.fill_diagonal_(-torch.inf)
        for keep, rows, axis in zip(self.step.keep, (tile.i, tile.j), (1, 0), strict=True):
            if keep is not None:
                t.masked_fill_(~keep[rows].unsqueeze(axis), -torch.inf)
        self.leave_out(t, tile, -torch.inf)
        return t

    def exponentials(self, base: Base, cells: Tensor, tile: Tile, out: Tensor) -> Tensor:
        """exp(t) of a bounded kernel; 0 for cells left out, but not for whole rows or columns. `out` as above."""
        if self.rate == base.unit and not self.step.shift:
            e = torch.exp(cells, out=out)
        else:
            e = self.values(base, cells, tile, out).exp_()
        if tile.mirror and not self.step.diagonal:
            e.fill_diagonal_(0)
        self.leave_out(e, tile, 0)
        return e

    def leave_out(self, x: Tensor, tile: Tile, value: float) -> None:
        """Set picked cells of a tile to `value`."""
        if len(self.step.picked):
            _, i, j = self.step.picked.of(tile)
            x[i, j] = value

    def picks(self, base: Base, cells: Tensor, tile: Tile) -> tuple[Tensor, Tensor]:
        """Which of the picked cells lie in a tile, and t there."""
        where, i, j = self.step.picked.of(tile)
        return where, cells[i, j] * (self.rate / base.unit) + self.step.shift

    def sums(self, exponentials: Tensor, tile: Tile, axis: int) -> Tensor:
        """Σ of a bounded kernel's exponentials over an axis of the tile, 0 for what does not count."""
        kept = [
            None if keep is None or self.step.entire(side, tile.at[side]) else keep[rows]
            for side, (keep, rows) in enumerate(zip(self.keep, (tile.i, tile.j), strict=True))
        ]
        over, of = kept[axis], kept[1 - axis]
        sums = exponentials.sum(axis) if over is None else exponentials @ over if axis else over @ exponentials
        return sums if of is None else sums.mul_(of)


@attrs.define(eq=False)
class Base:
    """What kernels of one kind are computed from: unit·D, D_ij = −‖x_i−y_j‖², or unit·x_i·y_j.

    Attributes:
        unit: the rate of one of the kernels, which then needs no multiplication.
        slope: its derivative by x'·y'.
        from_x, from_y: what is added to slope·x'·y'; None for nothing.
    """

    product: bool
    unit: float
    slope: float
    from_x: Tensor | None
    from_y: Tensor | None

    @classmethod
    def of(cls, product: bool, forms: Sequence[Form], c: Centred) -> Base:
        unit = next((form.rate for form in forms if form.step.product == product and form.rate), 1.0)
        if c.point is None:
            return cls(product, unit, unit, None, None)
        if product:
            return cls(product, unit, unit, c.along_x * unit, c.along_y * unit)
        return cls(product, unit, 2 * unit, c.minus_norm_x * unit, c.minus_norm_y * unit)

    def from_gram(self, gram: Tensor, tile: Tile, out: Tensor) -> Tensor:
        """From the product of the centred rows, which `out` may be."""
        assert self.from_x is not None and self.from_y is not None
        cells = torch.add(self.from_y[tile.j], gram, alpha=self.slope, out=out).add_(self.from_x[tile.i, None])
        return cells.fill_diagonal_(0) if tile.mirror and not self.product else cells


class Bases:
    """The bases of a block's kernels, by `product`; one matrix product serves both.

    Args:
        number: the block's.
        kept: where products are found, or put while there is room, if they serve several kernels: one kernel alone
            would not need much memory without tiles either.
    """

    def __init__(self, c: Centred, forms: Sequence[Form], number: int, kept: Kept):
        self.c, self.number, self.kept, self.shared = c, number, kept, len(forms) > 1
        kinds = sorted({form.step.product for form in forms}, reverse=True)
        self.kinds = {product: Base.of(product, forms, c) for product in kinds}

    def of_tile(self, tile: Tile, forms: Sequence[Form], scratch: Scratch) -> dict[bool, Tensor]:
        """The cells of a tile, of the kinds that the forms want; the caller may overwrite them."""
        shape = tile.shape
        wanted = {form.step.product for form in forms}
        gram, out = self._gram(tile, scratch)
        if self.c.point is None:
            return {True: gram if out is gram else out.copy_(gram)}
        # Products first: distances take the place of what both are made of
        return {
            product: base.from_gram(gram, tile, scratch(PRODUCTS, *shape) if product else out)
            for product, base in self.kinds.items()
            if product in wanted
        }

    def _gram(self, tile: Tile, scratch: Scratch) -> tuple[Tensor, Tensor]:
        """The product of a tile's rows, and what its cells may be written to: itself, unless it is to be kept."""
        at, shape = (self.number, tile.at), tile.shape
        gram = self.kept.tiles.pop(at, None)
        if gram is not None:
            return gram, gram
        stays = self.shared and self.kept.room(tile)
        x, y = self.c.x[tile.i], self.c.y[tile.j]
        scale = self.kinds[True].unit if self.c.point is None else 1.0
        gram = times_transposed(x, y, scale, out=x.new_empty(shape) if stays else scratch(GRAM, *shape))
        if stays:
            self.kept.tiles[at] = gram
        return gram, scratch(GRAM, *shape) if stays else gram


class LogSums:
    """Sums of exponentials over tiles: (count,) of them, as they are or about the largest term so far."""

    def __init__(self, count: int, like: Tensor, bounded: bool):
        self.top = like.new_full((count,), 0.0 if bounded else torch.finfo(like.dtype).min)
        self.sum = like.new_zeros(count)

    def follow(self, at: slice, t: Tensor, axis: int, buffer: Tensor) -> None:
        """Add a tile's terms about the largest so far."""
        before = self.top[at].clone()
        top = torch.maximum(before, t.amax(axis))
        self.sum[at].mul_((before - top).exp_())
        self.sum[at].add_(torch.sub(t, top.unsqueeze(axis), out=buffer).exp_().sum(axis))
        self.top[at] = top
