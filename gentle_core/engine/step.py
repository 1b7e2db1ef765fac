"""One optimisation step's forward and backward pass: the objective of the whole global batch, whatever the chunks.

The towers give the batch's projections; the objective is evaluated on them as leaves; the gradients of the leaves
then go back through the towers (Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited
Setup"). With several chunks the towers run twice, the second time with gradients and the same randomness, so that
memory is bounded by a chunk and not by the batch. The loss is the same either way.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import attrs
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gentle_core.batch import AlignBatch, LossContext, LossOut, Rows
from gentle_core.data.loader import Chunk, TowerInputs
from gentle_core.data.streams import torch_seed
from gentle_core.engine.towers import AlignedModel

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


@attrs.define
class StepOut:
    """A step's objective and, when asked for, the norm of each weighted term's gradient in the embeddings."""

    out: LossOut
    term_gradients: dict[str, float]


@contextlib.contextmanager
def _batch_statistics_held(model: nn.Module) -> Iterator[None]:
    """Let batch normalisation use a batch's statistics without counting them a second time."""
    layers = [m for m in model.modules() if isinstance(m, _BATCH_NORMS)]
    kept = [(n, n.momentum, None if n.num_batches_tracked is None else n.num_batches_tracked.clone()) for n in layers]
    for layer in layers:
        layer.momentum = 0.0
    try:
        yield
    finally:
        for layer, momentum, tracked in kept:
            layer.momentum = momentum
            if tracked is not None:
                layer.num_batches_tracked.copy_(tracked)  # type: ignore[union-attr]


def _project(model: AlignedModel, tower: str, chunk: Chunk, cached: bool, seed: int, step: int, view: int) -> Tensor:
    """A chunk's projections. Dropout has a stream of its own for each tower, step, view and chunk."""
    torch.manual_seed(torch_seed(seed, "dropout", tower, step, view, chunk.group, chunk.number))
    return model.project(tower, chunk.inputs, cached)


def forward_backward(
    model: AlignedModel,
    loss: nn.Module,
    inputs: Mapping[str, TowerInputs],
    context: LossContext,
    *,
    seed: int,
    cached: Mapping[str, bool],
    recompute: bool = False,
    term_gradients: bool = False,
) -> StepOut:
    """Leave the gradient of the objective in every trainable parameter of `model` and `loss`.

    Args:
        inputs: the step's inputs of each tower.
        cached: whether a tower's inputs are features already.
        recompute: run the towers without a graph first and again chunk by chunk for the backward pass.
        term_gradients: also measure each term's gradient norm (one more backward pass through the objective a term).
    """
    graph: dict[tuple[str, int], list[Tensor]] = {}
    leaves: dict[tuple[str, int], Tensor] = {}
    for tower, given in inputs.items():
        for view, chunks in enumerate(given.views):
            with torch.set_grad_enabled(not recompute):
                parts = [_project(model, tower, c, cached[tower], seed, context.step, view) for c in chunks]
            graph[tower, view] = parts
            leaves[tower, view] = torch.cat([part.detach() for part in parts]).requires_grad_()

    batch = AlignBatch({tower: _rows(leaves, tower, given) for tower, given in inputs.items()})
    out: LossOut = loss(batch, context)
    norms = {}
    if term_gradients:
        for name, term in out.terms.items():
            if term.requires_grad:
                found = torch.autograd.grad(term, list(leaves.values()), retain_graph=True, allow_unused=True)
                squares = sum(float(part.double().square().sum()) for part in found if part is not None)
                norms[name] = abs(out.weights.get(name, 1.0)) * squares**0.5
    out.loss.backward()

    if not recompute:
        used = [(torch.cat(graph[key]), leaf.grad) for key, leaf in leaves.items() if leaf.grad is not None]
        roots = [(root, gradient) for root, gradient in used if root.requires_grad]
        if roots:
            torch.autograd.backward([r for r, _ in roots], [g for _, g in roots])
        return StepOut(out, norms)

    with _batch_statistics_held(model):
        for tower, given in inputs.items():
            for view, chunks in enumerate(given.views):
                gradient = leaves[tower, view].grad
                if gradient is None:
                    continue
                for chunk, part in zip(chunks, gradient.split([c.rows for c in chunks]), strict=True):
                    again = _project(model, tower, chunk, cached[tower], seed, context.step, view)
                    again.backward(part)
    return StepOut(out, norms)


def _rows(leaves: Mapping[tuple[str, int], Tensor], tower: str, given: TowerInputs) -> Rows:
    raw = leaves[tower, 0]
    second = leaves.get((tower, 1))
    return Rows(
        z=F.normalize(raw, dim=-1),
        ids=given.ids.to(raw.device),
        raw=raw,
        views=None if second is None else F.normalize(second, dim=-1),
        raw_views=second,
        extras={} if given.labels is None else {"labels": given.labels.to(raw.device)},
    )
