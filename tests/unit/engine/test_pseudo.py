"""Pseudo-pairs in whole runs: what they change, what they never look at, and that a resume gives the same bits."""

from __future__ import annotations

import copy
import json
import shutil
from typing import Any

import attrs
import numpy as np
import pytest
import torch

from gentle_core.builtin import ClosedFormTeacherConfig
from gentle_core.closed_form.crossfit import HELD_OUT
from gentle_core.data import pools as pools_module
from gentle_core.engine import session as session_module
from gentle_core.engine.checkpoint import load_checkpoint, steps_in
from gentle_core.engine.pseudo import PseudoPairing
from gentle_core.errors import ComponentError, DataError
from gentle_core.losses.klot import Klot
from gentle_core.recipe import load_recipe
from gentle_core.teachers.cca import CcaTeacher
from gentle_core.teachers.closed_form import ClosedFormTeacher
from gentle_core.testing.teachers import RandomView

from .conftest import RECIPE
from .test_run import STEADY, lines

CCA = {
    "pseudo": {"teacher": {"use": "core/cca"}, "rows": 6, "neighbours": 2},
    "objective": {"use": "core/sum", "terms": [{"use": "core/clip"}, {"use": "core/pseudo-pairs", "weight": 2.0}]},
}
FORMS = {
    **CCA,
    "pseudo": {"teacher": {"use": "core/closed-form", "forms": ["propagation", "ot-em"]}, "rows": 6, "neighbours": 2},
}
KLOT = {
    "pseudo": {"teacher": {"use": "core/closed-form", "forms": ["ot-em"]}},
    "objective": {"use": "core/sum", "terms": [{"use": "core/clip"}, {"use": "core/klot", "target": "reference"}]},
}
AVERAGE = {
    **CCA,
    "pseudo": {"teacher": {"use": "core/average"}, "rows": 6, "start": 2, "refresh": 3},
}


def recipe(**changes: Any) -> dict[str, Any]:
    return copy.deepcopy(RECIPE) | copy.deepcopy(changes)


def tables(run_dir) -> dict[str, np.ndarray]:
    found = load_checkpoint(steps_in(run_dir / "checkpoints")[0]).tensors["pseudo"]
    return {name: value.numpy() for name, value in found.items()}


def test_a_run_with_a_cca_teacher(toy_run):
    run = toy_run("one", recipe=recipe(**CCA))
    trained = lines(run)
    assert all(line["rows/pseudo"] >= 3 and line["pseudo"] > 0 for line in trained)
    asked = lines(run, "pseudo")
    assert [line["step"] for line in asked] == [0] and asked[0]["pseudo/share"] == 1.0
    manifest = json.loads((run.out / "manifest.json").read_text())
    assert manifest["data"]["pseudo_rows"] == 6
    found = tables(run.out)
    assert found["table.0.items"].shape == (48,) and found["table.0.candidates"].shape == (48, 2)


def test_the_closed_form_that_validation_favours_teaches(toy_run, monkeypatch):
    seen = []
    original = ClosedFormTeacher.embed

    def spied(self: ClosedFormTeacher, view: Any) -> Any:
        rows = original(self, view)
        assert self.choice is not None
        pools = {t: view.features(t, "pool") for t in view.towers}  # now: one of the encoders trains
        expected = {t: self.choice.form.plain(pools[t], s) for t, s in zip(view.towers, "xy", strict=True)}
        seen.append((self.choice, rows, expected))
        return rows

    monkeypatch.setattr(ClosedFormTeacher, "embed", spied)
    run = toy_run("one", {"train.steps": 1}, recipe=recipe(**FORMS))
    ((choice, rows, expected),) = seen
    assert choice.with_pools is not None and choice.form in (choice.pairs_only, choice.with_pools)
    assert choice.form.hubness is None
    for tower, found in rows.items():
        torch.testing.assert_close(found.double(), expected[tower], rtol=0, atol=1e-6)
    said = json.loads((run.out / "manifest.json").read_text())["notices"]
    assert any(choice.form.label in line and line.startswith("teacher: ") for line in said)


def test_without_validation_pairs_a_closed_form_teacher_holds_pairs_out_in_turn(monkeypatch):
    monkeypatch.setattr(RandomView, "samples", lambda self, tower: [f"{tower}{row}" for row in range(12)])
    teacher, view = ClosedFormTeacher(ClosedFormTeacherConfig(), 0), RandomView()
    rows = teacher.embed(view)
    assert teacher.choice is not None and teacher.choice.on == HELD_OUT and HELD_OUT in teacher.says()
    pairs = len(set(view.groups(view.towers[0])))
    assert all(len(ranks.rank) == pairs for ranks in teacher.choice.form.ranks.values())  # each judged once
    for tower, side in zip(view.towers, "xy", strict=True):
        expected = teacher.choice.form.plain(view.features(tower, "pool"), side)
        torch.testing.assert_close(rows[tower].double(), expected, rtol=0, atol=1e-6)
    monkeypatch.setattr(RandomView, "groups", lambda self, tower: [0, 1] * 6)
    with pytest.raises(DataError, match="needs three pairs, and there are 2"):
        teacher.embed(RandomView())


def test_a_run_without_a_validation_split_is_taught(toy_run):
    run = toy_run("folds", {"train.steps": 1, "train.select": "", "dataset.held_out": 0}, recipe=recipe(**FORMS))
    notices = json.loads((run.out / "manifest.json").read_text())["notices"]
    assert any(line.startswith("teacher: ") and HELD_OUT in line for line in notices)


def test_leaving_them_out_changes_nothing_else(toy_run):
    objective = {"use": "core/sum", "terms": [{"use": "core/clip"}, {"use": "core/mmd"}]}
    plain = toy_run("plain", {"train.steps": 1}, recipe=recipe(objective=objective))
    objective["terms"].append({"use": "core/pseudo-pairs", "weight": 1e-9})
    with_them = toy_run("with", {"train.steps": 1}, recipe=recipe(**{**CCA, "objective": objective}))
    one, two = lines(plain)[0], lines(with_them)[0]
    assert {key: one[key] for key in ("clip", "mmd")} == {key: two[key] for key in ("clip", "mmd")}


@pytest.mark.parametrize("changes", [CCA, FORMS], ids=["cca", "closed-form"])
def test_true_mates_are_never_used(toy_run, monkeypatch, changes):
    """Deal the pool's mates anew, as far as Gentle knows them: every pseudo-pair stays."""
    one = toy_run("one", recipe=recipe(**changes))
    original = pools_module.pools_of

    def dealt_anew(*args: Any, **kwargs: Any) -> Any:
        found = original(*args, **kwargs)
        rng = np.random.default_rng(5)
        return attrs.evolve(found, described={tower: rng.permutation(d) for tower, d in found.described.items()})

    monkeypatch.setattr(session_module, "pools_of", dealt_anew)
    two = toy_run("two", recipe=recipe(**changes))
    for name, value in tables(one.out).items():
        np.testing.assert_array_equal(value, tables(two.out)[name])


def test_a_teacher_sees_no_sample_ids_of_the_pools(toy_run, monkeypatch):
    seen = []
    original = PseudoPairing.refresh

    def spied(self: PseudoPairing, step: int) -> Any:
        seen.append(self.view(step))
        return original(self, step)

    monkeypatch.setattr(PseudoPairing, "refresh", spied)
    toy_run("one", {"train.steps": 1}, recipe=recipe(**CCA))
    (view,) = seen
    assert set(view.positions) == {"pairs", "matched", "pool"}
    assert set(view.samples("a")) == set(view.validation.index["a"].samples)
    pool, pairs = (set(view.positions[part]["a"].tolist()) for part in ("pool", "pairs"))
    assert pool and pairs and not pool & pairs


def test_pairs_are_mates_row_by_row(toy_run, monkeypatch):
    seen = []
    original = PseudoPairing.refresh
    monkeypatch.setattr(PseudoPairing, "refresh", lambda self, s: (seen.append(self.view(s)), original(self, s))[1])
    toy_run("one", {"train.steps": 1}, recipe=recipe(**CCA))
    view = seen[0]
    split = view.train(view.model)
    ids = [[split.index[t].samples[p] for p in view.positions["pairs"][t]] for t in ("a", "b")]
    assert ids[0] == ids[1] and len(ids[0]) == 48
    every = [[split.index[t].samples[p] for p in view.positions["matched"][t]] for t in ("a", "b")]
    known = dict(zip(view.groups("a"), every[0], strict=True))
    assert [known[number] for number in view.groups("b")] == every[1]


@pytest.mark.parametrize(
    "changes, cut",
    [(CCA, 4), (AVERAGE, 4), (AVERAGE, 5), (KLOT, 4)],
    ids=["cca", "average-4", "average-5", "reference"],
)
def test_resuming_gives_the_same_bits(toy_run, changes, cut):
    sets = {"train.checkpoint_every": cut, "train.keep_last": 9}
    one = toy_run("one", sets, recipe=recipe(**changes))
    kept = sorted((one.out / "checkpoints").glob("step-*"))
    assert len(kept) > 1
    other = one.out.parent / "two"
    shutil.copytree(one.out, other)
    for folder in sorted((other / "checkpoints").glob("step-*"))[1:]:
        shutil.rmtree(folder)
    two = toy_run("two", sets, resume="auto", recipe=recipe(**changes))
    first, second = lines(one), lines(two)
    steady = [*(key for key in STEADY if key in first[0]), "pseudo"]
    for a, b in zip(first, second, strict=True):
        assert [a.get(k) for k in steady] == [b.get(k) for k in steady]
    for name, value in tables(one.out).items():
        np.testing.assert_array_equal(value, tables(two.out)[name])


def test_the_average_is_asked_when_it_is_due(toy_run):
    run = toy_run("one", recipe=recipe(**AVERAGE))
    assert [line["step"] for line in lines(run, "pseudo")] == [2, 5]
    counts = [line["rows/pseudo"] for line in lines(run)]
    assert counts[:2] == [0, 0] and min(counts[2:]) >= 3


def test_a_saved_run_teaches(toy_run):
    first = toy_run("first")
    changes = {**CCA, "pseudo": {**CCA["pseudo"], "teacher": {"use": "core/saved-run", "path": str(first.out)}}}
    run = toy_run("second", recipe=recipe(**changes))
    assert lines(run, "pseudo")[0]["pseudo/proposed"] == 96


def test_a_loss_compares_a_batch_with_the_teacher_s_rows_of_it(toy_run, monkeypatch):
    told, seen = [], []
    refer, forward = PseudoPairing._refer, Klot.forward

    def referred(self: PseudoPairing, view: Any, pool: Any) -> None:
        refer(self, view, pool)
        told.append((self, view, pool, self.teacher.embed_matched(view)))

    def looked(self: Klot, batch: Any, ctx: Any) -> Any:
        seen.append(batch)
        return forward(self, batch, ctx)

    monkeypatch.setattr(PseudoPairing, "_refer", referred)
    monkeypatch.setattr(Klot, "forward", looked)
    run = toy_run("one", recipe=recipe(**KLOT))
    ((pairing, view, pool, matched),) = told
    first, plan = seen[0].towers, pairing.sampler.batch(0)
    for tower in ("a", "b"):
        row_of = dict(zip(view.positions["matched"][tower].tolist(), matched[tower], strict=True))
        row_of |= dict(zip(view.positions["pool"][tower].tolist(), pool[tower], strict=True))
        expected = torch.stack([row_of[p] for p in plan[tower].positions.tolist()])
        torch.testing.assert_close(first[tower].extras["reference"], expected, rtol=0, atol=0)
    assert all(line["klot"] > 0 and "rows/pseudo" not in line for line in lines(run))
    assert not lines(run, "pseudo") and json.loads((run.out / "manifest.json").read_text())["data"]["pseudo_rows"] == 0


def test_until_the_teacher_is_asked_there_is_nothing_to_compare_with(toy_run):
    late = copy.deepcopy(KLOT)
    late["pseudo"]["start"] = 3
    assert [line["klot"] > 0 for line in lines(toy_run("one", recipe=recipe(**late)))] == [False] * 3 + [True] * 5


def test_without_pools_there_are_none(toy_run):
    run = toy_run("one", {"dataset.unpaired": 0.0}, recipe=recipe(**CCA))
    assert all(line["rows/pseudo"] == 0 and line["pseudo"] == 0 for line in lines(run))
    assert json.loads((run.out / "manifest.json").read_text())["data"]["pseudo_rows"] == 0


def test_workers_and_refreshing_change_nothing(toy_run):
    one = toy_run("one", recipe=recipe(**AVERAGE))
    two = toy_run("two", {"train.workers": 1}, recipe=recipe(**AVERAGE))
    assert [line["pseudo"] for line in lines(one)] == [line["pseudo"] for line in lines(two)]


def test_too_few_pairs_for_the_teacher(toy_run):
    with pytest.raises(DataError, match="needs three pairs"):
        toy_run("one", {"dataset.paired": 2}, recipe=recipe(**CCA))


def test_a_teacher_that_miscounts_is_named(toy_run, monkeypatch):
    monkeypatch.setattr(CcaTeacher, "embed", lambda self, view: {t: torch.ones(3, 2) for t in view.towers})
    with pytest.raises(ComponentError, match="core/cca gave 3 rows for the 48 pool items of tower 'a'"):
        toy_run("one", recipe=recipe(**CCA))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"objective": CCA["objective"]}, "objective: needs pseudo-pairs: add a table"),
        ({"objective": KLOT["objective"]}, "objective: needs a teacher's reference rows: add a table"),
        ({**CCA, "pseudo": {"rows": 4}}, "pseudo.teacher: is missing"),
        ({**CCA, "pseudo": {"teacher": {"use": "core/ccc"}}}, "did you mean"),
        ({**CCA, "pseudo": {"teacher": {"use": "core/cca", "rigde": 1.0}}}, "did you mean 'ridge'?"),
        ({**CCA, "pseudo": {"teacher": {"use": "core/cca"}, "towers": ["a", "c"]}}, "there is no tower 'c'"),
        ({**CCA, "pseudo": {"teacher": {"use": "core/cca"}, "share": 0.0}}, "pseudo.share"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_built(toy_catalog, changes, message):
    with pytest.raises(Exception, match="recipe") as caught:
        load_recipe(recipe(**changes), {}, toy_catalog)
    assert message in str(caught.value)


def test_a_table_that_nothing_uses_is_odd(toy_catalog):
    found = load_recipe(recipe(pseudo=CCA["pseudo"]), {}, toy_catalog)
    assert any("nothing in the objective uses pseudo-pairs" in w for w in found.warnings)
