"""Weights that may change over a run. Free of torch, since recipes hold them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import attrs


@attrs.frozen(kw_only=True)
class Schedule:
    """A number that moves from `start` to `end` and stays there.

    Attributes:
        start, end: the values at the ends.
        steps: how long the way is: a share of the run (at most 1) or a number of steps (above 1).
        shape: "linear", "cosine" (slow at both ends), or "step" (all at once when the way is over).
    """

    start: float = attrs.field(default=0.0, converter=float)
    end: float = attrs.field(converter=float)
    steps: float = attrs.field(default=1.0, converter=float, validator=attrs.validators.ge(0))
    shape: Literal["linear", "cosine", "step"] = attrs.field(
        default="linear", validator=attrs.validators.in_(("linear", "cosine", "step"))
    )

    def at(self, step: int, steps: int) -> float:
        """The value at `step` of a run of `steps`."""
        way = self.steps * steps if self.steps <= 1 else self.steps
        done = min(1.0, step / way) if way > 0 else 1.0
        if self.shape == "cosine":
            done = (1 - math.cos(math.pi * done)) / 2
        elif self.shape == "step":
            done = float(done >= 1)
        return self.start + (self.end - self.start) * done


def as_weight(value: Any) -> float | Schedule:
    """A number as it is, a table as a `Schedule`.

    Raises:
        TypeError, ValueError: for anything else.
    """
    if isinstance(value, Schedule):
        return value
    if isinstance(value, Mapping):
        return Schedule(**value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(
            f"{value!r} is no weight: give a number or a table such as {{ start = 0, end = 1, steps = 0.2 }}"
        )
    if not math.isfinite(value):
        raise ValueError(f"{value!r} is no weight: it must be finite")
    return float(value)


def weight_at(weight: float | Schedule, step: int, steps: int) -> float:
    """The value of a weight at `step` of a run of `steps`."""
    return weight.at(step, steps) if isinstance(weight, Schedule) else weight


def always_zero(weight: float | Schedule) -> bool:
    """Whether a weight is 0 throughout the run."""
    return weight.start == weight.end == 0 if isinstance(weight, Schedule) else weight == 0
