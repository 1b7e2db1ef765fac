"""`core/average`: the moving average of the weights that are being trained (Tarvainen and Valpola 2017)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gentle_core.batch import BuildContext
from gentle_core.builtin import AverageTeacherConfig
from gentle_core.modules import TeacherModule
from gentle_core.protocols import TeacherView


class AverageTeacher(TeacherModule):
    """Early on the average follows the model closely: its decay at step t is at most (1 + t) / (10 + t)."""

    def __init__(self, decay: float):
        self.decay = decay
        self.average: dict[str, Tensor] = {}

    @torch.no_grad()
    def observe(self, model: Any, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in model.trained_state().items():
            if name not in self.average or not value.is_floating_point():
                self.average[name] = value.detach().clone()
            else:
                self.average[name].lerp_(value.to(self.average[name]), 1 - decay)

    def embed(self, view: TeacherView) -> Mapping[str, Tensor]:
        return self._rows(view, "pool")

    def embed_matched(self, view: TeacherView) -> Mapping[str, Tensor]:
        return self._rows(view, "matched")

    def _rows(self, view: TeacherView, part: str) -> Mapping[str, Tensor]:
        model = view.model
        now = {name: value.detach().clone() for name, value in model.trained_state().items()}
        try:
            model.load_state_dict({**now, **self.average}, strict=False)
            return {tower: view.joint(tower, part) for tower in view.towers}
        finally:
            model.load_state_dict(now, strict=False)

    def state(self) -> Mapping[str, Tensor]:
        return dict(self.average)

    def load(self, state: Mapping[str, Tensor]) -> None:
        self.average = {name: value.clone() for name, value in state.items()}


def build(config: AverageTeacherConfig, context: BuildContext) -> AverageTeacher:
    return AverageTeacher(config.decay)
