"""Studies whose runs are also evaluated on tasks, and methods that start from another's settings."""

from __future__ import annotations

import json

import pytest

from gentle_core.engine.progress import Display
from gentle_core.errors import GentleError, RecipeError
from gentle_core.study import execute
from gentle_core.study.execute import Workers
from gentle_core.study.model import read_study
from gentle_core.study.run import run_study

from .conftest import TOY

TASKS = """
    recipe = "toy.toml"
    paired = [12]
    seeds = 2
    metric = "lengths/knn/accuracy"
    choose_by = "retrieval/mean/recall"
    also = ["retrieval/mean/recall"]
    [tasks.lengths]
    use = "core/knn"
    settings.dataset = { use = "toy/points" }
    settings.k = 3
    [methods.clip]
    settings.objective = { use = "core/clip" }
    [methods.gentle]
    controls = []
"""


@pytest.fixture
def evaluations(monkeypatch):
    """The calls of `gentle eval`, whose answer is made up: what tasks measure is tested elsewhere."""
    calls = []

    def evaluate(run_dir, task, sets, **_):
        assert (run_dir / "model").is_dir()  # not yet removed
        calls.append((run_dir, task, sets))
        seed = int(run_dir.name.removeprefix("seed-"))
        return {"knn/accuracy": 50.0 + seed + 3 * ("gentle" in str(run_dir)), "facts": {"classes": 3}}

    monkeypatch.setattr("gentle_core.engine.evaluate.evaluate_run", evaluate)
    return calls


@pytest.fixture
def carry_out(plan_of, tmp_path):
    return lambda text: run_study(plan_of(text), Workers(tmp_path / "out", 1, (str(TOY),)), Display(quiet=True))


def test_figures_of_tasks_are_compared(carry_out, evaluations, tmp_path):
    results = carry_out(TASKS)
    assert not results.failures and len(evaluations) == 4
    assert results.values["lengths/knn/accuracy"]["gentle"] == ({0: 53.0, 1: 54.0},)
    (found,) = results.differences()
    assert (found.first, found.second, found.found.mean) == ("gentle", "clip", 3.0)
    (other,) = results.differences("retrieval/mean/recall")
    assert other.found.count == 2
    assert evaluations[0][1:] == ("core/knn", {"dataset": {"use": "toy/points"}, "k": 3})
    for name in ("study.md", "study.html"):
        page = (tmp_path / "out" / name).read_text()
        assert page.count("gentle − clip") >= 2 and "+3.00" in page
    assert json.loads((tmp_path / "out/runs/clip/paired-12/seed-1/tasks.json").read_text()) == {
        "lengths": {"knn/accuracy": 51.0}
    }
    carry_out(TASKS)
    assert len(evaluations) == 4  # nothing that has finished is done again


def test_a_task_that_is_added_later_runs_the_runs_again(carry_out, evaluations):
    alone = TASKS.replace("lengths/knn/accuracy", "retrieval/mean/recall").split("[tasks")[0]
    methods = "    [methods.clip]" + TASKS.split("[methods.clip]")[1]
    before = carry_out(alone + methods).values["retrieval/mean/recall"]
    assert not evaluations
    after = carry_out(TASKS)
    assert len(evaluations) == 4 and after.values["retrieval/mean/recall"] == before


def test_a_task_that_fails_is_told_and_the_other_figures_count(carry_out, monkeypatch):
    def fail(*_, **__):
        raise GentleError("no such folder")

    monkeypatch.setattr("gentle_core.engine.evaluate.evaluate_run", fail)
    with pytest.raises(GentleError, match="gave 'lengths/knn/accuracy'.*no such folder"):
        carry_out(TASKS)
    results = carry_out(TASKS.replace('metric = "lengths/knn/accuracy"', 'metric = "retrieval/mean/recall"'))
    assert len(results.failures) == 4 and len(results.values["retrieval/mean/recall"]["clip"][0]) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TASKS.replace("core/knn", "core/kn"), "tasks.lengths: .*kn.* did you mean"),
        (TASKS.replace("settings.k = 3", "settings.k = 0"), r"tasks.lengths: .*k.*must be"),
        (TASKS.replace("tasks.lengths", 'tasks."a/b"'), "in a task's name"),
    ],
)
def test_what_is_wrong_with_a_task_is_said_before_anything_runs(plan_of, text, message):
    with pytest.raises(RecipeError, match=message):
        plan_of(text)


def test_figures_with_hubness_correction_are_compared(carry_out, plan_of):
    text = TASKS.split("[tasks")[0].replace("lengths/knn/accuracy", "retrieval/mean/recall")
    text = text.replace('also = ["retrieval/mean/recall"]', 'also = ["corrected/retrieval/mean/recall"]')
    text += '    settings.evaluate = { hubness = "csls", bank = "pairs" }\n'
    text += "    [methods.clip]" + TASKS.split("[methods.clip]")[1]
    results = carry_out(text)
    (found,) = results.differences("corrected/retrieval/mean/recall")
    assert not results.failures and found.found.count == 2
    by_seed = results.values["corrected/retrieval/mean/recall"]["clip"][0]
    assert by_seed.keys() == {0, 1} and all(value > 0 for value in by_seed.values())
    plan = plan_of(text + '    search."train.learning_rate" = [1e-3, 1e-2]\n')
    given = [{plan.resolve(j).recipe.evaluate.hubness for j in jobs} for jobs in (plan.searches(), plan.finals({}))]
    assert given == [{"none"}, {"csls"}]  # nothing is chosen by the corrected figures


STARTS = """
    recipe = "toy.toml"
    paired = [12, 0.5]
    seeds = 2
    [methods.clip]
    settings.objective = { use = "core/clip" }
    search."towers.a.head.dropout, towers.b.head.dropout" = [0.0, 0.3]
    search."train.learning_rate" = [1e-9, 1e-2]
    [methods.gentle]
    tuned_as = "clip"
    search."objective.eta" = [1.0, 3.0]
    controls = ["pairs_only"]
    [methods.all]
    settings.objective = { use = "core/clip" }
    tuned_as = "clip"
    paired = 1.0
"""


def test_a_method_starts_from_what_was_chosen_for_another(plan_of):
    plan = plan_of(STARTS)
    assert {j.variant for j in plan.searches({}, False)} == {"clip"}
    chosen = {("clip", 0): 3, ("clip", 1): 0}
    second = plan.searches(chosen, True)
    assert {j.variant for j in second} == {"gentle", "gentle+pairs_only"}
    for job in [*second, *plan.finals(chosen | {(n, at): 1 for n in ("gentle", "gentle+pairs_only") for at in (0, 1)})]:
        recipe = plan.resolve(job).recipe
        assert recipe.train.learning_rate == (1e-2, 1e-9)[job.level]
        assert {tower.head.dropout for tower in recipe.towers.values()} == {(0.3, 0.0)[job.level]}
        if job.choice is None and job.variant == "gentle":
            assert recipe.objective.config.eta == 3.0
        assert recipe.dataset.paired == (1.0 if job.variant == "all" else plan.levels[job.level])


def test_an_upper_bound_keeps_its_pairs_and_runs_once(carry_out, plan_of, monkeypatch):
    plan = plan_of(STARTS)
    same = {("clip", 0): 3, ("clip", 1): 3, ("gentle", 0): 0, ("gentle", 1): 0}
    bound = [job for job in plan.finals(same) if job.variant == "all"]
    assert {job.folder for job in bound} == {"runs/all/paired-1.0/seed-0", "runs/all/paired-1.0/seed-1"}

    began = []
    whole = execute.one_run
    monkeypatch.setattr(execute, "one_run", lambda *a: (began.append(a[2].folder), whole(*a))[1])
    text = STARTS.replace("[1e-9, 1e-2]", "[1e-2]").replace("[0.0, 0.3]", "[0.3]").replace("[1.0, 3.0]", "[1.0]")
    results = carry_out(text)
    assert results.pairs == (12, 48) and not results.failures
    assert len(began) == len(set(began))
    by_level = results.values["retrieval/mean/recall"]["all"]
    assert by_level[0] == by_level[1] and len(by_level[0]) == 2


@pytest.mark.parametrize(
    ("name", "message"), [("clop", "no other method 'clop' — did you mean 'clip'"), ("gentle", "no other method"),
                          ("all", "has no search of its own")]
)  # fmt: skip
def test_only_what_was_searched_can_be_started_from(write_study, name, message):
    text = STARTS.replace('[methods.gentle]\n    tuned_as = "clip"', f'[methods.gentle]\n    tuned_as = "{name}"')
    with pytest.raises(RecipeError, match=message):
        read_study(write_study(text))
