"""A small world of components that exist only as descriptions."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

import attrs
import pytest

from gentle_core.catalog import Catalog, Entry, Plugin
from gentle_core.plugins import discover
from gentle_core.specs import AugmentationSpec, DatasetSpec, EncoderSpec, LossSpec, ModalitySpec

RECIPE = Path(__file__).with_name("toy.toml").read_text()


@attrs.frozen
class Layers:
    sizes: tuple[int, ...] = (1, 2)
    kind: Literal["wide", "deep"] = "wide"


@attrs.frozen(kw_only=True)
class CnnConfig:
    idle_when_frozen: ClassVar[tuple[str, ...]] = ("rate",)

    width: int = attrs.field(default=4, validator=attrs.validators.ge(1))
    rate: float = 0.5
    verbose: bool = False
    name: str = ""
    folder: Path | None = None
    layers: Layers = Layers()
    tags: frozenset[str] = frozenset()
    rates: dict[str, float] = attrs.field(factory=dict)
    span: tuple[int, int] = (0, 1)
    limit: int | Literal["auto"] = "auto"

    def __attrs_post_init__(self) -> None:
        if self.span[0] > self.span[1]:
            raise ValueError(f"span = {list(self.span)} runs backwards")


@attrs.frozen
class NoiseConfig:
    p: float


@attrs.frozen
class Clashing:
    freeze: bool = True


def make_catalog() -> Catalog:
    t = {"target": "toy:build", "summary": ""}
    specs: list[tuple[str, object]] = [
        ("modality", ModalitySpec(name="sound", summary="Sounds", reads_as=("signal",))),
        ("dataset", DatasetSpec(name="pairs", modalities=("sound", "text"), **t)),
        ("dataset", DatasetSpec(name="folder", modalities=("sound", "text"), config=CnnConfig, **t)),
        ("dataset", DatasetSpec(name="pictures", modalities=("image", "text"), **t)),
        ("encoder", EncoderSpec(name="cnn", modality="sound", config=CnnConfig, **t)),
        ("encoder", EncoderSpec(name="any-signal", modality="signal", **t)),
        ("encoder", EncoderSpec(name="bow", modality="text", **t)),
        ("encoder", EncoderSpec(name="greedy", modality="text", requires=("no-such-package>=2",), **t)),
        ("encoder", EncoderSpec(name="clashing", modality="text", config=Clashing, **t)),
        ("augmentation", AugmentationSpec(name="noise", modalities=("sound", "text"), config=NoiseConfig, **t)),
        ("augmentation", AugmentationSpec(name="echo", modalities=("sound",), **t)),
        ("loss", LossSpec(name="three", min_modalities=3, **t)),
        ("loss", LossSpec(name="two", max_modalities=2, same_dimension=False, **t)),
        ("loss", LossSpec(name="tokenwise", needs={"tokens"}, **t)),
        ("loss", LossSpec(name="for-images", modalities=("image",), **t)),
    ]
    own = [Entry(kind, "toy", spec, "gentle-toy", "1.0") for kind, spec in specs]
    core = discover(enabled=False)
    return Catalog([*core, *own], [*core.plugins, Plugin("toy", "gentle-toy", "1.0", 0.0, len(own))])


@pytest.fixture(scope="session")
def catalog() -> Catalog:
    return make_catalog()


@pytest.fixture
def recipe_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """RECIPE as recipe.toml in the working directory."""
    monkeypatch.chdir(tmp_path)
    path = Path("recipe.toml")
    path.write_text(RECIPE)
    return path
