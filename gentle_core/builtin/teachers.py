"""Options of the teachers."""

from __future__ import annotations

from pathlib import Path

import attrs

from gentle_core.form_names import FormName


@attrs.frozen(kw_only=True)
class ClosedFormTeacherConfig:
    """Options of `core/closed-form`, the teacher.

    Attributes:
        forms: the closed forms among which validation chooses, as `gentle baseline` does: one that uses the pools is
            taken only where it is clearly better there. Those that build on CCA need not name it.
    """

    forms: tuple[FormName, ...] = attrs.field(
        default=("cca", "propagation", "ot-em", "ensemble"), validator=attrs.validators.min_len(1)
    )


@attrs.frozen(kw_only=True)
class CcaTeacherConfig:
    """Options of `core/cca`, the teacher.

    Attributes:
        ridge, power, dimension: of the CCA; without them the ones that rank validation items best, where there are any,
            and 1.0, 1.0 and all otherwise.
    """

    ridge: float | None = attrs.field(default=None, validator=attrs.validators.optional(attrs.validators.ge(0)))
    power: float | None = attrs.field(default=None, validator=attrs.validators.optional(attrs.validators.ge(0)))
    dimension: int | None = attrs.field(default=None, validator=attrs.validators.optional(attrs.validators.ge(1)))


@attrs.frozen(kw_only=True)
class AverageTeacherConfig:
    """Options of `core/average`, the model's own moving average as its teacher.

    Attributes:
        decay: of the average: after each step it keeps so much of itself.
    """

    decay: float = attrs.field(default=0.99, validator=[attrs.validators.ge(0), attrs.validators.lt(1)])


@attrs.frozen(kw_only=True)
class SavedRunTeacherConfig:
    """Options of `core/saved-run`, a finished run as the teacher.

    Attributes:
        path: the run's directory, or its `model` folder. Towers are taken by name.
    """

    path: Path
