"""Cached views of a frozen encoder, further sources, and heads that start as the identity, in whole runs."""

from __future__ import annotations

import json

import attrs
import numpy as np
import pytest
import torch

from gentle_core.data.loader import StepDataset
from gentle_core.data.sampler import BatchSampler
from gentle_core.data.views import Augmentations
from gentle_core.engine import splits
from gentle_core.engine.progress import Display
from gentle_core.engine.session import Session
from gentle_core.errors import ComponentError
from gentle_core.recipe import load_recipe

from .conftest import RECIPE
from .test_run import digest, lines

CACHED = {"towers.a.encoder.freeze": True, "towers.a.encoder.views": 3}


def session(catalog, tmp_path, monkeypatch, sets):
    monkeypatch.setenv("GENTLE_CACHE", str(tmp_path / "cache"))
    made = Session(load_recipe(RECIPE, sets, catalog), tmp_path / "session", "never", Display(quiet=True))
    made.build()
    return made


def test_views_are_computed_once_and_the_same_again(toy_run, monkeypatch):
    calls = []
    original = splits.encode_all

    def counted(prepare, encode, *args, **kwargs):
        return original(prepare, lambda inputs: (calls.append(1), encode(inputs))[1], *args, **kwargs)

    monkeypatch.setattr(splits, "encode_all", counted)
    one = toy_run("one", CACHED)
    assert calls
    calls.clear()
    two = toy_run("two", CACHED)
    assert not calls
    assert digest(one) == digest(two)
    assert lines(one)[0]["ssl/a"] > 0


def test_every_view_is_an_augmented_item(toy_catalog, tmp_path, monkeypatch):
    run = session(
        toy_catalog, tmp_path, monkeypatch, CACHED | {"towers.a.augment": [{"use": "toy/noise", "sigma": 0.01}]}
    )
    source = run._sources()["a"]
    assert source.features.shape[0] == 3
    clean = run.train.features(run.model, "a")
    used = run._used("a")
    difference = (source.features[:, used] - clean[used]).abs().amax(dim=(1, 2))
    assert (difference > 0).all() and (difference < 0.2).all()
    assert not torch.equal(source.features[0], source.features[1])


def test_a_step_shows_two_different_views(toy_catalog, tmp_path, monkeypatch):
    run = session(toy_catalog, tmp_path, monkeypatch, CACHED)
    data = run.trainer().data
    seen = set()
    for step in range(6):
        given = data[step]["a"]
        first, second = (torch.cat([chunk.inputs for chunk in view]) for view in given.views)
        assert not (first == second).all(dim=1).any()
        source = data.sources["a"]
        rows = data.sampler.batch(step)["a"].positions
        seen |= {int((source.features[:, rows[0]] == first[0]).all(dim=1).nonzero()[0])}
    assert len(seen) > 1


def test_the_paired_rows_do_not_depend_on_the_unmatched(toy_catalog, tmp_path, monkeypatch):
    data = session(toy_catalog, tmp_path, monkeypatch, CACHED).trainer().data
    rows = attrs.evolve(data.sampler.rows, unpaired=dict.fromkeys(data.sources, 0))
    fewer = StepDataset(data.sources, BatchSampler(data.sampler.pools, rows, 0), 0, data.views)
    for view in range(2):
        assert torch.equal(data[3]["a"].views[view][0].inputs, fewer[3]["a"].views[view][0].inputs)


def test_batch_augmentations_must_treat_rows_apart():
    class Whole:
        def __call__(self, inputs, rng):
            return inputs

    class Apart(Whole):
        def by_row(self, inputs, rngs):
            return inputs + np.stack([rng.normal(size=2) for rng in rngs])

    with pytest.raises(ComponentError, match="x/whole changes whole batches at once"):
        Augmentations("", (), [("x/whole", Whole())])
    views = Augmentations("", [("x/add", lambda item, rng: item + rng.normal(size=2))], [("x/apart", Apart())])
    items = [np.zeros(2), np.ones(2), np.full(2, 2.0)]
    keys = [b"a", b"b", b"c"]
    whole = views(np.stack, items, keys)
    alone = np.concatenate([views(np.stack, [i], [k]) for i, k in zip(items, keys, strict=True)])
    np.testing.assert_array_equal(whole, alone)
    assert not np.allclose(whole, views(np.stack, items, [b"d", b"e", b"f"]))


def test_further_sources_in_a_run(toy_run):
    plain = toy_run("plain")
    more = toy_run("more", {"dataset.unpaired": [{"use": "toy/points", "count": 30, "seed": 4}]})
    pools = [json.loads((run.out / "manifest.json").read_text())["data"]["pools"] for run in (plain, more)]
    assert pools[0] == {"a": 48, "b": 48} and pools[1] == {"a": 78, "b": 78}
    manifest = json.loads((more.out / "manifest.json").read_text())
    assert manifest["dataset"]["unpaired"][0]["use"] == "toy/points"
    assert digest(plain) != digest(more)


def test_a_head_that_starts_as_the_identity(toy_run, toy_catalog, tmp_path, monkeypatch):
    head = {"dimension": 16, "hidden": 0, "standardize": False, "init": "identity", "dropout": 0.0}
    run = session(toy_catalog, tmp_path, monkeypatch, {"towers.a.head": head, "towers.b.head": head})
    items = run.dataset.load("toy-b", ["p0", "p1"])
    features, joint = (run.model.embed("b", items, space) for space in ("feature", "joint"))
    assert torch.allclose(joint, torch.nn.functional.normalize(features, dim=-1), atol=1e-6)
    wrong = {"towers.a.head": head | {"dimension": 8}, "towers.b.head": head | {"dimension": 8}}
    with pytest.raises(ComponentError, match="needs head.dimension = 16"):
        toy_run("wrong", wrong)


def test_without_pools_the_pairs_alone_standardise_the_features(toy_catalog, tmp_path, monkeypatch):
    """The control without unmatched items has nothing else; a run with pools counts them, whatever its objective."""

    def head(name, changes):
        (tmp_path / name).mkdir()
        run = session(toy_catalog, tmp_path / name, monkeypatch, {"dataset.paired": 12, **changes})
        run.trainer()
        rows = [position for items in run.pools.matched["b"] for position in items]
        items = run.dataset.load("toy-b", [run.train.index["b"].items[row] for row in rows])
        return run.model.tower("b").head, run.model.encode("b", items)

    alone, pairs = head("alone", {"dataset.unpaired": 0.0})
    assert len(pairs) == 12
    assert torch.allclose(alone.mean, pairs.mean(0), atol=1e-6)
    assert torch.allclose(alone.std, pairs.std(0, correction=0), atol=1e-6)
    with_pools, _ = head("with", {})
    clip, _ = head("clip", {"objective.use": "core/clip"})
    assert not torch.allclose(alone.mean, with_pools.mean, atol=1e-3)
    assert torch.equal(with_pools.mean, clip.mean) and torch.equal(with_pools.std, clip.std)
