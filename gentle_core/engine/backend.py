"""What the training loop asks of a back end, and the local one.

A back end takes projections from the towers, takes gradients back through them, and takes the step. The loop computes
the objective in between, on the global batch, and knows neither how weights are kept nor how gradients are summed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import attrs
import torch
from torch import Tensor, nn

from gentle_core.engine.optim import (
    LossOptimizer,
    load_named_state,
    named_state,
    rate_factor,
    set_rates,
    tower_groups,
)
from gentle_core.engine.ranks import ALONE, Ranks
from gentle_core.engine.scaling import LossScale
from gentle_core.engine.towers import AlignedModel
from gentle_core.recipe.model import Recipe


@attrs.frozen
class Taken:
    """What became of a step.

    Attributes:
        applied: False where the gradient was not finite: then nothing has changed, on any rank.
        norm: of the towers' gradient, before clipping.
        rate: the learning rate of the heads.
        scale: with which the loss was multiplied against underflow; 1 where it was not.
        rescaled: the gradient overflowed at this scale, and a smaller one follows: no fault of the batch.
    """

    applied: bool
    norm: float
    rate: float
    scale: float = 1.0
    rescaled: bool = False


class Passes(Protocol):
    """Forward and backward passes through the towers."""

    @property
    def ranks(self) -> Ranks:
        """Who shares the work."""

    @property
    def model(self) -> AlignedModel:
        """What trains. Its weights need not be whole on this rank: see `Backend.collect`."""

    def project(self, tower: str, inputs: Any, cached: bool) -> Tensor:
        """A chunk's projections (B, D), float32 or wider."""

    def backward(self, roots: Sequence[Tensor], gradients: Sequence[Tensor], last: bool) -> None:
        """Add the gradient of Σ ⟨root, gradient⟩, summed over ranks, to what the step will use.

        Several calls may make up a step; `last` marks the last of them. Every rank makes the same calls.
        """


class Backend(Passes, Protocol):
    """A whole back end. All methods are called on every rank together."""

    def zero(self) -> None:
        """Forget gradients."""

    def step(self, step: int, steps: int) -> Taken:
        """Clip, take step number `step` of `steps` with towers and loss, unless the gradient is not finite."""

    def collect(self) -> AlignedModel:
        """The whole model with its present weights, to evaluate or save; valid until the next step."""

    def optimizer_state(self) -> dict[str, Tensor]:
        """State of the optimisers by "model.PARAMETER/SLOT", "loss.PARAMETER/SLOT" and "scale/…", whole, on the CPU or
        this device: the same from every back end on any number of ranks."""

    def load(self, weights: Mapping[str, Tensor], optimizer: Mapping[str, Tensor]) -> None:
        """Take up what `collect().trained_state()` and `optimizer_state` gave. The loss loads its own state."""


class LocalPasses:
    """Passes in plain torch."""

    def __init__(self, model: AlignedModel, ranks: Ranks = ALONE):
        self.model, self.ranks = model, ranks

    def project(self, tower: str, inputs: Any, cached: bool) -> Tensor:
        return self.model.project(tower, inputs, cached)

    def backward(self, roots: Sequence[Tensor], gradients: Sequence[Tensor], last: bool) -> None:
        torch.autograd.backward(list(roots), list(gradients))


class LocalBackend(LocalPasses):
    """Plain torch. On several ranks each holds all weights, and gradients are summed once a step."""

    def __init__(self, model: AlignedModel, loss: Any, recipe: Recipe, ranks: Ranks = ALONE):
        super().__init__(model, ranks)
        self.table = recipe.train
        self.scale = LossScale(recipe.engine.loss_scale, recipe.train.precision == "float16")
        self.loss = LossOptimizer(loss, recipe.train)
        self.adamw = torch.optim.AdamW(tower_groups(model, recipe))
        self.parameters: list[Tensor] = [p for group in self.adamw.param_groups for p in group["params"]]

    def backward(self, roots: Sequence[Tensor], gradients: Sequence[Tensor], last: bool) -> None:
        if self.scale.value != 1:
            gradients = [gradient * self.scale.value for gradient in gradients]
        super().backward(roots, gradients, last)

    def zero(self) -> None:
        self.adamw.zero_grad(set_to_none=True)
        self.loss.zero()

    def step(self, step: int, steps: int) -> Taken:
        factor = rate_factor(self.table, step, steps)
        rate = self.table.learning_rate * factor
        sum_gradients(self.parameters, self.ranks)
        norm, scale = clip_gradients(self.parameters, self.table.clip, self.scale), self.scale.value
        finite = math.isfinite(norm)
        rescaled = self.scale.follow(not finite)
        if finite:
            set_rates(self.adamw, factor)
            self.adamw.step()
            self.loss.step(factor)
        return Taken(finite, norm, rate, scale, rescaled)

    def collect(self) -> AlignedModel:
        return self.model

    def optimizer_state(self) -> dict[str, Tensor]:
        return named_state(self.adamw, self.model, "model") | self.loss.state() | self.scale.state()

    def load(self, weights: Mapping[str, Tensor], optimizer: Mapping[str, Tensor]) -> None:
        self.model.load_state_dict(weights, strict=False)
        load_named_state(self.adamw, self.model, "model", optimizer)
        self.loss.load(optimizer)
        self.scale.load(optimizer)


def make_backend(model: AlignedModel, loss: Any, recipe: Recipe, ranks: Ranks) -> Backend:
    """The back end that the recipe names."""
    if recipe.engine.use == "deepspeed":
        from gentle_core.engine.zero import DeepSpeedBackend

        return DeepSpeedBackend(model, loss, recipe, ranks)
    return LocalBackend(model, loss, recipe, ranks)


def sum_gradients(parameters: Sequence[Tensor], ranks: Ranks) -> None:
    """Sum gradients over ranks. A parameter that no rank has used keeps none, so that it doesn't decay either."""
    if ranks.size == 1:
        return
    for dtype in dict.fromkeys(p.dtype for p in parameters):
        concerned = [p for p in parameters if p.dtype == dtype]
        used = torch.tensor([p.grad is not None for p in concerned], dtype=dtype, device=concerned[0].device)
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in concerned]
        ranks.sum_([*gradients, used])
        for parameter, gradient, flag in zip(concerned, gradients, used.tolist(), strict=True):
            parameter.grad = gradient if flag else None


def clip_gradients(parameters: Sequence[Tensor], limit: float, scale: LossScale) -> float:
    """Undo the loss's scale, clip to the limit (0 for none), and return the norm before clipping."""
    if scale.value != 1:
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.div_(scale.value)
    return float(nn.utils.clip_grad_norm_(parameters, limit or math.inf))
