"""The reductions of `cells`, tile by tile, forwards and backwards; shared out among ranks.

The forward pass keeps the O(B) reductions and some tiles (`tileplan.Kept`, at most a few times the rows themselves);
the backward pass computes all others again.
A tile of x'·y'ᵀ is one matrix product, from which come distances D and inner products P; each kernel is t = rate·D or
t = rate·P + shift. With S = ∂L/∂t, and M the sum of ∂t/∂(x'·y')·S over kernels, M·y' is the rows' gradient through the
product; what goes through the norms in D needs only the sums of M over j.
A set with itself is symmetric: tiles on and above the diagonal suffice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gentle_core.losses.cells import Block, LogSum
from gentle_core.losses.precision import exact, wide
from gentle_core.losses.products import add_product
from gentle_core.losses.tileforms import MORE_WEIGHTS, PART, SLOPE, VALUES, WEIGHTS, Bases, Form, LogSums
from gentle_core.losses.tileplan import Job, Plan, Scratch
from gentle_core.losses.tileslopes import Slope

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
            scratch = Scratch(inputs[0], plan.side)
            for job in plan.jobs:
                log_sums |= _forward(plan, job, inputs, outputs, scratch)
            for position, at in plan.moments:
                outputs[at] = inputs[position].new_zeros((inputs[position].shape[1],) * 2)
                for slab in plan.slabs(len(inputs[position])):
                    part = inputs[position][slab]
                    add_product(outputs[at], part.T, part)
            plan.sum_over_ranks([outputs[at] for _, at in plan.moments])
        plan.kept.left = 0  # the backward pass takes, and adds nothing
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
            at: (gradient.to(total.dtype) / total).where(total > 0, 0)
            for at, total in zip(plan.tops, sums, strict=True)
            if (gradient := grads[at + 1]) is not None
        }
        found = [
            torch.zeros_like(x) if want else None for x, want in zip(inputs, ctx.needs_input_grad[1:], strict=True)
        ]
        with exact(inputs[0].device):
            scratch = Scratch(inputs[0], plan.side)
            for job in plan.jobs:
                _backward(plan, job, inputs, dict(zip(plan.tops, tops, strict=True)), factors, grads, found, scratch)
            for position, at in plan.moments:
                gradient, target = grads[at], found[position]
                if gradient is not None and target is not None:
                    both = gradient + gradient.T
                    for slab in plan.slabs(len(target)):
                        add_product(target[slab], inputs[position][slab], both)
            plan.sum_over_ranks([x for x in found if x is not None])
        return (None, *found)


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
                log_sums[at] = LogSums(len(c.x if name == "rows" else c.y), c.x, form.bounded)
            else:
                count = (len(form.step.picked),) if name == "picked" else ()
                outputs[at] = c.x.new_zeros(count, dtype=wide(c.x))
    bases = Bases(c, forms, job.number, plan.kept)
    for tile in plan.tiles(len(c.x), len(c.y), symmetric):
        concerned = [form for form in forms if form.step.concerns(tile)]
        if not concerned:
            continue
        cells = bases.of_tile(tile, concerned, scratch)
        last = {form.step.product: form for form in concerned}  # the last of its kind may use up what it is made of
        for form in concerned:
            step, wanted = form.step, form.step.outputs
            given = bases.kinds[step.product], cells[step.product], tile
            out = cells[step.product] if last[step.product] is form else scratch(VALUES, *tile.shape)
            if "picked" in wanted:
                where, t = form.picks(*given)
                outputs[wanted["picked"]][where] = t.to(wide(t))
            sides = [(wanted[name], *side) for name in ("rows", "columns") if name in wanted
                     for side in tile.sides(name, symmetric)]  # fmt: skip
            if step.power:
                values = form.values(*given, out).pow_(step.power)
            elif form.bounded:
                values = form.exponentials(*given, out)
                for at, rows, axis in sides:
                    log_sums[at].sum[rows] += form.sums(values, tile, axis)
            else:
                values = form.values(*given, out)
                for at, rows, axis in sides:
                    log_sums[at].follow(rows, values, axis, scratch(PART, *tile.shape))
                values = values.exp_() if "total" in wanted else values
            if "total" in wanted:
                outputs[wanted["total"]] += values.sum() * (2 if symmetric and not tile.mirror else 1)
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
    bases = Bases(c, forms, job.number, plan.kept)
    slopes = [Slope.of(form, c, symmetric, tops, factors, grads) for form in forms]
    slopes.sort(key=lambda slope: not slope.log_sums)  # a total alone need not be multiplied out: not the first, then
    targets = found[job.x], found[job.x if job.y is None else job.y]
    # Σ_j M_ij, of distances and of products
    sums = [[z.new_zeros(len(z)) for _ in range(2)] for z in ((c.x,) if symmetric else (c.x, c.y))]
    for tile in plan.tiles(len(c.x), len(c.y), symmetric):
        concerned = [slope for slope in slopes if slope.form.step.concerns(tile)]
        if not concerned:
            continue
        cells = bases.of_tile(tile, [slope.form for slope in concerned], scratch)
        weights: dict[bool, Tensor] = {}
        for slope in concerned:
            step, product = slope.form.step, slope.form.step.product
            out = scratch(SLOPE if product in weights else MORE_WEIGHTS if product else WEIGHTS, *tile.shape)
            s, factor = slope.of_tile(bases.kinds[product], cells[product], tile, out, scratch)
            gradient = found[step.rate]
            if gradient is not None:
                by_rate = torch.dot(s.view(-1), cells[product].view(-1))
                gradient += by_rate * (factor / slope.scale / bases.kinds[product].unit)
            if slope.form.rate == 0:
                factor = 0.0
            if product in weights:
                weights[product].add_(s, alpha=factor)
            else:
                weights[product] = s if factor == 1 else s.mul_(factor)
        if c.point is not None:
            for product, of_kind in weights.items():
                sums[0][product][tile.i] += of_kind.sum(1)
                sums[-1][product][tile.j] += of_kind.sum(0)
        m, *more = weights.values()
        for other in more:
            m.add_(other)
        if tile.mirror:  # cells (i, j) and (j, i) are both here
            m = torch.add(m, m.T, out=scratch(PART, *tile.shape))
        if targets[0] is not None:
            add_product(targets[0][tile.i], m, c.y[tile.j])
        if targets[1] is not None and not tile.mirror:
            add_product(targets[1][tile.j], m.T, c.x[tile.i])
    if c.point is not None:
        for target, near, (of_distances, of_products) in zip(targets, (c.x, c.y), sums, strict=False):
            if target is not None:
                target.addcmul_(near, of_distances[:, None], value=-1).addr_(of_products, c.point)
