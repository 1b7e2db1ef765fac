"""Components with one fault each; `kit_broken_parts` holds the code. The name says which check must see it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import kit_sound
from kit_sound import ABOUT, MODALITIES, EncoderConfig, FolderConfig, LossConfig

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


@attrs.frozen
class Silent:
    width: int = 5
    dropout: float = 0.1


@attrs.frozen
class Freeze:
    """Options.

    Attributes:
        width, dropout: as in the sound one.
        freeze: a name that is taken.
    """

    width: int = 5
    dropout: float = 0.1
    freeze: bool = False


@attrs.frozen
class Untyped:
    """Options.

    Attributes:
        width, dropout: as in the sound one.
    """

    width: Any = 5
    dropout: float = 0.1


@attrs.frozen
class Doubling:
    """Options.

    Attributes:
        width, dropout: as in the sound one.
    """

    width: int = attrs.field(default=5, converter=lambda value: value + 1)
    dropout: float = 0.1


def odd_items() -> list[Any]:
    from kit_broken_parts import Odd

    return [Odd([0.1 * k for k in range(n)]) for n in (3, 5)]


def bad_example(folder: Path) -> dict[str, str]:
    raise RuntimeError("no example today")


def _encoder(name: str, **changes: Any) -> EncoderSpec:
    fields: dict[str, Any] = {
        "modality": "strip", "config": EncoderConfig, "target": f"kit_broken_parts:encoder_{name.replace('-', '_')}",
        "summary": "A fault", "parameters": kit_sound.parameters, **ABOUT,
    }  # fmt: skip
    return EncoderSpec(name=name, **fields | changes)


SOUND = "kit_sound_parts:build_encoder"


@hookimpl
def gentle_modalities() -> list[ModalitySpec]:
    return [
        *kit_sound.gentle_modalities(),
        ModalitySpec(name="odd", summary="Opaque items", samples=f"{__name__}:odd_items"),
        ModalitySpec(name="silent", summary=""),
    ]


@hookimpl
def gentle_encoders() -> list[EncoderSpec]:
    code = (
        "builds-no-module", "builds-no-width", "builds-fails", "offline", "collate-random", "collate-mutates",
        "collate-lists", "size", "shape-width", "shape-squeeze", "finite", "finite-constant", "padding", "batch-mean",
        "batch-order", "eval", "frozen-counter", "frozen-train", "fingerprint-constant", "fingerprint-random", "state",
        "gradient-detached", "gradient-nan", "saved", "saved-weights", "seed", "autocast", "facts",
    )  # fmt: skip
    return [
        *(_encoder(name) for name in code),
        _encoder("items", modality="odd"),
        _encoder("parameters", target=SOUND, parameters=lambda config: 7),
        _encoder("summary", target=SOUND, summary="two\nlines"),
        _encoder("documented", target=SOUND, config=Silent),
        _encoder("licence", target=SOUND, licence="do what you like, but tell us!"),
        _encoder("options-taken", target=SOUND, config=Freeze, parameters=None),
        _encoder("options-untyped", target=SOUND, config=Untyped, parameters=None),
        _encoder("options-doubling", target=SOUND, config=Doubling),
        _encoder("options-example", target=SOUND, example={"widht": 3}),
        _encoder("options-example-fails", target=SOUND, example=f"{__name__}:bad_example"),
        _encoder("target", target="kit_broken_parts:nobody"),
        _encoder("deviations-unknown", target=SOUND, deviations={"paddding": "a slip"}),
        _encoder("deviations-stale", target=SOUND, deviations={"padding": "it used to fail"}),
    ]


def _loss(name: str, **changes: Any) -> LossSpec:
    fields: dict[str, Any] = {
        "config": LossConfig, "target": f"kit_broken_parts:loss_{name.replace('-', '_')}", "needs": {"pairs", "views"},
        "summary": "A fault", **ABOUT,
    }  # fmt: skip
    return LossSpec(name=name, **fields | changes)


@hookimpl
def gentle_losses() -> list[LossSpec]:
    code = (
        "builds", "value-vector", "value-terms", "value-graph", "gradient", "precision", "permutation", "counts",
        "few-nan", "few-empty", "extremes", "repeatable-random", "repeatable-mutates", "evaluation", "towers", "tiles",
        "ranks-mean", "ranks-share", "groups-forgets", "groups-twice", "saved", "scorer",
    )  # fmt: skip
    return [
        *(_loss(name) for name in code),
        _loss("memory", target="kit_sound_parts:build_contrast", scope="rows"),
        _loss("dimensions", same_dimension=False),
    ]


@hookimpl
def gentle_augmentations() -> list[AugmentationSpec]:
    names = (
        "aug-builds", "seeded-global", "seeded-state", "untouched", "varies", "pairing-kind", "readable-shape",
        "readable-nan",
    )  # fmt: skip
    fields: dict[str, Any] = {"summary": "A fault", **ABOUT}
    found = [
        AugmentationSpec(
            name=n, modalities=("strip",), target=f"kit_broken_parts:augment_{n.replace('-', '_')}", **fields
        )
        for n in names
    ]
    draws = AugmentationSpec(
        name="pairing-draws", modalities=MODALITIES, target="kit_broken_parts:augment_pairing_draws", **fields
    )
    rows = AugmentationSpec(
        name="by-row", modalities=("strip",), stage="batch", target="kit_broken_parts:augment_by_row", **fields
    )
    return [*found, draws, rows]


@hookimpl
def gentle_datasets() -> list[DatasetSpec]:
    names = (
        "dataset-builds", "dataset-offline", "index-undeclared", "index-empty", "index-kind", "stable", "splits",
        "load-order", "load-count", "resumable-pickle", "resumable-state", "bad-id", "bad-modality", "bad-path",
        "facts-json", "facts-shortcut", "dataset-items",
    )  # fmt: skip
    return [
        DatasetSpec(
            name=n, modalities=MODALITIES, config=FolderConfig, example="kit_sound:example",
            target=f"kit_broken_parts:dataset_{n.replace('-', '_')}", summary="A fault", **ABOUT,
        )
        for n in names
    ]  # fmt: skip


@hookimpl
def gentle_tasks() -> list[TaskSpec]:
    return [
        TaskSpec(
            name=n, modalities=("strip",), config=FolderConfig, example="kit_sound:example",
            target=f"kit_broken_parts:task_{n.replace('-', '_')}", summary="A fault", **ABOUT,
        )
        for n in ("task-builds", "figures-nan", "figures-facts", "task-repeatable")
    ]  # fmt: skip


@hookimpl
def gentle_teachers() -> list[TeacherSpec]:
    return [
        TeacherSpec(
            name=n, target=f"kit_broken_parts:teacher_{n.replace('-', '_')}", summary="A fault", **ABOUT,
        )
        for n in ("teacher-builds", "rows-missing", "rows-count", "rows-norm", "rows-width", "luck", "forgetful")
    ]  # fmt: skip
