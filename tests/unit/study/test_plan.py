import attrs
import pytest

from gentle_core.errors import RecipeError
from gentle_core.study.plan import RowsSeen


def test_controls_are_made_for_methods_that_use_unmatched_rows(plan_of):
    plan = plan_of()
    assert list(plan.variants) == ["clip", "gentle", "gentle+pairs_only", "gentle+equal_rows"]
    for job in plan.finals({("clip", 0): 1, ("clip", 1): 0}):
        recipe = plan.resolve(job).recipe
        assert recipe.dataset.unpaired == (0.0 if job.variant == "gentle+pairs_only" else 1.0)
        assert recipe.dataset.paired == plan.levels[job.level]
        assert recipe.train.seed == job.seed
        assert recipe.train.select == "retrieval/mean/recall" and recipe.train.evaluate_every == 1
        assert recipe.evaluate.splits == ("val", "test")


def test_a_search_that_brings_in_unmatched_rows_brings_in_the_controls(plan_of):
    text = 'recipe = "toy.toml"\n[methods.a]\nsettings.objective = { mu = 0, delta = 0, eta = 0 }\n'
    assert list(plan_of(text).variants) == ["a"]
    assert list(plan_of(text + 'search."objective.delta" = [0.0, 0.3]\n').variants) == [
        "a", "a+pairs_only", "a+equal_rows",
    ]  # fmt: skip


def test_a_control_differs_from_its_method_in_nothing_but_the_unpaired_data(plan_of):
    plan = plan_of()
    of = {job.folder: plan.resolve(job).recipe for job in plan.finals({("clip", 0): 1, ("clip", 1): 0})}
    for folder, recipe in of.items():
        if folder.startswith("runs/gentle/"):
            control = of[folder.replace("runs/gentle/", "runs/gentle+pairs_only/")]
            assert attrs.evolve(control, dataset=recipe.dataset) == recipe


def test_searches_cover_the_grid_and_finals_take_what_was_chosen(plan_of):
    plan = plan_of()
    assert [(j.level, j.choice, j.seed) for j in plan.searches()] == [(0, 0, 0), (0, 1, 0), (1, 0, 0), (1, 1, 0)]
    rates = {
        (job.level, plan.resolve(job).recipe.train.learning_rate)
        for job in plan.finals({("clip", 0): 1, ("clip", 1): 0})
        if job.variant == "clip"
    }
    assert rates == {(0, 1e-2), (1, 1e-9)}


def test_equal_rows_are_larger_batches_and_where_pairs_are_few_more_steps():
    assert (RowsSeen(1000, 64, 128, 100).matched_rows, RowsSeen(1000, 64, 128, 100).matched_steps) == (192, 100)
    few = RowsSeen(80, 64, 128, 100)
    assert (few.matched_rows, few.matched_steps) == (80, 240)
    assert few.matched_rows * few.matched_steps == (64 + 128) * 100


def test_no_folder_serves_two_runs(plan_of):
    plan = plan_of()
    chosen = {("clip", 0): 1, ("clip", 1): 0}
    rows = {("gentle", level): RowsSeen(48, 6, 4, 6) for level in (0, 1)}
    jobs = plan.searches() + plan.finals(chosen) + plan.equal_rows(chosen, rows)
    assert len({job.folder for job in jobs}) == len(jobs) == 4 + 12 + 4


def test_a_method_that_does_not_fit_is_named(plan_of):
    with pytest.raises(RecipeError) as caught:
        plan_of(
            'recipe = "toy.toml"\n[methods.a]\nsettings.objective.eta = "x"\n[methods.b]\nsettings.trian.steps = 3\n'
        )
    assert "methods.a: objective.eta" in str(caught.value) and "methods.b: trian" in str(caught.value)
    with pytest.raises(RecipeError, match="methods.a: train.steps"):
        plan_of('recipe = "toy.toml"\n[methods.a]\nsearch."train.steps" = [3, -1]\n')


def test_the_command_of_a_run_repeats_it(plan_of):
    plan = plan_of()
    command = plan.finals({("clip", 0): 1, ("clip", 1): 0})[0].command(plan.study)
    assert command.startswith(f"gentle run {plan.study.table.recipe} ")
    assert """--set 'objective={ use = "core/clip" }'""" in command and "--set train.seed=0" in command
