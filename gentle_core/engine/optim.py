"""The optimiser: AdamW with rates of their own for heads, encoders and adversaries."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from gentle_core.engine.towers import AlignedModel
from gentle_core.recipe.model import Recipe, TrainTable


def rate_factor(table: TrainTable, step: int, steps: int) -> float:
    """The learning rate of step 0 … steps − 1 as a share of its peak."""
    warmup = table.warmup * steps if table.warmup < 1 else table.warmup
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = min((step - warmup) / max(steps - warmup, 1), 1.0)
    if table.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    return 1.0 - progress if table.schedule == "linear" else 1.0


class Optimizer:
    """AdamW over a model and its loss.

    Matrices decay, vectors and scalars (biases, norms, the logit scale) do not. Parameters that a loss declares as
    adversaries ascend: their gradient changes sign before the step, and they take no part in clipping.
    """

    def __init__(self, model: AlignedModel, loss: Any, recipe: Recipe):
        self.table = recipe.train
        groups = loss.param_groups()
        self.adversaries: list[Tensor] = [p for p in groups.max if p.requires_grad]
        own = {id(p) for p in (*groups.max, *groups.own)}
        heads = [p for name in model.tower_modules for p in model.tower(name).head.parameters()]
        heads += [p for p in groups.min if id(p) not in own]
        self.groups: list[dict[str, Any]] = []
        self._add(heads, self.table.learning_rate)
        for name, table in recipe.towers.items():
            rate = table.encoder.learning_rate or self.table.encoder_learning_rate
            self._add(model.tower(name).encoder.parameters(), rate)
        self.descending = [p for group in self.groups for p in group["params"]]
        if self.adversaries:
            self.groups.append({"params": self.adversaries, "peak": self.table.adversary_rate, "weight_decay": 0.0})
        self.adamw = torch.optim.AdamW([dict(g, lr=g["peak"]) for g in self.groups], lr=self.table.learning_rate)

    def _add(self, parameters: Iterable[Tensor], rate: float) -> None:
        trainable = [p for p in parameters if p.requires_grad]
        for members, decay in (
            ([p for p in trainable if p.ndim > 1], self.table.weight_decay),
            ([p for p in trainable if p.ndim <= 1], 0.0),
        ):
            if members:
                self.groups.append({"params": members, "peak": rate, "weight_decay": decay})

    def zero(self) -> None:
        self.adamw.zero_grad(set_to_none=True)

    def gradient_norm(self) -> Tensor:
        """Norm of the descending parameters' gradient; clips it to `train.clip`."""
        limit = self.table.clip or math.inf
        return nn.utils.clip_grad_norm_(self.descending, limit)

    def step(self, step: int, steps: int) -> float:
        """Take the step; returns the learning rate of the heads."""
        factor = rate_factor(self.table, step, steps)
        for group in self.adamw.param_groups:
            group["lr"] = group["peak"] * factor
        for parameter in self.adversaries:
            if parameter.grad is not None:
                parameter.grad.neg_()
        self.adamw.step()
        return self.table.learning_rate * factor

    def state(self) -> dict[str, Tensor]:
        """The optimiser's state as flat tensors, by parameter number and slot."""
        state = self.adamw.state_dict()["state"]
        return {f"{number}.{slot}": value for number, slots in state.items() for slot, value in slots.items()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take up a state that `state` gave."""
        full = self.adamw.state_dict()
        slots: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            number, slot = name.split(".", 1)
            slots.setdefault(int(number), {})[slot] = value
        self.adamw.load_state_dict({"state": slots, "param_groups": full["param_groups"]})
