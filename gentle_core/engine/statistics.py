"""Running statistics of batch normalisation: the same from any number of ranks, where the chunks are the same."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from gentle_core.engine.ranks import Ranks
from gentle_core.losses.chunks import BATCH_NORMS


@attrs.define
class Followed:
    """A layer in a step: its momentum, its statistics from before, and how many chunks have passed it."""

    layer: Any
    momentum: float | None
    before: tuple[Tensor, Tensor, Tensor]
    passed: int = 0

    def count(self, layer: Any, _: object) -> None:
        """Before a pass: the layer is to keep the plain mean over the chunks of the step. A momentum of 0 marks a pass
        that does not count."""
        if layer.momentum:
            self.passed += 1
            layer.momentum = 1.0 / self.passed


class RunningStatistics:
    """The batch normalisation of a model in training.

    Each layer would move its running statistics with each chunk, so that many chunks in a row weighed more than the
    same chunks side by side on several ranks. Instead it takes the mean over all chunks of the step on all ranks, and
    moves by as many passes as there are of whole groups of rows (two views of two groups: four). With one chunk that
    is what it would do by itself, but for the order of the passes.

    Args:
        chunks: how many chunks a group of rows makes on all ranks together.
    """

    def __init__(self, model: nn.Module, ranks: Ranks, chunks: int):
        self.model, self.ranks, self.chunks = model, ranks, chunks
        self._followed: list[Followed] = []
        self._sums: Callable[[], tuple[list[float], list[tuple[Tensor, Tensor]]]] = lambda: ([], [])

    @contextlib.contextmanager
    def followed(self) -> Iterator[None]:
        """While the step's passes go on. Ranks then begin to put together what they have found."""
        self._followed = [
            Followed(m, m.momentum, (m.running_mean.clone(), m.running_var.clone(), m.num_batches_tracked.clone()))
            for m in self.model.modules()
            if isinstance(m, BATCH_NORMS) and m.training and m.running_mean is not None and m.running_var is not None
            and m.num_batches_tracked is not None
        ]  # fmt: skip
        hooks = [one.layer.register_forward_pre_hook(one.count) for one in self._followed]
        for one in self._followed:
            one.layer.momentum = 1.0
        try:
            yield
        finally:
            for one, hook in zip(self._followed, hooks, strict=True):
                hook.remove()
                one.layer.momentum = one.momentum
        self._sums = self._together()

    @torch.no_grad()
    def update(self) -> None:
        """Move the running statistics by what has passed. All ranks together."""
        for one, passed, seen in zip(self._followed, *self._sums(), strict=True):
            mean, var, tracked = one.before
            if one.momentum is None:
                factor = passed / max(float(tracked) + passed, 1.0)
            else:
                factor = 1.0 - (1.0 - one.momentum) ** (passed / self.chunks)
            for name, old, new in (("running_mean", mean, seen[0]), ("running_var", var, seen[1])):
                getattr(one.layer, name).copy_(old.lerp(new, factor) if passed else old)
            one.layer.num_batches_tracked.copy_(tracked + int(passed))

    @torch.no_grad()
    def _together(self) -> Callable[[], tuple[list[float], list[tuple[Tensor, Tensor]]]]:
        """What says, for each layer, how many chunks have passed it on all ranks, and the means of their statistics."""
        own = [(m.running_mean, m.running_var) for m in (one.layer for one in self._followed)]
        counts = [float(one.passed) for one in self._followed]
        if self.ranks.size == 1 or not counts:
            return lambda: (counts, own)
        weighted: list[tuple[Tensor, Tensor]] = [
            (mean * n, var * n) for (mean, var), n in zip(own, counts, strict=True)
        ]
        parts = [x for pair in weighted for x in pair]
        passed = torch.tensor(counts, dtype=torch.float32, device=parts[0].device)
        sums = [
            self.ranks.sum_later_([x for x in (passed, *parts) if x.dtype == dtype])
            for dtype in dict.fromkeys(x.dtype for x in (passed, *parts))
        ]

        def finish() -> tuple[list[float], list[tuple[Tensor, Tensor]]]:
            for finish_one in sums:
                finish_one()
            all_counts = passed.tolist()
            means = [
                (mean / max(n, 1.0), var / max(n, 1.0)) for (mean, var), n in zip(weighted, all_counts, strict=True)
            ]
            return all_counts, means

        return finish
