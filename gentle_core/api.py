"""All that a plugin imports. Names that need torch are loaded when they are first used."""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

from gentle_core.batch import AlignBatch, BuildContext, ItemIndex, LossContext, LossOut, ParamGroups, Rows
from gentle_core.deal import deal_splits
from gentle_core.errors import ComponentError, DataError, GentleError, RecipeError, WeightsError
from gentle_core.folders import files_below
from gentle_core.health import Finding, HealthContext
from gentle_core.hookspecs import hookimpl
from gentle_core.protocols import Augmentation, Dataset, EmbeddingModel, Encoder, Loss, Task, Teacher, TeacherView
from gentle_core.specs import (
    GENTLE_API,
    AugmentationSpec,
    DatasetSpec,
    EncoderSpec,
    HealthCheck,
    LossSpec,
    ModalitySpec,
    NoOptions,
    TaskSpec,
    TeacherSpec,
)
from gentle_core.split_lists import SPLITS, read_splits, split_name

if TYPE_CHECKING:
    from gentle_core.evaluate.probes import knn_accuracy, knn_predict, linear_probe, multilabel_probe
    from gentle_core.modules import EncoderModule, LossModule, TeacherModule, hash_tensors

__all__ = [
    "GENTLE_API",
    "SPLITS",
    "AlignBatch",
    "Augmentation",
    "AugmentationSpec",
    "BuildContext",
    "ComponentError",
    "DataError",
    "Dataset",
    "DatasetSpec",
    "EmbeddingModel",
    "Encoder",
    "EncoderModule",
    "EncoderSpec",
    "Finding",
    "GentleError",
    "HealthCheck",
    "HealthContext",
    "ItemIndex",
    "Loss",
    "LossContext",
    "LossModule",
    "LossOut",
    "LossSpec",
    "ModalitySpec",
    "NoOptions",
    "ParamGroups",
    "RecipeError",
    "Rows",
    "Task",
    "TaskSpec",
    "Teacher",
    "TeacherModule",
    "TeacherSpec",
    "TeacherView",
    "WeightsError",
    "deal_splits",
    "files_below",
    "hash_tensors",
    "hookimpl",
    "knn_accuracy",
    "knn_predict",
    "linear_probe",
    "multilabel_probe",
    "read_splits",
    "split_name",
]

_NEEDS_TORCH = {
    "EncoderModule": "gentle_core.modules",
    "LossModule": "gentle_core.modules",
    "TeacherModule": "gentle_core.modules",
    "hash_tensors": "gentle_core.modules",
    "knn_accuracy": "gentle_core.evaluate.probes",
    "knn_predict": "gentle_core.evaluate.probes",
    "linear_probe": "gentle_core.evaluate.probes",
    "multilabel_probe": "gentle_core.evaluate.probes",
}


RENAMED: dict[str, str] = {}
"""Former names that still work, with their present ones."""


def __getattr__(name: str) -> Any:
    if name in RENAMED:
        now = RENAMED[name]
        message = f"gentle_core.api.{name} is now {now}; the former name goes with interface {GENTLE_API + 1}"
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        return globals()[now] if now in globals() else __getattr__(now)
    if name in _NEEDS_TORCH:
        return getattr(import_module(_NEEDS_TORCH[name]), name)
    raise AttributeError(f"module 'gentle_core.api' has no attribute {name!r}")
