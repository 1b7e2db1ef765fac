"""A kernel on tiles: its values from the shared product, the sums it feeds, and its slope."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from gentle_core.losses.distances import Centred
from gentle_core.losses.tileplan import Scratch, Step, Tile

T, SLOPE, PART, WEIGHTS = range(4)

SAFE_RANGE = 80.0
"""exp(−80) is well above the least float32: sums of such terms keep all their digits."""


@attrs.define(eq=False)
class Form:
    """A kernel as t = a·G + p_i + q_j, G the product of centred rows.

    Attributes:
        from_x, from_y: p and q per unit of rate.
        top: an upper bound of t from which no t is further than `SAFE_RANGE`, already taken off p. Log-sums may then
            use it for all rows, so that one exponential serves rows and columns. None if there is no such bound: each
            log-sum then follows its own largest term.
    """

    step: Step
    rate: float
    a: float
    p: Tensor
    q: Tensor
    from_x: Tensor
    from_y: Tensor
    top: float | None

    @classmethod
    def of(cls, step: Step, rate: Tensor, c: Centred) -> Form:
        value = rate.item()
        if step.product:
            reach = abs(value) * c.reach.item()
            a, from_x, from_y, low, high = value, c.along_x, c.along_y, -reach, reach
        else:
            widths = [(-norms.min()).sqrt() for norms in (c.minus_norm_x, c.minus_norm_y)]
            a, from_x, from_y, low, high = 2 * value, c.minus_norm_x, c.minus_norm_y, 0.0, 0.0
            low -= value * (widths[0] + widths[1]).square().item()
        top = high if high - low < SAFE_RANGE and "total" not in step.outputs else None
        p, q = value * from_x + (step.shift - (top or 0.0)), value * from_y
        if step.keep[0] is not None:
            p = p.where(step.keep[0], -torch.inf)
        if step.keep[1] is not None:
            q = q.where(step.keep[1], -torch.inf)
        return cls(step, value, a, p, q, from_x, from_y, top)

    def values(self, gram: Tensor, tile: Tile, scratch: Scratch) -> Tensor:
        """t (less top) of a tile."""
        t = torch.add(self.p[tile.i, None], self.q[None, tile.j], out=scratch(T, *gram.shape))
        t.add_(gram, alpha=self.a)
        if tile.mirror and not self.step.diagonal:
            t.fill_diagonal_(-torch.inf)
        elif tile.mirror and not self.step.product:
            t.fill_diagonal_(0)  # a distance of 0; its top is 0 as well
        return t

    def slope(
        self,
        t: Tensor,
        tile: Tile,
        sides: dict[int, list[tuple[slice, int]]],
        tops: dict[int, Tensor],
        factors: dict[int, Tensor],
        total: Tensor | None,
        scratch: Scratch,
    ) -> Tensor:
        """S = ∂L/∂t of a tile through log-sums and the total. May use up `t`.

        Args:
            sides: for each log-sum its rows or columns in the tile, and the axis it runs over.
            tops: largest terms of the log-sums.
            factors: gradient over sum of the log-sums; S is exp(t − top) times that.
            total: gradient of the total.
        """
        parts = [(tops[at], factors[at], *side) for at, found in sides.items() if at in factors for side in found]
        if self.top is not None and parts:
            scales = [factor[rows].unsqueeze(axis) for _, factor, rows, axis in parts]
            for scale in scales[1:]:
                scales[0] = torch.add(scales[0], scale, out=scratch(PART, *t.shape))
            return t.exp_().mul_(scales[0])
        slope = scratch(SLOPE, *t.shape)
        if not parts:
            slope.zero_()
        for number, (top, factor, rows, axis) in enumerate(parts):
            part = torch.sub(t, top[rows].unsqueeze(axis), out=scratch(PART, *t.shape) if number else slope)
            part.exp_().mul_(factor[rows].unsqueeze(axis))
            if number:
                slope.add_(part)
        if total is not None:
            power = self.step.power
            part = torch.pow(t, power - 1, out=scratch(PART, *t.shape)) if power else t.exp_()
            slope.add_(part.mul_(total * power if power else total))
        return slope


class LogSums:
    """Sums of exponentials over tiles: (count,) of them, about a fixed top or about the largest term so far."""

    def __init__(self, count: int, like: Tensor, top: float | None):
        self.fixed = top is not None
        self.top = like.new_full((count,), torch.finfo(like.dtype).min if top is None else top)
        self.sum = like.new_zeros(count)

    def follow(self, at: slice, t: Tensor, axis: int, buffer: Tensor) -> None:
        """Add a tile's terms about the largest so far."""
        before = self.top[at].clone()
        top = torch.maximum(before, t.amax(axis))
        self.sum[at].mul_((before - top).exp_())
        self.sum[at].add_(torch.sub(t, top.unsqueeze(axis), out=buffer).exp_().sum(axis))
        self.top[at] = top
