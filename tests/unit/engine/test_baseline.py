"""Closed forms on whole recipes: what they leave behind, what they are refitted on, what they never look at."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch

from gentle_core.closed_form import fit as fit_module
from gentle_core.closed_form.forms import LABELS, TRAINED, Ensemble
from gentle_core.engine import baselines as baselines_module
from gentle_core.engine import session as session_module
from gentle_core.engine.artifact import load_model
from gentle_core.engine.baseline import BaselineResult, run_baselines
from gentle_core.engine.closed import ClosedFormModel
from gentle_core.engine.progress import Display
from gentle_core.engine.session import Session
from gentle_core.errors import DataError, GentleError, RecipeError
from gentle_core.recipe import load_recipe

from .conftest import RECIPE

DESCRIBED = {"towers.a.descriptors": [{"use": "toy/mlp-a", "width": 12}]}


@pytest.fixture
def closed(toy_catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., BaselineResult]:
    monkeypatch.setenv("GENTLE_CACHE", str(tmp_path / "cache"))

    def run(name: str, sets: dict[str, Any] | None = None, **options: Any) -> BaselineResult:
        resolved = load_recipe(copy.deepcopy(RECIPE), sets or {}, toy_catalog)
        return run_baselines(resolved, tmp_path / name, Display(quiet=True), **options)

    return run


def figures(result: BaselineResult) -> dict[str, float]:
    return {line.label: line.recall["test"] for line in result.lines}


def test_it_leaves_a_run_directory_with_every_form(closed):
    result = closed("closed", DESCRIBED)
    results = json.loads((result.out / "results.json").read_text())
    chosen = next(line.label for line in result.lines if line.chosen)
    single = {label for name, label in LABELS.items() if name != "ensemble"}  # an average is there where it helps
    assert single <= {chosen, *results["baselines"]}
    assert results["splits"]["test"]["retrieval/mean/recall"] == figures(result)[chosen]
    assert results["choice"]["form"] == chosen and chosen in result.reason
    assert set(results["comparisons"]) == set(results["baselines"])
    page = result.report.read_text()
    assert "Nothing was trained" in page and "OT-EM CCA" in page
    assert "<dt>closed form</dt>" in page and "<dt>steps</dt>" not in page
    assert ("the best on the pairs alone" in page) and "CLIP on the same pairs was not run" not in page
    manifest = json.loads((result.out / "manifest.json").read_text())
    assert manifest["status"] == "finished" and "steps" not in manifest["data"]
    json.dumps(result.as_json())


def test_the_saved_model_embeds_new_items_as_the_form_did(closed, toy_catalog):
    for name, sets in {"plain": {}, "described": DESCRIBED, "both": {**DESCRIBED, "baseline.features": "both"}}.items():
        result = closed(name, sets)
        model = load_model(result.out, catalog=toy_catalog)
        assert isinstance(model, ClosedFormModel)
        dataset = session_module.Builder(
            recipe=load_recipe(copy.deepcopy(RECIPE), {}, toy_catalog).recipe, catalog=toy_catalog, notify=print
        ).dataset()
        saved = np.load(result.out / "embeddings" / "test.npz")
        for tower, modality in model.towers.items():
            items = dataset.load(modality, saved[f"{tower}.items"].tolist())
            np.testing.assert_allclose(model.embed(tower, items).numpy(), saved[f"{tower}.z"], atol=2e-5)
            features = model.embed(tower, items, space="feature")
            if tower == "a" and name != "plain":
                with pytest.raises(DataError, match="descriptors of tower 'a', which need its raw items"):
                    model.head(tower, features)
            else:
                np.testing.assert_allclose(model.head(tower, features).numpy(), saved[f"{tower}.z"], atol=2e-5)
        assert model.embed("a", items[:2], space="feature").shape == (2, 16)


def test_the_saved_form_can_teach_a_run(closed, toy_run):
    """Whatever validation chose, OT-EM included, as the teacher of pseudo-pairs."""
    teacher = {"use": "core/saved-run", "path": str(closed("taught", forms=("cca", "ot-em")).out)}
    terms = [{"use": "core/clip"}, {"use": "core/pseudo-pairs"}]
    run = toy_run("student", {"objective": {"use": "core/sum", "terms": terms}, "pseudo": {"teacher": teacher}})
    assert run.metrics["test"]["retrieval/mean/recall"] > 0


def test_descriptors_and_joint_embeddings_reach_the_forms(closed, toy_run, tmp_path):
    plain, described = closed("plain", forms=("cca",)), closed("described", DESCRIBED, forms=("cca",))
    only = closed("only", {**DESCRIBED, "baseline.features": "none", "towers.b.descriptors": [{"use": "toy/mlp-b"}]})
    assert figures(plain) != figures(described) and "CCA, closed form" in figures(only)
    trained = toy_run("run", {"train.steps": 30})
    refitted = closed("refitted", {"baseline.features": "joint"}, forms=("cca",), trained=trained.out)
    initial = closed("initial", {"baseline.features": "joint"}, forms=("cca",))
    assert figures(refitted) != figures(initial)


def test_a_form_with_pools_is_never_alone(closed):
    assert {"CCA, closed form", "OT-EM CCA"} <= set(figures(closed("one", forms=("ot-em",), correct=False)))


def test_the_heads_of_a_trained_run_are_a_form_of_their_own(closed, toy_run, toy_catalog, monkeypatch):
    run = toy_run("trained")
    own = json.loads((run.out / "results.json").read_text())["splits"]["test"]["retrieval/mean/recall"]
    result = closed("again", trained=run.out)
    assert figures(result)[TRAINED] == pytest.approx(own, abs=0.2)
    assert figures(result)["CCA, closed form"] != own
    fitted = fit_module.fit_forms

    def all_averaged(*args: Any, **options: Any) -> Any:
        found = [form for form in fitted(*args, **options) if form.hubness is None]
        best = attrs.evolve(found[0], pools=False)  # whatever is chosen, it is this
        members = (best, next(form for form in found if form.label == TRAINED))
        average = Ensemble(name="ensemble", label="all", pools=False, settings={}, members=members)
        return [attrs.evolve(average, ranks=best.ranks)]

    monkeypatch.setattr(baselines_module, "fit_forms", all_averaged)
    averaged = closed("averaged", trained=run.out)
    model = load_model(averaged.out, catalog=toy_catalog)
    saved = np.load(averaged.out / "embeddings" / "test.npz")
    dataset = session_module.Builder(
        recipe=load_recipe(copy.deepcopy(RECIPE), {}, toy_catalog).recipe, catalog=toy_catalog, notify=print
    ).dataset()
    for tower, modality in model.towers.items():
        items = dataset.load(modality, saved[f"{tower}.items"].tolist())
        np.testing.assert_allclose(model.embed(tower, items).numpy(), saved[f"{tower}.z"], atol=2e-5)


def test_true_mates_in_the_pools_are_never_used(closed, monkeypatch):
    """Permuting the samples of the pool items, in one tower, changes no form: nothing looks at who describes what."""
    before = closed("before")
    whole = session_module.pools_of

    def strangers(*args: Any, **options: Any):
        pools = whole(*args, **options)
        order = np.random.default_rng(0).permutation(len(pools.described["b"]))
        return attrs.evolve(
            pools,
            unmatched={**pools.unmatched, "b": pools.unmatched["b"][order]},
            described={**pools.described, "b": np.random.default_rng(1).permutation(pools.described["b"])},
        )

    monkeypatch.setattr(session_module, "pools_of", strangers)
    after = closed("after")
    assert [line.label for line in after.lines] == [line.label for line in before.lines]
    for a, b in zip(before.lines, after.lines, strict=True):
        assert (a.validation, a.recall) == (pytest.approx(b.validation), pytest.approx(b.recall)), a.label


def test_a_run_shows_the_closed_forms_and_corrections_beside_it(toy_run):
    recipe = copy.deepcopy(RECIPE)
    recipe["baseline"] = {"pairs_only": True}
    recipe["evaluate"] = {"hubness": "auto"}
    run = toy_run("run", recipe=recipe)
    assert {"CCA, closed form", "Ridge, closed form", "Procrustes, closed form", "CCA on this run's features",
            "CCA on the pairs-only features", "CLIP, pairs only"} <= set(run.baselines)  # fmt: skip
    results = json.loads((run.out / "results.json").read_text())
    assert set(results["corrected"]) == {"This run", "CLIP, pairs only"}
    of_run = results["corrected"]["This run"]
    assert set(of_run["splits"]) == {"val", "test"} and of_run["settings"]["hubness"]
    plain = results["splits"]["val"]["retrieval/mean/recall"]
    assert of_run["splits"]["val"]["retrieval/mean/recall"] >= plain - 1e-9  # "none" is among the choices
    assert "This run, hubness corrected" in run.report.read_text()


@pytest.mark.parametrize("method", ["csls", "inverted-softmax", "qb-norm"])
def test_a_named_correction_with_a_named_bank(toy_run, method):
    run = toy_run("run", {"evaluate.hubness": method, "evaluate.bank": "unpaired", "evaluate.bank_rows": 10})
    settings = json.loads((run.out / "results.json").read_text())["corrected"]["This run"]["settings"]
    assert settings["bank"] == "unpaired" and settings["bank_rows"] == [10, 10]


@pytest.mark.parametrize("paired, forms, expected", [(8, ["cca"], True), (48, ["cca"], False), (8, ["ot-em"], True)])
def test_a_run_with_few_pairs_and_large_pools_says_where_to_turn(toy_run, paired, forms, expected):
    result = toy_run("one", {"dataset.paired": paired, "baseline.cca": True, "baseline.forms": forms})
    notices = json.loads((result.out / "manifest.json").read_text())["notices"]
    assert any(f"gentle baseline {result.out}" in line for line in notices) == expected


def test_forms_do_not_change_the_training(toy_run):
    without, beside = toy_run("without"), toy_run("beside", {"baseline.cca": True, "evaluate.hubness": "auto"})
    assert without.metrics == beside.metrics


def test_without_a_validation_split_pairs_are_held_out_in_turn(closed, toy_catalog):
    result = closed("folds", {"dataset.held_out": 0})
    assert result.chosen_on == "the pairs held out in turn" and result.chosen_on in result.reason
    assert all(line.validation > 0 and not line.recall for line in result.lines)
    assert "held out in turn" in result.report.read_text()
    model = load_model(result.out, catalog=toy_catalog)
    assert isinstance(model, ClosedFormModel)
    again = closed("again", {"dataset.held_out": 0})
    assert [(line.label, line.validation) for line in again.lines] == [
        (line.label, line.validation) for line in result.lines
    ]


def test_a_run_without_a_validation_split_has_closed_forms_beside_it(toy_run, monkeypatch):
    monkeypatch.setattr(Session, "_validation", lambda self: None)
    changes = {
        "baseline.cca": True, "dataset.paired": 12, "towers.a.augment": [], "evaluate.splits": ["test"],
        "train.select": "", "train.steps": 1,
    }  # fmt: skip
    frozen = toy_run("frozen", {**changes, "towers.a.encoder.freeze": True})
    notices = json.loads((frozen.out / "manifest.json").read_text())["notices"]
    assert frozen.baselines["CCA, closed form"]["test"]["retrieval/mean/recall"] > 0
    assert any("held out in turn" in line and "no val split" in line for line in notices)
    assert any("gentle baseline with the recipe" in line for line in notices)
    trained = toy_run("trained", changes)  # its encoder has seen the pairs
    assert not trained.baselines


def test_errors_say_what_to_do(closed, toy_run):
    with pytest.raises(DataError, match=r"at least three; raise dataset\.paired"):
        closed("few", {"dataset.paired": 2})
    blind = toy_run("trained-blind", {"dataset.held_out": 0, "train.select": ""})
    with pytest.raises(DataError, match="no val split .* give the recipe instead of the run"):
        closed("blind", {"dataset.held_out": 0}, trained=blind.out)
    with pytest.raises(RecipeError, match=r"baseline\.features = \"none\" leaves nothing of tower 'a'"):
        closed("nothing", {"baseline.features": "none"})
    closed("once", forms=("ridge",))
    with pytest.raises(GentleError, match="already holds a run"):
        closed("once", forms=("ridge",))
    with pytest.raises(RecipeError, match="reads 'toy-b', and this tower holds 'toy-a'"):
        closed("wrong", {"towers.a.descriptors": [{"use": "toy/mlp-b"}]})
    assert torch.get_default_dtype() == torch.float32
