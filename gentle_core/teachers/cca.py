"""`core/cca`: regularised CCA on the pairs' encoder features. With frozen encoders it takes a second, once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gentle_core.batch import BuildContext
from gentle_core.builtin import CcaTeacherConfig
from gentle_core.closed_form.linear import Alignment, cca
from gentle_core.closed_form.moments import Moments
from gentle_core.closed_form.select import fit_select
from gentle_core.errors import DataError
from gentle_core.modules import TeacherModule
from gentle_core.protocols import TeacherView

UNTOLD = 1.0
"""Ridge and column power where neither the recipe nor validation data say."""


class CcaTeacher(TeacherModule):
    """Settings that the recipe leaves open are chosen by mean recall on validation items."""

    def __init__(self, config: CcaTeacherConfig):
        self.config = config
        self.fitted: Alignment | None = None

    def embed(self, view: TeacherView) -> Mapping[str, Tensor]:
        a, b = view.towers
        self.fitted = self._fit(view, view.features(a, "pairs"), view.features(b, "pairs"))
        return self._rows(self.fitted, view, "pool")

    def embed_matched(self, view: TeacherView) -> Mapping[str, Tensor]:
        assert self.fitted is not None
        return self._rows(self.fitted, view, "matched")

    def _rows(self, fitted: Alignment, view: TeacherView, part: str) -> Mapping[str, Tensor]:
        a, b = view.towers
        return {
            a: torch.from_numpy(fitted.embed_x(view.features(a, part))).float(),
            b: torch.from_numpy(fitted.embed_y(view.features(b, part))).float(),
        }

    def _fit(self, view: TeacherView, x: Tensor, y: Tensor) -> Alignment:
        if len(x) < 3:
            raise DataError(f"the teacher core/cca needs three pairs or more, and there are {len(x)}")
        a, b = view.towers
        c = self.config
        shared = set(view.samples(a)) & set(view.samples(b))
        if shared and None in (c.ridge, c.power):
            given: dict[str, Any] = {
                name: (value,)
                for name, value in (("ridges", c.ridge), ("powers", c.power), ("dimensions", c.dimension))
                if value is not None
            }
            return fit_select(
                x, y, view.features(a, "val"), view.features(b, "val"),
                samples_x_val=view.samples(a), samples_y_val=view.samples(b), **given,
            ).alignment  # fmt: skip
        full = cca(Moments.of(x, y), UNTOLD if c.ridge is None else c.ridge)
        return full.weighted(UNTOLD if c.power is None else c.power, c.dimension)


def build(config: CcaTeacherConfig, context: BuildContext) -> CcaTeacher:
    return CcaTeacher(config)
