"""The derivative by a kernel's values, tile by tile."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch
from torch import Tensor

from gentle_core.losses.distances import Centred
from gentle_core.losses.tileforms import PART, VALUES, Base, Form
from gentle_core.losses.tileplan import Scratch, Tile


@attrs.define(eq=False)
class Slope:
    """S = ∂L/∂t of a kernel, through all that was asked of it, times `scale`.

    Attributes:
        symmetric: of a set with itself: tiles off the diagonal stand for two.
        log_sums: for each its name, its largest terms, and its gradient over its sum, times `scale`.
        total, picked: gradients, times `scale`; 0 and None where there are none.
        scale: ∂t/∂(x'·y'), so that M needs no multiplication by it; 1 where that is 0.
        factors: (m, w) and (w, n), whose product exp(t) is to be multiplied by, where the form is bounded and has
            log-sums; of w, the first `once` only on the diagonal of a set with itself.
    """

    form: Form
    symmetric: bool
    log_sums: list[tuple[str, Tensor, Tensor]]
    total: float
    picked: Tensor | None
    scale: float
    factors: tuple[Tensor, Tensor] | None = None
    once: int = 0

    @classmethod
    def of(
        cls,
        form: Form,
        c: Centred,
        symmetric: bool,
        tops: dict[int, Tensor],
        factors: dict[int, Tensor],
        grads: Sequence[Tensor | None],
    ) -> Slope:
        """
        Args:
            tops, factors: largest terms of the log-sums and their gradients over their sums, by output.
            grads: gradients of all outputs.
        """
        wanted = form.step.outputs
        scale = form.rate * (1 if form.step.product else 2) or 1.0
        log_sums = [
            (name, tops[at], factors[at] * scale)
            for name in ("rows", "columns")
            if (at := wanted.get(name)) is not None and at in factors
        ]
        total = grads[wanted["total"]] if "total" in wanted else None
        picked = grads[wanted["picked"]] if "picked" in wanted else None
        slope = cls(
            form, symmetric, log_sums, 0.0 if total is None else total.item() * scale,
            None if picked is None else picked * scale, scale,
        )  # fmt: skip
        if form.bounded and log_sums:
            slope._join(c)
        return slope

    def _join(self, c: Centred) -> None:
        """A log-sum of rows multiplies exp(t_ij) by f_i·keep_j, one of columns by keep_i·f_j."""
        keep_x, keep_y = self.form.keep
        ones_x, ones_y = c.x.new_ones(len(c.x)), c.y.new_ones(len(c.y))
        left = [f if name == "rows" else ones_x if keep_x is None else keep_x for name, _, f in self.log_sums]
        right = [f if name == "columns" else ones_y if keep_y is None else keep_y for name, _, f in self.log_sums]
        if self.total:
            left, right = [*left, ones_x * self.total], [*right, ones_y]
        self.once = len(left)
        if self.symmetric:
            left, right = left + right, right + left
        self.factors = torch.stack(left, 1), torch.stack(right)

    def of_tile(self, base: Base, cells: Tensor, tile: Tile, out: Tensor, scratch: Scratch) -> tuple[Tensor, float]:
        """A tile of it as a tensor, which is `out`, times a number."""
        step, factor = self.form.step, 1.0
        total = self.total * (2 if self.symmetric and not tile.mirror else 1)
        if step.power:
            s, factor = self.form.values(base, cells, tile, out).pow_(step.power - 1), total * step.power
        elif self.form.bounded:
            s = self.form.exponentials(base, cells, tile, out)
            if self.factors is None:
                factor = total
            else:
                s.mul_(self._factors(tile, scratch))
        else:
            t = self.form.values(base, cells, tile, scratch(VALUES, *tile.shape))
            s = out.zero_()
            for name, top, factors in self.log_sums:
                for rows, axis in tile.sides(name, self.symmetric):
                    part = torch.sub(t, top[rows].unsqueeze(axis), out=scratch(PART, *tile.shape))
                    s.add_(part.exp_().mul_(factors[rows].unsqueeze(axis)))
            if total:
                s.add_(t.exp_(), alpha=total)
        if self.picked is not None:
            where, i, j = step.picked.of(tile)
            s[i, j] = self.picked[where].to(s.dtype)
        if tile.mirror and not step.product:
            s.fill_diagonal_(0)  # D_ii is 0 whatever x_i is
        return s, factor

    def _factors(self, tile: Tile, scratch: Scratch) -> Tensor:
        assert self.factors is not None
        left, right = self.factors[0][tile.i], self.factors[1][:, tile.j]
        if tile.mirror:
            left, right = left[:, : self.once], right[: self.once]
        by_rows = self.log_sums[0][0] == "rows"
        if len(right) == 1 and not self.symmetric and self.form.keep[by_rows] is None:  # the other is 1 throughout
            return left if by_rows else right
        return torch.mm(left, right, out=scratch(PART, *tile.shape))
