"""The hooks. Each returns descriptions (see `gentle_core.specs`); none may import torch or touch the network."""

from __future__ import annotations

from collections.abc import Iterable

import pluggy

from gentle_core.specs import (
    AugmentationSpec,
    DatasetSpec,
    EncoderSpec,
    HealthCheck,
    LossSpec,
    ModalitySpec,
    TaskSpec,
    TeacherSpec,
)

PROJECT = "gentle"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

SINCE = {
    "gentle_modalities": 1,
    "gentle_encoders": 1,
    "gentle_augmentations": 1,
    "gentle_losses": 1,
    "gentle_datasets": 1,
    "gentle_tasks": 1,
    "gentle_health_checks": 1,
    "gentle_teachers": 1,
}
"""The version of the plugin interface that brought each hook."""
DEPRECATED: dict[str, str] = {}
"""Hooks that still work and will go: what to write instead, by name."""


@hookspec
def gentle_modalities() -> Iterable[ModalitySpec]:
    """Kinds of data that the plugin introduces.

    A modality may specialise others: encoders of a modality in `reads_as` accept it as well.

        from gentle_core.api import ModalitySpec, hookimpl

        @hookimpl
        def gentle_modalities():
            return [ModalitySpec(name="aerial-image", summary="Overhead scenes", reads_as=("image",))]
    """


@hookspec
def gentle_encoders() -> Iterable[EncoderSpec]:
    """Encoders, each with the modality that it reads.

    import attrs
    from gentle_core.api import EncoderSpec, hookimpl

    @attrs.frozen
    class SpectrogramConfig:
        width: int = 256

    @hookimpl
    def gentle_encoders():
        return [
            EncoderSpec(
                name="spectrogram-cnn",
                modality="audio",
                config=SpectrogramConfig,
                target="gentle_audio.cnn:build",      # build(config, context) -> Encoder
                summary="A small CNN over log-mel spectrograms",
                licence="MIT",
            )
        ]
    """


@hookspec
def gentle_augmentations() -> Iterable[AugmentationSpec]:
    """Augmentations, each with the modalities that it acts on.

    from gentle_core.api import AugmentationSpec, hookimpl

    @hookimpl
    def gentle_augmentations():
        return [
            AugmentationSpec(
                name="time-shift",
                modalities=("audio",),
                target="gentle_audio.augment:build_time_shift",   # -> f(item, rng) -> item
                summary="Rolls the waveform by a random offset",
            )
        ]
    """


@hookspec
def gentle_losses() -> Iterable[LossSpec]:
    """Losses, each with what it needs and its scope.

    from gentle_core.api import LossSpec, hookimpl

    @hookimpl
    def gentle_losses():
        return [
            LossSpec(
                name="centroid",
                needs={"unpaired"},
                scope="moments",
                target="gentle_extra.centroid:build",   # -> Loss
                summary="Squared distance of the two modalities' means",
            )
        ]
    """


@hookspec
def gentle_datasets() -> Iterable[DatasetSpec]:
    """Datasets, each with the modalities that it yields.

    import attrs
    from pathlib import Path
    from gentle_core.api import DatasetSpec, hookimpl

    @attrs.frozen
    class FolderConfig:
        path: Path

    @hookimpl
    def gentle_datasets():
        return [
            DatasetSpec(
                name="folder",
                modalities=("audio", "text"),
                config=FolderConfig,
                target="gentle_audio.folder:build",      # -> Dataset
                summary="A folder of .wav files with .txt beside them",
            )
        ]
    """


@hookspec
def gentle_tasks() -> Iterable[TaskSpec]:
    """Downstream evaluations for `gentle eval RUN TASK`.

    import attrs
    from pathlib import Path
    from gentle_core.api import TaskSpec, hookimpl

    @attrs.frozen
    class GenreConfig:
        path: Path

    @hookimpl
    def gentle_tasks():
        return [
            TaskSpec(
                name="genre",
                modalities=("audio",),
                config=GenreConfig,
                target="gentle_audio.genre:build",       # -> Task
                summary="Genre accuracy of a linear probe",
            )
        ]
    """


@hookspec
def gentle_health_checks() -> Iterable[HealthCheck]:
    """Checks for `gentle doctor`: whether what the plugin needs around it is there and works.

    from gentle_core.api import HealthCheck, hookimpl

    @hookimpl
    def gentle_health_checks():
        return [
            HealthCheck(
                name="ffmpeg",
                target="gentle_audio.health:ffmpeg",     # f(context) -> findings
                summary="ffmpeg, which decodes recordings",
            )
        ]

    and in gentle_audio/health.py:

    import shutil
    from gentle_core.api import Finding

    def ffmpeg(context):
        if shutil.which("ffmpeg"):
            return [Finding("ok", "ffmpeg is there")]
        return [Finding("error", "ffmpeg is not on the PATH", "apt install ffmpeg")]
    """


@hookspec
def gentle_teachers() -> Iterable[TeacherSpec]:
    """Teachers: what says which items of two unmatched pools may be mates.

    import attrs
    from gentle_core.api import TeacherSpec, hookimpl

    @attrs.frozen
    class OntologyConfig:
        depth: int = 3

    @hookimpl
    def gentle_teachers():
        return [
            TeacherSpec(
                name="ontology",
                config=OntologyConfig,
                target="gentle_audio.ontology:build",    # -> Teacher
                summary="Embeds both pools by the classes that two taggers find",
            )
        ]
    """
