"""All that a plugin imports. Names that need torch are loaded when they are first used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gentle_core.batch import AlignBatch, BuildContext, ItemIndex, LossContext, LossOut, ParamGroups, Rows
from gentle_core.errors import ComponentError, DataError, GentleError, RecipeError, WeightsError
from gentle_core.hookspecs import hookimpl
from gentle_core.protocols import Augmentation, Dataset, EmbeddingModel, Encoder, Loss, Task
from gentle_core.specs import (
    GENTLE_API,
    AugmentationSpec,
    DatasetSpec,
    EncoderSpec,
    LossSpec,
    ModalitySpec,
    NoOptions,
    TaskSpec,
)

if TYPE_CHECKING:
    from gentle_core.modules import EncoderModule, LossModule, hash_tensors

__all__ = [
    "GENTLE_API",
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
    "GentleError",
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
    "WeightsError",
    "hash_tensors",
    "hookimpl",
]

_NEEDS_TORCH = ("EncoderModule", "LossModule", "hash_tensors")


def __getattr__(name: str) -> Any:
    if name in _NEEDS_TORCH:
        from gentle_core import modules

        return getattr(modules, name)
    raise AttributeError(f"module 'gentle_core.api' has no attribute {name!r}")
