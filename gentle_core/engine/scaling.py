"""Loss scaling: float16 gradients are taken of a multiple of the loss, so that small ones do not vanish."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

FIRST, WINDOW = 2.0**16, 1000
"""The scale that a run begins with, and the number of steps without overflow after which it is doubled."""


class LossScale:
    """The scale of the next step. A dynamic one is halved by an overflow and doubled after `WINDOW` steps without.

    Args:
        fixed: a scale that stays; 0 for a dynamic one.
        active: False for 1 throughout.
    """

    def __init__(self, fixed: float = 0.0, active: bool = True):
        self.dynamic = active and not fixed
        self.value = (fixed or FIRST) if active else 1.0
        self.steps = 0

    def follow(self, overflow: bool) -> bool:
        """Take note of a step; whether it was lost to a scale that can still fall."""
        if not self.dynamic:
            return False
        if overflow:
            lost = self.value > 1
            self.value, self.steps = max(self.value / 2, 1.0), 0
            return lost
        self.steps += 1
        if self.steps % WINDOW == 0:
            self.value *= 2
        return False

    def state(self) -> dict[str, Tensor]:
        if not self.dynamic:
            return {}
        return {"scale/value": torch.tensor(self.value), "scale/steps": torch.tensor(self.steps)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        if self.dynamic and "scale/value" in state:
            self.value, self.steps = float(state["scale/value"]), int(state["scale/steps"])
