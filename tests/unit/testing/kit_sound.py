"""A plugin without a fault, one component of each kind: every check of the conformance kit passes."""

from __future__ import annotations

from pathlib import Path

import attrs

from gentle_core.api import (
    AugmentationSpec,
    DatasetSpec,
    EncoderSpec,
    LossSpec,
    ModalitySpec,
    TaskSpec,
    TeacherSpec,
    hookimpl,
)

MODALITIES = ("strip", "strip-label")


@attrs.frozen
class EncoderConfig:
    """Options.

    Attributes:
        width: of the features.
        dropout: in training.
    """

    width: int = 5
    dropout: float = 0.1


@attrs.frozen
class FolderConfig:
    """Options.

    Attributes:
        path: folder of .txt files with numbers.
    """

    path: Path


@attrs.frozen
class LossConfig:
    """Options.

    Attributes:
        temperature: at the start.
    """

    temperature: float = 0.5


def parameters(config: EncoderConfig) -> int:
    return 3 * config.width + 3


def example(folder: Path) -> dict[str, str]:
    """Twelve strips of different lengths."""
    for number in range(12):
        values = " ".join(f"{((7 * number + 3 * i) % 11) / 10 - 0.5:.2f}" for i in range(3 + number % 5))
        (folder / f"strip{number:02d}.txt").write_text(values)
    return {"path": str(folder)}


ABOUT = {"licence": "MIT", "citation": "The tests of Gentle"}


@hookimpl
def gentle_modalities() -> list[ModalitySpec]:
    return [ModalitySpec(name=name, summary="Rows of numbers") for name in MODALITIES]


@hookimpl
def gentle_encoders() -> list[EncoderSpec]:
    return [
        EncoderSpec(
            name="mean", modality="strip", config=EncoderConfig, target="kit_sound_parts:build_encoder",
            parameters=parameters, summary="Means over a strip", **ABOUT,
        )
    ]  # fmt: skip


@hookimpl
def gentle_augmentations() -> list[AugmentationSpec]:
    return [
        AugmentationSpec(
            name="noise", modalities=("strip",), target="kit_sound_parts:build_noise", summary="Adds noise", **ABOUT
        ),
        AugmentationSpec(
            name="scale", modalities=MODALITIES, target="kit_sound_parts:build_scale", summary="One factor", **ABOUT
        ),
        AugmentationSpec(
            name="hide", modalities=("strip",), stage="batch", target="kit_sound_parts:build_hide",
            summary="Hides positions of a collated batch", **ABOUT,
        ),
    ]  # fmt: skip


@hookimpl
def gentle_losses() -> list[LossSpec]:
    return [
        LossSpec(
            name="contrast", config=LossConfig, target="kit_sound_parts:build_contrast", needs={"pairs", "views"},
            summary="A dense contrastive loss, and views that agree", scope="global", **ABOUT,
        ),
        LossSpec(
            name="centroid", target="kit_sound_parts:build_centroid", needs={"unpaired", "raw"}, scope="moments",
            summary="Distance of means and spreads", unit=False, same_dimension=False, min_modalities=1, **ABOUT,
        ),
    ]  # fmt: skip


@hookimpl
def gentle_datasets() -> list[DatasetSpec]:
    return [
        DatasetSpec(
            name="folder", modalities=MODALITIES, config=FolderConfig, example=f"{__name__}:example",
            target="kit_sound_parts:build_folder", summary="Text files", **ABOUT,
        )
    ]  # fmt: skip


@hookimpl
def gentle_tasks() -> list[TaskSpec]:
    return [
        TaskSpec(
            name="spread", modalities=("strip",), config=FolderConfig, example=f"{__name__}:example",
            target="kit_sound_parts:build_task", summary="How far strips lie apart", **ABOUT,
        )
    ]  # fmt: skip


@hookimpl
def gentle_teachers() -> list[TeacherSpec]:
    return [
        TeacherSpec(
            name="mean", target="kit_sound_parts:build_teacher", summary="Five features as they are", changes=True,
            **ABOUT,
        )
    ]  # fmt: skip
