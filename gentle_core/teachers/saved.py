"""`core/saved-run`: the model of a finished run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from gentle_core.batch import BuildContext
from gentle_core.builtin import SavedRunTeacherConfig
from gentle_core.errors import DataError
from gentle_core.modules import TeacherModule
from gentle_core.protocols import TeacherView


class SavedRunTeacher(TeacherModule):
    """It embeds the pools with towers of the same names."""

    def __init__(self, path: Path):
        self.path = path
        self.model: Any = None

    def embed(self, view: TeacherView) -> Mapping[str, Tensor]:
        if self.model is None:
            self.model = view.saved(self.path)
        missing = [tower for tower in view.towers if tower not in self.model.tower_modules]
        if missing:
            raise DataError(
                f"the teacher {self.path} has no tower {missing[0]!r}; it has {', '.join(self.model.tower_modules)}"
            )
        return {tower: view.joint(tower, "pool", self.model) for tower in view.towers}

    def embed_matched(self, view: TeacherView) -> Mapping[str, Tensor]:
        return {tower: view.joint(tower, "matched", self.model) for tower in view.towers}


def build(config: SavedRunTeacherConfig, context: BuildContext) -> SavedRunTeacher:
    return SavedRunTeacher(config.path)
