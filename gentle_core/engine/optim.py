"""The optimisers: AdamW with rates of their own for heads, encoders, a loss's parameters and adversaries."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
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


def set_rates(optimizer: Any, factor: float) -> None:
    """Give every group of a torch or DeepSpeed optimiser its peak rate times `factor`."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor


def tower_groups(model: AlignedModel, recipe: Recipe) -> list[dict[str, Any]]:
    """Parameter groups of the towers: heads, then each encoder. Matrices decay, vectors (biases, norms) do not."""
    table = recipe.train
    groups: list[dict[str, Any]] = []
    heads = [p for name in model.tower_modules for p in model.tower(name).head.parameters()]
    parts: list[tuple[Iterable[Tensor], float]] = [(heads, table.learning_rate)]
    for name, tower in recipe.towers.items():
        rate = tower.encoder.learning_rate or table.encoder_learning_rate
        parts.append((model.tower(name).encoder.parameters(), rate))
    for parameters, rate in parts:
        trainable = [p for p in parameters if p.requires_grad]
        for members, decay in (
            ([p for p in trainable if p.ndim > 1], table.weight_decay),
            ([p for p in trainable if p.ndim <= 1], 0.0),
        ):
            if members:
                groups.append({"params": members, "lr": rate, "peak": rate, "weight_decay": decay})
    return groups


class LossOptimizer:
    """AdamW over the loss's own parameters, the same on all ranks: each has the gradient of the whole batch.

    Parameters that a loss declares as adversaries ascend: their gradient changes sign before the step. Neither kind
    takes part in clipping, and neither decays unless it is a matrix that descends.
    """

    def __init__(self, loss: Any, table: TrainTable):
        declared = loss.param_groups()
        self.loss, self.adversaries = loss, [p for p in declared.max if p.requires_grad]
        others = {id(p) for p in (*declared.max, *declared.own)}
        descending = [p for p in declared.min if p.requires_grad and id(p) not in others]
        groups: list[dict[str, Any]] = []
        for members, rate, decay in (
            ([p for p in descending if p.ndim > 1], table.learning_rate, table.weight_decay),
            ([p for p in descending if p.ndim <= 1], table.learning_rate, 0.0),
            (self.adversaries, table.adversary_rate, 0.0),
        ):
            if members:
                groups.append({"params": members, "lr": rate, "peak": rate, "weight_decay": decay})
        self.parameters: list[Tensor] = [p for group in groups for p in group["params"]]
        self.adamw = torch.optim.AdamW(groups) if groups else None

    def zero(self) -> None:
        for parameter in self.loss.parameters():
            parameter.grad = None

    def step(self, factor: float) -> None:
        if self.adamw is None:
            return
        set_rates(self.adamw, factor)
        for parameter in self.adversaries:
            if parameter.grad is not None:
                parameter.grad.neg_()
        self.adamw.step()

    def state(self) -> dict[str, Tensor]:
        return {} if self.adamw is None else named_state(self.adamw, self.loss, "loss")

    def load(self, state: Mapping[str, Tensor]) -> None:
        if self.adamw is not None:
            load_named_state(self.adamw, self.loss, "loss", state)


def named_state(optimizer: torch.optim.Optimizer, module: nn.Module, prefix: str) -> dict[str, Tensor]:
    """An optimiser's state as flat tensors: "prefix.parameter/slot"."""
    names = {id(p): name for name, p in module.named_parameters()}
    return {
        f"{prefix}.{names[id(parameter)]}/{slot}": value
        for parameter, slots in optimizer.state.items()
        for slot, value in slots.items()
    }


def load_named_state(
    optimizer: torch.optim.Optimizer, module: nn.Module, prefix: str, state: Mapping[str, Tensor]
) -> None:
    """Take up a state that `named_state` gave."""
    optimizer.state.clear()
    for name, parameter in module.named_parameters():
        slots = {k.rpartition("/")[2]: v for k, v in state.items() if k.rpartition("/")[0] == f"{prefix}.{name}"}
        if slots:
            # AdamW keeps its count of steps on the CPU.
            optimizer.state[parameter] = {
                slot: value.clone() if slot == "step" else value.to(parameter.device, parameter.dtype, copy=True)
                for slot, value in slots.items()
            }
