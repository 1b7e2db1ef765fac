"""Heads that start from CCA rank as CCA does until they are trained, and train from there."""

from __future__ import annotations

import copy
import json
import shutil

import numpy as np
import pytest
import torch

from gentle_core.closed_form.linear import cca
from gentle_core.closed_form.moments import Moments
from gentle_core.engine.starts import Paired, fit_cca, start
from gentle_core.engine.towers import ProjectionHead
from gentle_core.errors import DataError, RecipeError
from gentle_core.recipe.model import HeadTable

from .conftest import RECIPE

HEAD = {"dimension": 8, "hidden": 0, "init": "cca"}
START = {"towers.a.head": HEAD, "towers.b.head": HEAD, "towers.a.augment": [], "towers.a.encoder.freeze": True}


def toy(rng, n=40, p=6, q=5):
    hidden = rng.normal(size=(n, 3))
    x = hidden @ rng.normal(size=(3, p)) + 0.3 * rng.normal(size=(n, p)) + 2.0
    return x, hidden @ rng.normal(size=(3, q)) - 1.0


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("dimension", [2, 5, 9])
def test_a_head_projects_as_the_closed_form_does(standardize, dimension):
    rng = np.random.default_rng(0)
    x, y = toy(rng)
    fitted = cca(Moments.of(x, y), 0.3).weighted(1.0)
    head = ProjectionHead(6, HeadTable(dimension=dimension, hidden=0, init="cca")).double().eval()
    before = head.layers.weight.norm().item()
    if standardize:
        head.standardize(torch.from_numpy(x[:17]))  # statistics of other rows than the fit's
    start(head, fitted.mean_x, fitted.x_map)
    assert head.layers.weight.norm().item() == pytest.approx(before, rel=1e-6)
    found = torch.nn.functional.normalize(head(torch.from_numpy(x)), dim=1).detach().numpy()
    wanted = fitted.project_x(x)[:, :dimension]
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    np.testing.assert_allclose(found[:, : wanted.shape[1]], wanted, atol=1e-6)
    assert not found[:, wanted.shape[1] :].any()


def test_without_validation_items_the_settings_are_fixed():
    x, y = (torch.from_numpy(side) for side in toy(np.random.default_rng(1)))
    fixed, plain = fit_cca(Paired(x, y)), cca(Moments.of(x, y), 1.0).weighted(1.0)
    np.testing.assert_array_equal(fixed.x_map, plain.x_map)
    names = [str(i) for i in range(len(x))]
    chosen = fit_cca(Paired(x, y, x, y, names, names))
    assert chosen.x_map.shape == plain.x_map.shape and not np.allclose(chosen.x_map, plain.x_map)


@pytest.mark.parametrize("standardize", [True, False])
def test_a_column_of_rounding_errors_gets_no_weight(standardize):
    x, y = (torch.from_numpy(side) for side in toy(np.random.default_rng(2)))
    dead = -1e-7 + 1e-9 * y[:, :1]  # some text encoders have such a column; it even tells something
    seen = torch.cat([y, dead], dim=1)
    fitted, constant = fit_cca(Paired(x, seen)), fit_cca(Paired(x, torch.cat([y, 0 * dead], dim=1)))
    head = ProjectionHead(6, HeadTable(dimension=5, hidden=0, init="cca")).double().eval()
    if standardize:
        head.standardize(seen)
    start(head, fitted.mean_y, fitted.y_map)
    assert not head.layers.weight[:, -1].any() and head.layers.weight[:, :-1].norm(dim=0).min() > 0.1
    found = torch.nn.functional.normalize(head(seen), dim=1).detach().numpy()
    np.testing.assert_allclose(found[:, : constant.y_map.shape[1]], constant.embed_y(seen), atol=1e-6)


def test_a_run_begins_where_cca_lies(toy_run):
    still = {**START, "train.learning_rate": 1e-12, "baseline.cca": True, "dataset.paired": 20}
    run = toy_run("still", still)
    ours, theirs = run.metrics["test"], run.baselines["CCA, closed form"]["test"]
    recalls = [key for key in ours if key.startswith("retrieval/") and key.endswith(("recall", "MRR", "R@1"))]
    assert recalls and {key: ours[key] for key in recalls} == pytest.approx({key: theirs[key] for key in recalls})
    moved = toy_run("moved", {**still, "train.learning_rate": 1e-1})
    assert moved.metrics["test"] != ours


def test_it_resumes_from_what_was_trained(toy_run):
    straight = toy_run("straight", START)
    part = toy_run("part", {**START, "train.checkpoint_every": 3, "train.keep_last": 5})
    for folder in (part.out / "checkpoints").iterdir():
        if folder.name != "step-00000003":
            for file in folder.iterdir():
                file.unlink()
            folder.rmdir()
    again = toy_run("part", {**START, "train.checkpoint_every": 3, "train.keep_last": 5}, resume="auto")
    assert again.metrics == straight.metrics


def test_what_training_only_spoils_stays_as_it_began(toy_run):
    select = {**START, "train.select": "retrieval/mean/recall", "train.evaluate_every": 2, "dataset.paired": 20}
    began = toy_run("still", {**select, "train.learning_rate": 1e-12})
    spoilt = toy_run("spoilt", {**select, "train.learning_rate": 3.0})
    assert json.loads((spoilt.out / "model/config.json").read_text())["step"] == 0
    recall = "retrieval/mean/recall"
    assert spoilt.metrics["test"][recall] == pytest.approx(began.metrics["test"][recall])
    lines = [json.loads(line) for line in (spoilt.out / "metrics.jsonl").read_text().splitlines()]
    later = [line[recall] for line in lines if line["split"] == "val" and line["step"] and "final" not in line]
    assert later and max(later) < lines[0][recall]

    for folder in (spoilt.out / "checkpoints").iterdir():  # as after a kill before the second checkpoint
        if folder.name != "step-00000000":
            shutil.rmtree(folder)
    again = toy_run("spoilt", {**select, "train.learning_rate": 3.0}, resume="auto")
    assert again.metrics == spoilt.metrics
    ranked = json.loads((again.out / "model/config.json").read_text())["select"]["ranked"]
    assert [name for _, name in ranked] == ["step-00000000"]

    random = toy_run("random", {"train.select": "sdd", "train.evaluate_every": 2, "train.learning_rate": 3.0})
    assert json.loads((random.out / "model/config.json").read_text())["step"], "random heads are no candidate"


def test_what_cannot_be(toy_run):
    with pytest.raises(DataError, match="needs three pairs or more, and there are 2"):
        toy_run("few", {**START, "dataset.paired": 2})
    with pytest.raises(RecipeError, match="fitted between 'a' and 'b': give both heads this start"):
        toy_run("one", {"towers.a.head": HEAD})
    with pytest.raises(RecipeError, match="needs hidden = 0"):
        toy_run("hidden", {"towers.a.head": HEAD | {"hidden": 4}, "towers.b.head": HEAD | {"hidden": 4}})
    three = copy.deepcopy(RECIPE)
    three["towers"]["c"] = {"modality": "toy-c", "encoder": {"use": "toy/mlp-c"}, "head": HEAD}
    with pytest.raises(RecipeError, match="fitted between"):
        toy_run("three", START, recipe=three)
