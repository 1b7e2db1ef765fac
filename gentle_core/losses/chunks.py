"""Large batches through towers of which only a chunk fits into memory: embedding-gradient caching.

Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup". The towers run without a
graph first; the objective is evaluated once, on all embeddings; then they run again, chunk by chunk, with the same
randomness, and each chunk's part of the objective's gradient goes back through them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


@contextlib.contextmanager
def batch_statistics_held(model: nn.Module) -> Iterator[None]:
    """Let batch normalisation use a batch's statistics without counting them a second time."""
    layers = [m for m in model.modules() if isinstance(m, BATCH_NORMS)]
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


def _random_states() -> tuple[Tensor, list[Tensor]]:
    return torch.get_rng_state(), torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []


def _set_random_states(states: tuple[Tensor, list[Tensor]]) -> None:
    torch.set_rng_state(states[0])
    if states[1]:
        torch.cuda.set_rng_state_all(states[1])


def backward_in_chunks(objective: Callable[..., Tensor], *towers: tuple[nn.Module, Sequence[Any]]) -> Tensor:
    """Leave the gradient of `objective(embeddings of each tower)` in all parameters; return the objective, detached.

    The gradient is that of a plain step in which each tower ran over the same chunks: dropout replays itself (from the
    random states of the CPU and of CUDA). Memory is that of one chunk's activations and of all embeddings.

    Args:
        objective: from tensors (rows, d), one a tower, to a scalar. Its own parameters get their gradient too.
        towers: for each a module and its chunks, each of which the module turns into embeddings (rows, d). A module may
            come twice, as for two views.

    Raises:
        ValueError: a tower without chunks, or an objective that is no scalar.
    """
    if not all(len(chunks) for _, chunks in towers):
        raise ValueError("each tower needs at least one chunk")
    states, leaves = [], []
    with torch.no_grad():
        for module, chunks in towers:
            parts = []
            for chunk in chunks:
                states.append(_random_states())
                parts.append(module(chunk))
            leaves.append((torch.cat(parts).requires_grad_(), [len(part) for part in parts]))
    value = objective(*(leaf for leaf, _ in leaves))
    if value.dim():
        raise ValueError(f"the objective must be a scalar, not {tuple(value.shape)}")
    if value.requires_grad:
        value.backward()
    after, again = _random_states(), iter(states)
    try:
        for (module, chunks), (leaf, sizes) in zip(towers, leaves, strict=True):
            gradient = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
            with batch_statistics_held(module):
                for chunk, part in zip(chunks, gradient.split(sizes), strict=True):
                    _set_random_states(next(again))
                    embedded = module(chunk)
                    if embedded.requires_grad:
                        embedded.backward(part)
    finally:
        _set_random_states(after)
    return value.detach()
