"""The reductions of `cells`, tile by tile, forwards and backwards; shared out among ranks.

No cell outlives its tile: the forward pass keeps the O(B) reductions, the backward pass computes each tile again.
A tile of G = x'·y'ᵀ is one matrix product; each kernel is t = a·G + p_i + q_j. With S = ∂L/∂t, and M the sum of a·S
over kernels, M·y' is the rows' gradient through G; what goes through p needs only the sums of S over j.
A set with itself is symmetric: tiles on and above the diagonal suffice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gentle_core.losses.cells import Block, LogSum
from gentle_core.losses.distances import SLAB
from gentle_core.losses.precision import exact, wide
from gentle_core.losses.products import times_transposed
from gentle_core.losses.tileforms import SLOPE, WEIGHTS, Form, LogSums
from gentle_core.losses.tileplan import Job, Plan, Scratch, Tile

NOTHING = 1e30


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
        log_sums: dict[int, LogSums] = {}
        with exact(inputs[0].device):
            scratch = Scratch(inputs[0], plan.side, 2)
            for job in plan.jobs:
                log_sums |= _forward(plan, job, inputs, outputs, scratch)
            for position, at in plan.moments:
                outputs[at] = inputs[position].new_zeros((inputs[position].shape[1],) * 2)
                for slab in plan.slabs(len(inputs[position])):
                    part = inputs[position][slab].T
                    outputs[at] += times_transposed(part, part)
            plan.sum_over_ranks([outputs[at] for _, at in plan.moments])
        for at, found in log_sums.items():
            rest = found.sum.to(wide(found.sum)).log()
            # Of no term at all: finite, that gradients be 0 and not undefined, but far below everything
            outputs[at], outputs[at + 1] = found.top.to(rest.dtype), rest.where(found.sum > 0, -NOTHING)
        ctx.mark_non_differentiable(*(outputs[at] for at in plan.tops))
        ctx.set_materialize_grads(False)
        ctx.plan, ctx.counts = plan, (len(inputs), len(plan.tops))
        kept = [log_sums[at] for at in plan.tops]
        ctx.save_for_backward(*inputs, *(found.top for found in kept), *(found.sum for found in kept))
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError("the tiled objective has no second derivative; compute it densely, with tile=0")
        plan: Plan = ctx.plan
        n, k = ctx.counts
        inputs, tops, sums = (ctx.saved_tensors[part] for part in (slice(n), slice(n, n + k), slice(n + k, None)))
        factors = {
            at: gradient.to(total.dtype) / total.where(total > 0, 1)
            for at, total in zip(plan.tops, sums, strict=True)
            if (gradient := grads[at + 1]) is not None
        }
        found = [
            torch.zeros_like(x) if want else None for x, want in zip(inputs, ctx.needs_input_grad[1:], strict=True)
        ]
        with exact(inputs[0].device):
            scratch = Scratch(inputs[0], plan.side, 4)
            for job in plan.jobs:
                _backward(plan, job, inputs, dict(zip(plan.tops, tops, strict=True)), factors, grads, found, scratch)
            for position, at in plan.moments:
                gradient, target = grads[at], found[position]
                if gradient is not None and target is not None:
                    both = gradient + gradient.T
                    for slab in plan.slabs(len(target)):
                        target[slab] += times_transposed(inputs[position][slab], both)
            plan.sum_over_ranks([x for x in found if x is not None])
        return (None, *found)


def _sides(name: str, tile: Tile, symmetric: bool) -> list[tuple[slice, int]]:
    """Which log-sums a tile adds to, and over which axis; off the diagonal of a set with itself, those of both."""
    if name == "columns":
        return [(tile.j, 0)]
    return [(tile.i, 1), (tile.j, 0)] if symmetric and not tile.mirror else [(tile.i, 1)]


def _forward(
    plan: Plan, job: Job, inputs: Sequence[Tensor], outputs: list[Tensor], scratch: Scratch
) -> dict[int, LogSums]:
    """Fill in totals and picked cells; return the log-sums."""
    symmetric = job.y is None
    c = plan.centred(job, inputs)
    forms = [Form.of(step, inputs[step.rate], c) for step in job.steps]
    log_sums: dict[int, LogSums] = {}
    for form in forms:
        for name, at in form.step.outputs.items():
            if name in ("rows", "columns"):
                log_sums[at] = LogSums(len(c.x if name == "rows" else c.y), c.x, form.top)
            else:
                count = (len(form.step.picked),) if name == "picked" else ()
                outputs[at] = c.x.new_zeros(count, dtype=wide(c.x))
    column, near_y = -1, c.y
    for tile in plan.tiles(len(c.x), len(c.y), symmetric):
        concerned = [form for form in forms if form.step.concerns(tile)]
        if not concerned:
            continue
        if column != tile.at[1]:
            column, near_y = tile.at[1], c.near_y(tile.j)
        gram = times_transposed(c.near_x(tile.i), near_y)
        buffer = scratch(SLOPE, *gram.shape)
        for form in concerned:
            t = form.values(gram, tile, scratch)
            if "picked" in form.step.outputs:
                where, i, j = form.step.picked.of(tile)
                outputs[form.step.outputs["picked"]][where] = t[i, j].to(wide(t)) + (form.top or 0.0)
                t[i, j] = -torch.inf
            if "total" in form.step.outputs:
                values = t.pow(form.step.power) if form.step.power else torch.exp(t, out=buffer)
                outputs[form.step.outputs["total"]] += values.sum() * (2 if symmetric and not tile.mirror else 1)
            exponentials = None
            for name in ("rows", "columns"):
                for side, axis in _sides(name, tile, symmetric) if name in form.step.outputs else ():
                    found = log_sums[form.step.outputs[name]]
                    if form.top is None:
                        found.follow(side, t, axis, buffer)
                    else:
                        exponentials = t.exp_() if exponentials is None else exponentials
                        found.sum[side] += exponentials.sum(axis)
    plain = [outputs[at] for step in job.steps for at in step.outputs.values() if at not in log_sums]
    plan.combine([(found.top, found.sum) for found in log_sums.values()], plain)
    return log_sums


def _backward(
    plan: Plan,
    job: Job,
    inputs: Sequence[Tensor],
    tops: dict[int, Tensor],
    factors: dict[int, Tensor],
    grads: Sequence[Tensor | None],
    found: Sequence[Tensor | None],
    scratch: Scratch,
) -> None:
    """Add the block's part to the gradients in `found`."""
    symmetric = job.y is None
    steps = [step for step in job.steps if any(grads[at] is not None for at in step.gradients)]
    if not steps:
        return
    c = plan.centred(job, inputs)
    forms = [Form.of(step, inputs[step.rate], c) for step in steps]
    targets = found[job.x], found[job.x if job.y is None else job.y]
    # Σ_j rate·S_ij, apart for distances and products
    sums = [[z.new_zeros(len(z)) for _ in range(2)] for z in ((c.x,) if symmetric else (c.x, c.y))]
    column, near_y = -1, c.y
    for tile in plan.tiles(len(c.x), len(c.y), symmetric):
        concerned = [form for form in forms if form.step.concerns(tile)]
        if not concerned:
            continue
        if column != tile.at[1]:
            column, near_y = tile.at[1], c.near_y(tile.j)
        near_x = c.near_x(tile.i)
        gram = times_transposed(near_x, near_y)
        weights = gram
        for number, form in enumerate(concerned):
            slope = _slope(form, gram, tile, symmetric, tops, factors, grads, scratch)
            rows, columns = slope.sum(1), slope.sum(0)
            gradient = found[form.step.rate]
            if gradient is not None:
                through_gram = torch.dot(slope.reshape(-1), gram.reshape(-1)) * (1 if form.step.product else 2)
                gradient += through_gram + rows @ form.from_x[tile.i] + columns @ form.from_y[tile.j]
            sums[0][form.step.product][tile.i] += rows.mul_(form.rate)
            sums[-1][form.step.product][tile.j] += columns.mul_(form.rate)
            if number:
                weights.add_(slope, alpha=form.a)
            elif len(concerned) > 1:
                weights = torch.mul(slope, form.a, out=scratch(WEIGHTS, *gram.shape))
            else:
                weights = slope.mul_(form.a)
        del gram
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
    form: Form,
    gram: Tensor,
    tile: Tile,
    symmetric: bool,
    tops: dict[int, Tensor],
    factors: dict[int, Tensor],
    grads: Sequence[Tensor | None],
    scratch: Scratch,
) -> Tensor:
    """S = ∂L/∂t of a tile, through all that was asked of a kernel."""
    outputs = form.step.outputs
    sides = {outputs[name]: _sides(name, tile, symmetric) for name in ("rows", "columns") if name in outputs}
    total = grads[outputs["total"]] if "total" in outputs else None
    if total is not None:
        total = total.to(gram.dtype) * (2 if symmetric and not tile.mirror else 1)
    t = form.values(gram, tile, scratch)
    where, i, j = form.step.picked.of(tile)
    if "picked" in outputs:
        t[i, j] = -torch.inf
    slope = form.slope(t, tile, sides, tops, factors, total, scratch)
    if "picked" in outputs and (gradient := grads[outputs["picked"]]) is not None:
        slope[i, j] = gradient[where].to(slope.dtype)
    if tile.mirror and not form.step.product:
        slope.fill_diagonal_(0)  # D_ii is 0 whatever x_i is
    return slope
