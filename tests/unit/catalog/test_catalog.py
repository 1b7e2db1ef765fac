"""Names resolve or say what to do; modalities know who reads them."""

from __future__ import annotations

import pytest

from gentle_core.catalog import Catalog, Entry, Plugin, Problem
from gentle_core.errors import ComponentError
from gentle_core.specs import DatasetSpec, EncoderSpec, LossSpec, ModalitySpec


def encoder(name: str, modality: str = "image") -> EncoderSpec:
    return EncoderSpec(name=name, modality=modality, target="m:f", summary="")


def entry(kind: str, owner: str, spec: object) -> Entry:
    return Entry(kind, owner, spec, f"gentle-{owner}", "1.2")


@pytest.fixture
def catalog() -> Catalog:
    return Catalog(
        [
            entry("encoder", "protein", encoder("esm2", "protein-sequence")),
            entry("encoder", "protein", encoder("resnet")),
            entry("encoder", "vision", encoder("resnet")),
            entry("loss", "core", LossSpec(name="clip", target="m:f", summary="")),
            entry(
                "dataset", "vision", DatasetSpec(name="flickr", modalities=("photo", "text"), target="m:f", summary="")
            ),
            entry("modality", "vision", ModalitySpec(name="photo", summary="Photographs", reads_as=("image",))),
            entry("modality", "vision", ModalitySpec(name="image", summary="Pictures", reads_as=("array",))),
            entry("modality", "sensing", ModalitySpec(name="photo", summary="From above", reads_as=("scene",))),
        ],
        plugins=[Plugin("protein", "gentle-protein", "1.2", 0.0, 2), Plugin("empty", "gentle-empty", "3", 0.0, 0)],
        problems=[Problem("broken", "gentle-broken", "0.3", "cannot be loaded: ImportError: no x", "install x")],
    )


def failure(catalog: Catalog, kind: str, name: object) -> str:
    with pytest.raises(ComponentError) as caught:
        catalog.get(kind, name)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_full_and_bare_names(catalog: Catalog) -> None:
    assert catalog.get("encoder", "protein/esm2").full_name == "protein/esm2"
    assert catalog.get("encoder", "esm2").full_name == "protein/esm2"
    assert [e.full_name for e in catalog.entries("encoder")] == ["protein/esm2", "protein/resnet", "vision/resnet"]


def test_clash_names_both_owners(catalog: Catalog) -> None:
    message = failure(catalog, "encoder", "resnet")
    assert "protein/resnet (gentle-protein 1.2)" in message and "vision/resnet (gentle-vision 1.2)" in message
    assert catalog.get("encoder", "vision/resnet").owner == "vision"


@pytest.mark.parametrize(
    ("kind", "name", "expected"),
    [
        ("encoder", "esm3", "did you mean 'protein/esm2'?"),
        ("encoder", "protein/ESM2", "did you mean 'protein/esm2'?"),
        ("encoder", "protien/esm2", "did you mean 'protein/esm2'?"),
        ("encoder", "vision/esm2", "did you mean 'protein/esm2'?"),
        ("encoder", "audio/cnn", "no plugin 'audio' is installed: if you trust it, install it"),
        ("encoder", "clip", "'clip' is a loss, not an encoder"),
        ("dataset", "protein/esm2", "is an encoder, not a dataset"),
        ("encoder", "broken/cnn", "gentle-broken 0.3: cannot be loaded: ImportError: no x; install x"),
        ("dataset", "zzz", "there is 'vision/flickr'"),
        ("task", "zzz", "gentle plugins list"),
        ("encoder", "os.system", "never import paths or code"),
        ("encoder", "os:system", "never import paths or code"),
        ("encoder", "__import__('os')", "never import paths or code"),
        ("encoder", "a/b/c", "never import paths or code"),
        ("encoder", "", "never import paths or code"),
        ("encoder", 3, "is not a component's name"),
    ],
)
def test_what_is_not_found_says_what_to_do(catalog: Catalog, kind: str, name: object, expected: str) -> None:
    assert expected in failure(catalog, kind, name)


def test_own_plugin_that_is_missing_says_what_to_install() -> None:
    assert "pip install gentle-protein" in failure(Catalog([]), "encoder", "protein/esm2")


def test_reads_as_is_followed_to_the_end_and_never_backwards(catalog: Catalog) -> None:
    assert catalog.reads("photo", "photo")
    assert catalog.reads("image", "photo")
    assert catalog.reads("array", "photo")
    assert catalog.reads("scene", "photo"), "two plugins' declarations of one modality add up"
    assert not catalog.reads("photo", "image")
    assert catalog.reads("undeclared", "undeclared")
    assert not catalog.reads("image", "undeclared")


def test_reads_as_in_a_circle_ends() -> None:
    circle = [ModalitySpec(name=a, summary="", reads_as=(b,)) for a, b in ("xy", "yx")]
    catalog = Catalog([entry("modality", "p", spec) for spec in circle])
    assert catalog.reads("x", "y") and not catalog.reads("z", "x")


def test_modalities_declared_and_mentioned(catalog: Catalog) -> None:
    assert list(catalog.modalities()) == ["array", "image", "photo", "protein-sequence", "scene", "text"]
    assert catalog.modalities()["image"] == "Pictures"


def test_versions_of_what_brought_something(catalog: Catalog) -> None:
    assert catalog.versions() == {"gentle-protein": "1.2"}
