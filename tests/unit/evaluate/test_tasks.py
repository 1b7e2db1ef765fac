"""Tasks on labelled items, on a model whose embeddings are known."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from gentle_core.batch import BuildContext, ItemIndex
from gentle_core.builtin import KnnConfig, LinearProbeConfig, ZeroShotConfig
from gentle_core.errors import ComponentError, DataError, RecipeError
from gentle_core.evaluate.tasks import build_knn, build_linear_probe, build_zero_shot

WORDS = ("beach", "forest", "river")


class Model:
    """Scenes are vectors that lean to their class's axis; a text leans to the axes of the words in it."""

    def __init__(self):
        self.towers = {"picture": "scene", "words": "writing"}

    def embed(self, tower, items, space="joint"):
        rows = [self._text(item) if tower == "words" else torch.as_tensor(item) for item in items]
        z = torch.stack(rows).float()
        return z * 3 if space == "feature" else torch.nn.functional.normalize(z, dim=1)

    @staticmethod
    def _text(item):
        assert isinstance(item, str)
        return torch.tensor([float(word in item) + 0.01 for word in WORDS])


class Scenes:
    def __init__(self, split=None, noise=0.4, label="label"):
        rng = np.random.default_rng(1)
        self.names = [f"{word}_{i}" for word in WORDS for i in range(20)]
        self.values = {n: np.eye(3)[WORDS.index(n.split("_")[0])] + noise * rng.normal(size=3) for n in self.names}
        self.split, self.label = split, label

    def index(self, split):
        names = [n for n in self.names if (self.split or (lambda _: "test"))(n) == split]
        labels = np.array([n.split("_")[0].upper() for n in names])
        return {"scene": ItemIndex(names, attributes={self.label: labels})} if names else {}

    def load(self, modality, items):
        return [self.values[i] for i in items]

    def facts(self):
        return {"class_names": {w.upper(): w for w in WORDS}, "templates": ["a photograph of {}", "{} from above"]}


def context(dataset=None, seen=None, notices=None):
    def find(name, options, modality):
        if modality != "scene":
            raise ComponentError(f"no dataset for {modality}")
        return name or "toy/scenes", dataset or Scenes(), "scene"

    def trained_on(tower, items):
        return None if seen is None else [any(np.array_equal(item, s) for s in seen) for item in items]

    notify = (notices if notices is not None else []).append
    return BuildContext(cache_dir=None, dataset=find, trained_on=trained_on, notify=notify)


HERE = {"dataset": {"use": "toy/scenes"}}


def test_zero_shot_by_the_datasets_own_names_and_templates():
    found = build_zero_shot(ZeroShotConfig(**HERE), context()).evaluate(Model())
    values = Scenes().values
    expected = np.mean([int(np.argmax(v)) == WORDS.index(n.split("_")[0]) for n, v in values.items()])
    assert found["zero-shot/top1"] == pytest.approx(100 * expected)
    assert 50 < found["zero-shot/top1"] < 100
    assert found["facts"]["templates"] == ["a photograph of {}", "{} from above"]
    assert found["facts"]["in training"] == "not known" and found["facts"]["classes"] == 3
    json.dumps(found)


def test_own_templates_and_the_same_figures_every_time():
    config = ZeroShotConfig(templates=("{}.",), **HERE)
    one, two = (build_zero_shot(config, context()).evaluate(Model()) for _ in range(2))
    assert json.dumps(one) == json.dumps(two)
    assert one["facts"]["templates"] == ["{}."]
    with pytest.raises(ValueError, match="has no {} where"):
        ZeroShotConfig(templates=("a beach",))


def test_items_that_were_in_training_are_flagged_dropped_or_refused():
    scenes = Scenes()
    seen = [scenes.values[name] for name in ("beach_0", "river_3")]
    notices: list[str] = []
    found = build_zero_shot(ZeroShotConfig(**HERE), context(scenes, seen, notices)).evaluate(Model())
    assert found["zero-shot/seen_in_training"] == 2 and "zero-shot/top1_unseen" in found
    assert notices[0].startswith("2 of 60 items are among the run's training items (first: beach_0, river_3)")
    dropped = build_zero_shot(ZeroShotConfig(overlap="drop", **HERE), context(scenes, seen)).evaluate(Model())
    assert (dropped["zero-shot/items"], dropped["zero-shot/seen_in_training"]) == (58, 0)
    assert dropped["zero-shot/top1"] == found["zero-shot/top1_unseen"]
    with pytest.raises(DataError, match="2 of 60 items are among the run's training items.*overlap=drop"):
        build_zero_shot(ZeroShotConfig(overlap="refuse", **HERE), context(scenes, seen)).evaluate(Model())
    clean = build_zero_shot(ZeroShotConfig(**HERE), context(scenes, [])).evaluate(Model())
    assert clean["zero-shot/seen_in_training"] == 0 and "zero-shot/top1_unseen" not in clean


@pytest.mark.parametrize(
    ("build", "config"), [(build_linear_probe, LinearProbeConfig), (build_knn, KnnConfig)], ids=["probe", "knn"]
)
def test_probes_learn_the_classes_and_deal_the_items_evenly(build, config):
    found = build(config(**HERE), context()).evaluate(Model())
    name = "knn" if config is KnnConfig else "probe"
    assert found[f"{name}/picture/feature"] > 60 and found[f"{name}/picture/joint"] > 60
    assert found["majority/picture"] == pytest.approx(100 / 3)
    assert [found["facts"][f"items/{s}"] for s in ("train", "val", "test")] == [36, 12, 12]
    assert json.dumps(found) == json.dumps(build(config(**HERE), context()).evaluate(Model()))
    other = build(config(split_seed=1, space="joint", **HERE), context()).evaluate(Model())
    assert f"{name}/picture/feature" not in other


def test_the_datasets_own_splits_are_kept():
    def split(name):
        number = int(name.split("_")[1])
        return "train" if number < 5 else "val" if number < 10 else "test"

    found = build_knn(KnnConfig(k=1, **HERE), context(Scenes(split))).evaluate(Model())
    assert [found["facts"][f"items/{s}"] for s in ("train", "val", "test")] == [15, 15, 30]
    only = build_zero_shot(ZeroShotConfig(split="val", **HERE), context(Scenes(split))).evaluate(Model())
    assert only["zero-shot/items"] == 15


def test_what_is_said_when_it_cannot_be_done():
    def error(kind, match, config, where=None, model=None):
        with pytest.raises(kind, match=match):
            build_zero_shot(ZeroShotConfig(**config), where or context()).evaluate(model or Model())

    error(RecipeError, "--data FOLDER", {})
    error(RecipeError, "the model has no tower 'photo'; it has picture, words", HERE | {"tower": "photo"})
    error(RecipeError, "names: the model has no tower 'text'", HERE | {"names": "text"})
    error(DataError, "no attribute 'label'", HERE, context(Scenes(label="kind")))
    error(DataError, "no scene items", HERE, context(Scenes(lambda _: "elsewhere")))
    blind, three = Model(), Model()
    blind.towers = {"words": "writing"}
    error(ComponentError, "no dataset for writing", HERE, model=blind)
    three.towers = {"picture": "scene", "words": "writing", "sound": "noise"}
    error(RecipeError, "--set names=… of words, sound", HERE, model=three)
    with pytest.raises(DataError, match="at least|needs train"):
        build_knn(KnnConfig(**HERE), context(Scenes(lambda n: "test" if n == "beach_0" else ""))).evaluate(Model())
