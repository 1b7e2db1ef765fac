"""The reductions of `cells`, tile by tile, forwards and backwards; shared out among ranks.

No cell outlives its tile: the forward pass keeps the O(B) reductions, the backward pass computes each tile again.
A tile of G = x'·y'ᵀ is one matrix product; each kernel is t = a·G + p_i + q_j. With S = ∂L/∂t, and M the sum of a·S
over kernels, M·y' is the rows' gradient through G; what goes through p needs only the sums of S over j.
A set with itself is symmetric: tiles on and above the diagonal suffice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from gentle_core.losses.cells import Block, LogSum
from gentle_core.losses.distances import SLAB, Centred
from gentle_core.losses.precision import exact, wide
from gentle_core.losses.products import times_transposed
from gentle_core.losses.tileplan import Job, Plan, Scratch, Step, Tile

T, SLOPE, PART, WEIGHTS = range(4)


def run_tiled(blocks: Sequence[Block], moments: Sequence[list[Tensor]], tile: int, group: Any = None) -> None:
    """Fill in the kernels of `blocks` and the moments.

    Raises:
        RuntimeError: when differentiated twice.
    """
    plan = Plan(blocks, [moment[0] for moment in moments], tile, group)
    if not plan.inputs:
        return
    inputs, plan.inputs = plan.inputs, []  # autograd saves them; the plan outlives them in its graph
    out = _Reductions.apply(plan, *inputs)
    for job, block in zip(plan.jobs, blocks, strict=True):
        for step, kernel in zip(job.steps, block.kernels, strict=True):
            for name, at in step.outputs.items():
                kernel.found[name] = LogSum(out[at], out[at + 1]) if name in ("rows", "columns") else out[at]
    for moment, (_, at) in zip(moments, plan.moments, strict=True):
        moment[0] = out[at]


class _Reductions(torch.autograd.Function):
    """Inputs: sets and rates. Outputs: for each log-sum its top (no gradient) and its rest; totals; picked cells."""

    @staticmethod
    def forward(ctx: Any, plan: Plan, *inputs: Tensor) -> tuple[Tensor, ...]:
        outputs: list[Tensor] = [inputs[0]] * plan.outputs
        sums: list[Tensor] = [inputs[0]] * plan.outputs
        with exact(inputs[0].device):
            scratch = Scratch(inputs[0], plan.side, 2)
            for job in plan.jobs:
                _forward(plan, job, inputs, outputs, sums, scratch)
            for position, at in plan.moments:
                outputs[at] = inputs[position].new_zeros((inputs[position].shape[1],) * 2)
                for slab in plan.slabs(len(inputs[position])):
                    part = inputs[position][slab].T
                    outputs[at] += times_transposed(part, part)
            plan.sum_over_ranks([outputs[at] for _, at in plan.moments])
        ctx.mark_non_differentiable(*(outputs[at] for at in plan.tops))
        ctx.set_materialize_grads(False)
        ctx.plan, ctx.inputs = plan, len(inputs)
        ctx.save_for_backward(*inputs, *outputs, *(sums[at] for at in plan.tops))
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError("the tiled objective has no second derivative; compute it densely, with tile=0")
        plan: Plan = ctx.plan
        saved = ctx.saved_tensors
        inputs, outputs = saved[: ctx.inputs], saved[ctx.inputs : ctx.inputs + plan.outputs]
        # S = g_i·exp(t − top_i)/sum_i: the factors of each log-sum
        factors = {
            at: grads[at + 1] / total
            for at, total in zip(plan.tops, saved[ctx.inputs + plan.outputs :], strict=True)
            if grads[at + 1] is not None
        }
        found = [
            torch.zeros_like(x) if want else None for x, want in zip(inputs, ctx.needs_input_grad[1:], strict=True)
        ]
        with exact(inputs[0].device):
            scratch = Scratch(inputs[0], plan.side, 4)
            for job in plan.jobs:
                _backward(plan, job, inputs, outputs, grads, factors, found, scratch)
            for position, at in plan.moments:
                gradient, target = grads[at], found[position]
                if gradient is not None and target is not None:
                    both = gradient + gradient.T
                    for slab in plan.slabs(len(target)):
                        target[slab] += times_transposed(inputs[position][slab], both)
            plan.sum_over_ranks([x for x in found if x is not None])
        return (None, *found)


@attrs.define(eq=False)
class _Form:
    """A kernel as t = a·G + p_i + q_j; `from_x`, `from_y` are p and q per unit of rate."""

    a: Tensor
    p: Tensor
    q: Tensor
    from_x: Tensor
    from_y: Tensor

    @classmethod
    def of(cls, step: Step, rate: Tensor, c: Centred) -> _Form:
        if step.product:
            a, from_x, from_y = rate, c.along_x, c.along_y
        else:
            a, from_x, from_y = 2 * rate, c.minus_norm_x, c.minus_norm_y
        p, q = rate * from_x + step.shift, rate * from_y
        if step.keep[0] is not None:
            p = p.where(step.keep[0], -torch.inf)
        if step.keep[1] is not None:
            q = q.where(step.keep[1], -torch.inf)
        return cls(a, p, q, from_x, from_y)


def _t(gram: Tensor, step: Step, form: _Form, tile: Tile, scratch: Scratch) -> Tensor:
    t = torch.mul(gram, form.a, out=scratch(T, *gram.shape))
    t += form.p[tile.i, None]
    t += form.q[None, tile.j]
    if tile.mirror and not step.diagonal:
        t.fill_diagonal_(-torch.inf)
    elif tile.mirror and not step.product:
        t.fill_diagonal_(0)
    return t


class _Running:
    """Log-sums that grow with every tile."""

    def __init__(self, count: int, like: Tensor):
        self.top = like.new_full((count,), torch.finfo(like.dtype).min)
        self.sum = like.new_zeros(count)

    def add(self, at: slice, t: Tensor, axis: int, buffer: Tensor) -> None:
        before = self.top[at].clone()
        top = torch.maximum(before, t.amax(axis))
        self.sum[at].mul_((before - top).exp_())
        self.sum[at].add_(torch.sub(t, top.unsqueeze(axis), out=buffer).exp_().sum(axis))
        self.top[at] = top


def _forward(
    plan: Plan, job: Job, inputs: Sequence[Tensor], outputs: list[Tensor], sums: list[Tensor], scratch: Scratch
) -> None:
    symmetric = job.y is None
    c = plan.centred(job, inputs)
    forms = [_Form.of(step, inputs[step.rate], c) for step in job.steps]
    running: dict[int, _Running] = {}
    for step in job.steps:
        for name, at in step.outputs.items():
            if name in ("rows", "columns"):
                running[at] = _Running(len(c.x if name == "rows" else c.y), c.x)
            elif name == "total":
                outputs[at] = c.x.new_zeros((), dtype=wide(c.x))
            else:
                outputs[at] = c.x.new_zeros(len(step.picked))
    for tile in plan.tiles(len(c.x), len(c.y), symmetric):
        concerned = [pair for pair in zip(job.steps, forms, strict=True) if pair[0].concerns(tile)]
        if not concerned:
            continue
        gram = times_transposed(c.near_x(tile.i), c.near_y(tile.j))
        buffer = scratch(SLOPE, *gram.shape)
        for step, form in concerned:
            t = _t(gram, step, form, tile, scratch)
            for name, at in step.outputs.items():
                if name == "picked":
                    where, i, j = step.picked.of(tile)
                    outputs[at][where] = t[i, j]
                elif name == "total":
                    values = torch.pow(t, step.power, out=buffer) if step.power else torch.exp(t, out=buffer)
                    outputs[at] += values.sum() * (2 if symmetric and not tile.mirror else 1)
                else:
                    for side, axis in _sides(name, tile, symmetric):
                        running[at].add(side, t, axis, buffer)
    plain = [outputs[at] for step in job.steps for at in step.outputs.values() if at not in running]
    plan.combine([(r.top, r.sum) for r in running.values()], plain)
    for at, log_sum in running.items():
        sums[at] = log_sum.sum.clamp_min_(0.5)  # at least 1, the largest term, where there is any
        outputs[at], outputs[at + 1] = log_sum.top, sums[at].log()


def _sides(name: str, tile: Tile, symmetric: bool) -> list[tuple[slice, int]]:
    """Which log-sums a tile adds to, and over which axis; off the diagonal of a set with itself, those of both."""
    if name == "columns":
        return [(tile.j, 0)]
    return [(tile.i, 1), (tile.j, 0)] if symmetric and not tile.mirror else [(tile.i, 1)]


def _backward(
    plan: Plan,
    job: Job,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    grads: Sequence[Tensor | None],
    factors: dict[int, Tensor],
    found: Sequence[Tensor | None],
    scratch: Scratch,
) -> None:
    symmetric = job.y is None
    steps = [step for step in job.steps if any(grads[at] is not None for at in step.gradients)]
    if not steps:
        return
    c = plan.centred(job, inputs)
    forms = [_Form.of(step, inputs[step.rate], c) for step in steps]
    targets = found[job.x], found[job.x if job.y is None else job.y]
    # Σ_j rate·S_ij, apart for distances and products
    sums = [[z.new_zeros(len(z)) for _ in range(2)] for z in ((c.x,) if symmetric else (c.x, c.y))]
    for tile in plan.tiles(len(c.x), len(c.y), symmetric):
        concerned = [pair for pair in zip(steps, forms, strict=True) if pair[0].concerns(tile)]
        if not concerned:
            continue
        near_x, near_y = c.near_x(tile.i), c.near_y(tile.j)
        gram = times_transposed(near_x, near_y)
        weights = scratch(WEIGHTS, *gram.shape)
        for number, (step, form) in enumerate(concerned):
            t = _t(gram, step, form, tile, scratch)
            slope = _slope(step, t, tile, symmetric, outputs, grads, factors, scratch)
            if tile.mirror and not step.product:
                slope.fill_diagonal_(0)  # D_ii is 0 whatever x_i is
            rows, columns = slope.sum(1), slope.sum(0)
            rate, gradient = inputs[step.rate], found[step.rate]
            if gradient is not None:
                through_gram = torch.dot(slope.reshape(-1), gram.reshape(-1)) * (1 if step.product else 2)
                gradient += through_gram + rows @ form.from_x[tile.i] + columns @ form.from_y[tile.j]
            sums[0][step.product][tile.i] += rate * rows
            sums[-1][step.product][tile.j] += rate * columns
            if number:
                weights.addcmul_(slope, form.a)
            else:
                torch.mul(slope, form.a, out=weights)
        if tile.mirror:  # cells (i, j) and (j, i) are both here
            weights.add_(weights.T.clone())
        if targets[0] is not None:
            targets[0][tile.i] += times_transposed(weights, near_y.T)
        if targets[1] is not None and not tile.mirror:
            targets[1][tile.j] += times_transposed(weights.T, near_x.T)
    for target, near, (of_distances, of_products) in zip(targets, (c.near_x, c.near_y), sums, strict=False):
        if target is None:
            continue
        for start in range(0, len(target), SLAB):
            slab = slice(start, start + SLAB)
            target[slab].addcmul_(near(slab), of_distances[slab, None], value=-2).addr_(of_products[slab], c.point)


def _slope(
    step: Step,
    t: Tensor,
    tile: Tile,
    symmetric: bool,
    outputs: Sequence[Tensor],
    grads: Sequence[Tensor | None],
    factors: dict[int, Tensor],
    scratch: Scratch,
) -> Tensor:
    """S = ∂L/∂t of a tile, through all that was asked of a kernel."""
    slope, part = scratch(SLOPE, *t.shape), scratch(PART, *t.shape)
    begun = False
    for name, at in step.outputs.items():
        if name in ("rows", "columns") and at in factors:
            for side, axis in _sides(name, tile, symmetric):
                value = torch.sub(t, outputs[at][side].unsqueeze(axis), out=part if begun else slope)
                value.exp_().mul_(factors[at][side].unsqueeze(axis))
                slope, begun = (slope.add_(value) if begun else value), True
        elif name == "total" and (gradient := grads[at]) is not None:
            gradient = gradient.to(t.dtype) * (2 if symmetric and not tile.mirror else 1)
            value = part if begun else slope
            if step.power:
                torch.pow(t, step.power - 1, out=value).mul_(step.power * gradient)
            else:
                torch.exp(t, out=value).mul_(gradient)
            slope, begun = (slope.add_(value) if begun else value), True
    if not begun:
        slope.zero_()
    if "picked" in step.outputs and (gradient := grads[step.outputs["picked"]]) is not None:
        where, i, j = step.picked.of(tile)
        slope.index_put_((i, j), gradient[where], accumulate=True)
    return slope
