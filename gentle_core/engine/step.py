"""One optimisation step's forward and backward pass: the objective of the whole global batch, whatever the chunks.

The towers give the batch's projections; the objective is evaluated on them as leaves; the gradients of the leaves
then go back through the towers (Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited
Setup"). With several chunks the towers run twice, the second time with gradients and the same randomness, so that
memory is bounded by a chunk and not by the batch. The loss is the same either way.

On several ranks each takes its own rows through the towers. The projections are gathered, every rank sees the
objective of the whole batch (and shares the work on its tiles), and takes the gradient of its own rows back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

import attrs
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import record_function

from gentle_core.batch import AlignBatch, LossContext, LossOut, Rows
from gentle_core.data.loader import Chunk, TowerInputs
from gentle_core.data.streams import seed_torch
from gentle_core.engine.backend import Passes
from gentle_core.engine.ranks import Ranks
from gentle_core.losses.chunks import batch_statistics_held

Key = tuple[str, int]
"""Tower and view."""


@attrs.define
class StepOut:
    """A step's objective and, when asked for, the norm of each weighted term's gradient in the embeddings.

    Attributes:
        finite: False where the loss or a gradient of it is not: then nothing went back through the towers.
    """

    out: LossOut
    term_gradients: dict[str, float]
    finite: bool = True


def _project(towers: Passes, tower: str, chunk: Chunk, cached: bool, seed: int, step: int, view: int) -> Tensor:
    """A chunk's projections. Dropout has a stream of its own for each tower, step, view and chunk."""
    seed_torch(towers.model.device, seed, "dropout", tower, step, view, chunk.group, chunk.number)
    with contextlib.nullcontext() if chunk.rows else batch_statistics_held(towers.model):
        return towers.project(tower, chunk.inputs, cached)[: chunk.rows]


def forward_backward(
    towers: Passes,
    loss: nn.Module,
    inputs: Mapping[str, TowerInputs],
    context: LossContext,
    *,
    seed: int,
    cached: Mapping[str, bool],
    recompute: bool = False,
    term_gradients: bool = False,
) -> StepOut:
    """Leave the gradient of the objective in every trainable parameter of the towers and of `loss`.

    Args:
        towers: passes through the towers, of this rank's rows.
        inputs: the step's inputs of each tower.
        cached: whether a tower's inputs are features already.
        recompute: run the towers without a graph first and again chunk by chunk for the backward pass.
        term_gradients: also measure each term's gradient norm (one more backward pass through the objective a term).
    """
    ranks = towers.ranks
    graph: dict[Key, list[Tensor]] = {}
    for tower, given in inputs.items():
        for view, chunks in enumerate(given.views):
            with torch.set_grad_enabled(not recompute), record_function("gentle: towers"):
                graph[tower, view] = [
                    _project(towers, tower, c, cached[tower], seed, context.step, view) for c in chunks
                ]
    leaves = _leaves({key: torch.cat([p.detach() for p in parts]) for key, parts in graph.items()}, inputs, ranks)

    rows = {tower: _rows(leaves, tower, given) for tower, given in inputs.items()}
    batch = AlignBatch(
        {tower: plain for tower, (plain, _) in rows.items()},
        {tower: pseudo for tower, (_, pseudo) in rows.items() if pseudo is not None},
    )
    # A loss that draws draws the same on all ranks.
    seed_torch(towers.model.device, seed, "objective", context.step)
    if ranks.size > 1:
        context = attrs.evolve(context, group=ranks.group)
    with record_function("gentle: objective"):
        out: LossOut = loss(batch, context)
    norms = {}
    if term_gradients:
        for name, term in out.terms.items():
            if term.requires_grad:
                found = torch.autograd.grad(term, list(leaves.values()), retain_graph=True, allow_unused=True)
                squares = sum(float(part.double().square().sum()) for part in found if part is not None)
                norms[name] = abs(out.weights.get(name, 1.0)) * squares**0.5
    with record_function("gentle: objective, backwards"):
        out.loss.backward()
    own = [p.grad for p in loss.parameters() if p.grad is not None]
    gradients = {key: leaf.grad for key, leaf in leaves.items() if leaf.grad is not None}
    finite = all(bool(x.isfinite().all()) for x in (out.loss, *own, *gradients.values()))
    # Equal but for rounding on unlike machines; the loss's parameters must not drift apart.
    if not ranks.settle_(own, finite):
        return StepOut(out, norms, finite=False)
    gradients = {key: g[inputs[key[0]].parts[ranks.rank]] for key, g in gradients.items()}

    if not recompute:
        used = [(torch.cat(graph[key]), gradient) for key, gradient in gradients.items()]
        roots = [(root, gradient) for root, gradient in used if root.requires_grad]
        if roots:
            with record_function("gentle: towers, backwards"):
                towers.backward([r for r, _ in roots], [g for _, g in roots], last=True)
        return StepOut(out, norms)

    work = []
    for (tower, view), gradient in gradients.items():
        chunks = inputs[tower].views[view]
        if any(p.requires_grad for p in towers.model.tower(tower).parameters()):
            split = gradient.split([c.rows for c in chunks])
            work += [((tower, view), chunk, part) for chunk, part in zip(chunks, split, strict=True)]
    with batch_statistics_held(towers.model):
        for number, ((tower, view), chunk, part) in enumerate(work):
            again = _project(towers, tower, chunk, cached[tower], seed, context.step, view)
            with record_function("gentle: towers, backwards"):
                towers.backward([again], [part], last=number + 1 == len(work))
    return StepOut(out, norms)


def _leaves(own: Mapping[Key, Tensor], inputs: Mapping[str, TowerInputs], ranks: Ranks) -> dict[Key, Tensor]:
    """The projections (B, D) of the global batch, in its order, as leaves of a graph; one collective for all.

    `own` are those of this rank, in the order of its chunks."""
    parts = {key: inputs[key[0]].parts for key in own}
    sizes = [sum(len(parts[key][r]) * rows.shape[1] for key, rows in own.items()) for r in range(ranks.size)]
    some = next(iter(own.values()))
    flat = some.new_zeros(max(sizes))
    flat[: sizes[ranks.rank]] = torch.cat([rows.reshape(-1) for rows in own.values()])
    gathered = ranks.gather_flat(flat)
    found = {key: rows.new_empty(sum(map(len, parts[key])), rows.shape[1]) for key, rows in own.items()}
    for r, theirs in enumerate(gathered):
        at = 0
        for key, rows in own.items():
            count = len(parts[key][r]) * rows.shape[1]
            found[key][parts[key][r]] = theirs[at : at + count].view(-1, rows.shape[1])
            at += count
    return {key: rows.requires_grad_() for key, rows in found.items()}


def _rows(leaves: Mapping[Key, Tensor], tower: str, given: TowerInputs) -> tuple[Rows, Rows | None]:
    """A tower's matched and unmatched rows, and those of pseudo-pairs where there are any."""
    raw, n = leaves[tower, 0], given.plain
    second = leaves.get((tower, 1))
    ids = given.ids.to(raw.device)
    pseudo = None
    if len(given.weight):
        mates = raw[n:]
        pseudo = Rows(
            z=F.normalize(mates, dim=-1), ids=ids[n:], raw=mates, extras={"weight": given.weight.to(raw.device)}
        )
        raw, ids, second = raw[:n], ids[:n], None if second is None else second[:n]
    columns = {"labels": given.labels, "reference": given.reference}
    plain = Rows(
        z=F.normalize(raw, dim=-1),
        ids=ids,
        raw=raw,
        views=None if second is None else F.normalize(second, dim=-1),
        raw_views=second,
        extras={name: column[:n].to(raw.device) for name, column in columns.items() if column is not None},
    )
    return plain, pseudo
