"""`core/closed-form`: of several closed forms on the encoder features, the one that validation favours; without a
validation split, the one that is best on pairs held out in turn.

Forms that match the pools by transport (OT-EM CCA) or spread labels over them (propagation) are among them, and so is
CCA on the pairs alone: where the pools bring nothing on validation, they have no part in the pseudo-pairs either.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from gentle_core.batch import BuildContext
from gentle_core.builtin import ClosedFormTeacherConfig
from gentle_core.closed_form.choice import Choice, choose
from gentle_core.closed_form.crossfit import HELD_OUT, fit_forms_crossed
from gentle_core.closed_form.features import Features
from gentle_core.closed_form.fit import fit_forms
from gentle_core.closed_form.forms import Form
from gentle_core.errors import DataError
from gentle_core.modules import TeacherModule
from gentle_core.protocols import TeacherView


class ClosedFormTeacher(TeacherModule):
    """Hubness is not corrected here: who makes pseudo-pairs of the rows does that."""

    def __init__(self, config: ClosedFormTeacherConfig, seed: int):
        self.config, self.seed = config, seed
        self.choice: Choice | None = None

    def embed(self, view: TeacherView) -> Mapping[str, Tensor]:
        a, b = view.towers
        if len(set(view.groups(a))) < 3:
            raise DataError(f"the teacher core/closed-form needs three pairs, and there are {len(set(view.groups(a)))}")
        crossed = not set(view.samples(a)) & set(view.samples(b))
        parts: dict[str, Any] = {}
        for side, tower in zip("xy", view.towers, strict=True):
            parts |= {f"items_{side}": view.features(tower, "matched"), f"pool_{side}": view.features(tower, "pool")}
            parts |= {f"{side}_val": view.features(tower, "val"), f"samples_{side}_val": view.samples(tower)}
            parts[f"labels_{side}"] = np.asarray(view.groups(tower))
        data = Features(**parts)
        wanted = dict.fromkeys(("cca", *self.config.forms))  # the choice needs one on the pairs alone
        fit = fit_forms_crossed if crossed else fit_forms
        self.choice = choose(
            fit(data, wanted, hubness=False, seed=self.seed), self.seed, HELD_OUT if crossed else "validation"
        )
        return self._rows(self.choice.form, view, "pool")

    def embed_matched(self, view: TeacherView) -> Mapping[str, Tensor]:
        assert self.choice is not None
        return self._rows(self.choice.form, view, "matched")

    def _rows(self, form: Form, view: TeacherView, part: str) -> Mapping[str, Tensor]:
        a, b = view.towers
        return {
            a: form.plain(view.features(a, part), "x").float(),
            b: form.plain(view.features(b, part), "y").float(),
        }

    def says(self) -> str:
        return "" if self.choice is None else self.choice.reason


def build(config: ClosedFormTeacherConfig, context: BuildContext) -> ClosedFormTeacher:
    return ClosedFormTeacher(config, context.seed)
