"""The shipped recipes, and whole runs on small models and pictures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gentle_core.engine.artifact import load_model
from gentle_core.engine.progress import Display
from gentle_core.engine.run import run_recipe
from gentle_core.recipe import load_recipe

RECIPES = Path(__file__).parents[3] / "recipes"
NAMES = ("vision-language", "flickr8k", "flickr8k-frozen", "flickr8k-few-pairs", "coco-mini")


@pytest.mark.parametrize("name", NAMES)
def test_recipes_are_sound(name):
    resolved = load_recipe(RECIPES / f"{name}.toml")
    # 64 rows a batch are the paper's setting; that SDD sees little in them is for the user to know.
    assert [w for w in resolved.warnings if "SDD sees only 64 rows" not in w] == []
    assert set(resolved.recipe.towers) == {"image", "text"}


def run(folder, out, monkeypatch, sets):
    monkeypatch.setenv("GENTLE_CACHE", str(out.parent / "cache"))
    base = {
        "dataset": {"use": "vision-language/flickr8k", "path": str(folder), "paired": 0.5, "check": "header"},
        "towers": {
            "image": {"modality": "image", "encoder": {"use": "vision-language/hf-image"},
                      "augment": [{"use": "vision-language/simclr"}], "head": {"dimension": 8, "hidden": 8}},
            "text": {"modality": "text", "encoder": {"use": "vision-language/hf-text"},
                     "augment": [{"use": "vision-language/other-caption"}, {"use": "vision-language/word-dropout"}],
                     "head": {"dimension": 8, "hidden": 8}},
        },
        "train": {"steps": 3, "batch_size": 3, "evaluate_every": 2},
        "baseline": {"cca": False},
        "evaluate": {"splits": ["val"]},
    }  # fmt: skip
    return run_recipe(load_recipe(base, sets), out, "never", Display(quiet=True))


@pytest.fixture
def towers(model_folder):
    clip = model_folder("clip")
    return {f"towers.{tower}.encoder.path": str(clip) for tower in ("image", "text")}


def weights(run):
    return (run.out / "model" / "model.safetensors").read_bytes()


def test_encoders_that_train(flickr_folder, tmp_path, monkeypatch, towers):
    one = run(flickr_folder, tmp_path / "one", monkeypatch, towers | {"train.workers": 0})
    two = run(flickr_folder, tmp_path / "two", monkeypatch, towers | {"train.workers": 2})
    assert weights(one) == weights(two)
    model = load_model(one.out)
    picture = (flickr_folder / "Flicker8k_Dataset" / "0001_abc.jpg").read_bytes()
    assert model.embed("image", [picture]).shape == (1, 8) and model.embed("text", ["a dog"]).shape == (1, 8)


def test_frozen_encoders_with_kept_views(flickr_folder, tmp_path, monkeypatch, towers):
    frozen = {f"towers.{tower}.encoder.{key}": value for tower in ("image", "text")
              for key, value in (("freeze", True), ("views", 2))}  # fmt: skip
    one = run(flickr_folder, tmp_path / "one", monkeypatch, towers | frozen)
    two = run(flickr_folder, tmp_path / "two", monkeypatch, towers | frozen)
    assert weights(one) == weights(two)


def test_pools_from_further_files(flickr_folder, tmp_path, monkeypatch, towers, picture):
    (tmp_path / "more.txt").write_text("a dog runs\na cat sleeps\n")
    (tmp_path / "more").mkdir()
    for i in range(3):
        picture(50 + i).save(tmp_path / "more" / f"{i}.png")
    further = [
        {"use": "vision-language/captions", "path": str(tmp_path / "more.txt")},
        {"use": "vision-language/images", "path": str(tmp_path / "more")},
    ]
    done = run(flickr_folder, tmp_path / "one", monkeypatch, towers | {"dataset.unpaired": further})
    pools = json.loads((done.out / "manifest.json").read_text())["data"]["pools"]
    assert pools == {"image": 3 + 3, "text": 15 + 2}


def test_a_pretrained_clip_starts_as_it_was(flickr_folder, tmp_path, monkeypatch, towers):
    """Heads that start as the identity: before training, the towers rank as CLIP does."""
    head = {"dimension": 12, "hidden": 0, "standardize": False, "init": "identity"}
    sets = towers | {"towers.image.head": head, "towers.text.head": head, "train.learning_rate": 1e-12,
                     "train.encoder_learning_rate": 1e-12}  # fmt: skip
    done = run(flickr_folder, tmp_path / "one", monkeypatch, sets)
    model = load_model(done.out)
    features, joint = (model.embed("text", ["a dog", "a red car"], space) for space in ("feature", "joint"))
    assert (features / features.norm(dim=1, keepdim=True) - joint).abs().max() < 1e-4
