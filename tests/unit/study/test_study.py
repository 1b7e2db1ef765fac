"""Whole studies."""

import json
import signal

import pytest
from click.testing import CliRunner

from gentle_core.cli.study import study as command
from gentle_core.engine import run
from gentle_core.engine.progress import Display
from gentle_core.errors import GentleError, Interrupted, RecipeError
from gentle_core.study.execute import Workers
from gentle_core.study.model import read_study
from gentle_core.study.plan import make_plan
from gentle_core.study.run import run_study

from .conftest import STUDY, TOY


@pytest.fixture
def carry_out(plan_of, tmp_path):
    def run(text=STUDY, processes=1):
        return run_study(plan_of(text), Workers(tmp_path / "out", processes, (str(TOY),)), Display(quiet=True))

    return run


def mtimes(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("results.json")}


def test_a_study_from_end_to_end_and_again(carry_out, tmp_path):
    results = carry_out()
    out = tmp_path / "out"
    assert not results.failures
    assert results.pairs == (12, 48)
    assert [s.taken for s in results.searches] == [1, 1]  # a rate of 1e-9 learns nothing
    written = json.loads((out / "study.json").read_text())
    assert written["contrasts"][0]["first"] == "gentle" and written["contrasts"][0]["second"] == "gentle+pairs_only"
    values = written["methods"]["gentle"]["values"]["retrieval/mean/recall"]
    one = json.loads((out / "runs/gentle/paired-12/seed-1/results.json").read_text())
    assert values[0]["1"] == one["splits"]["test"]["retrieval/mean/recall"]
    for name in ("study.md", "study.html"):
        text = (out / name).read_text()
        assert "Gentle" in text or "gentle" in text
        assert "12 pairs" in text and "48 pairs (0.5)" in text
        assert "Fewer than three seeds" in text
    assert not list(out.rglob("model.safetensors"))  # keep = "figures"
    before = mtimes(out)
    assert len(before) == 4 + 12 + 4
    carry_out()
    assert mtimes(out) == before  # nothing that has finished is run again


def test_the_pairs_are_the_same_for_all_methods(carry_out, tmp_path):
    carry_out()
    seen = {
        path.parent.parent.parent.name: json.loads(path.read_text())["data"]["pairs"]
        for path in (tmp_path / "out").glob("runs/*/paired-12/seed-0/manifest.json")
    }
    assert seen == dict.fromkeys(("clip", "gentle", "gentle+pairs_only", "gentle+equal_rows"), 12)
    equal = json.loads((tmp_path / "out/runs/gentle+equal_rows/paired-12/seed-0/manifest.json").read_text())["data"]
    assert (equal["paired_rows"], equal["steps"], set(equal["unpaired_rows"].values())) == (10, 6, {0})


def test_a_broken_off_study_goes_on(carry_out, tmp_path):
    first = carry_out().as_json()
    broken = tmp_path / "out/runs/gentle/paired-12/seed-1"
    manifest = json.loads((broken / "manifest.json").read_text())
    (broken / "manifest.json").write_text(json.dumps(manifest | {"status": "running"}))
    (broken / "results.json").unlink()
    assert carry_out().as_json() == first


def test_processes_give_the_same_figures(carry_out, tmp_path, plan_of):
    text = 'recipe = "toy.toml"\npaired = [12]\nseeds = 2\n[methods.gentle]\ncontrols = []\n'
    alone = carry_out(text)
    (tmp_path / "out").rename(tmp_path / "alone")
    assert carry_out(text, processes=2).as_json() == alone.as_json()


def test_a_run_that_fails_is_told_and_the_others_count(carry_out, tmp_path):
    text = 'recipe = "toy.toml"\nseeds = 1\n[methods.a]\ncontrols = []\n[methods.b]\nsettings.dataset.nan_at = 3\n'
    results = carry_out(text + "controls = []\n")
    assert len(results.failures) == 1 and "runs/b/" in results.failures[0] and "not finite" in results.failures[0]
    assert results.values["retrieval/mean/recall"]["a"][0] and not results.values["retrieval/mean/recall"]["b"][0]
    assert "A run gave no figures" in (tmp_path / "out/study.html").read_text()


def test_a_signal_outside_of_training_ends_the_study_too(carry_out, tmp_path, monkeypatch):
    """Not just the run that it met."""

    def asked_to_stop(*_):
        signal.raise_signal(signal.SIGTERM)
        raise AssertionError("the signal was not heard")

    text = 'recipe = "toy.toml"\nseeds = 2\n[methods.a]\ncontrols = []\n'
    with monkeypatch.context() as patched:
        patched.setattr(run, "_compare", asked_to_stop)
        with pytest.raises(Interrupted, match="the same command with --out .* goes on"):
            carry_out(text)
    assert len(list(tmp_path.glob("out/runs/a/*/*/manifest.json"))) == 1
    assert not carry_out(text).failures


def test_a_metric_that_no_run_has_is_an_error(carry_out):
    text = 'recipe = "toy.toml"\nseeds = 1\nmetric = "nonsense"\nearly_stopping = false\n[methods.a]\ncontrols = []\n'
    with pytest.raises(GentleError, match="no run of .* gave 'nonsense'"):
        carry_out(text)


def test_changed_settings_are_refused(carry_out):
    text = 'recipe = "toy.toml"\nseeds = 1\n[methods.a]\ncontrols = []\nsettings.train.steps = 3\n'
    carry_out(text)
    with pytest.raises(GentleError, match=r"made with other settings \(train.steps\)"):
        carry_out(text.replace("steps = 3", "steps = 4"))


def test_the_command_counts_its_runs(write_study):
    found = CliRunner().invoke(command, [str(write_study()), "--dry-run", "--plugin", str(TOY)])
    assert found.exit_code == 0, found.output
    assert "4 runs of a search, 16 runs that are compared" in found.output
    assert "gentle+equal_rows" in found.output


def test_settings_beside_the_file_reach_every_run(write_study, toy_catalog):
    plan = make_plan(read_study(write_study(), ["dataset.count=40", "train.steps=2"]), toy_catalog)
    for job in plan.finals({("clip", 0): 0, ("clip", 1): 0}):
        recipe = plan.resolve(job).recipe
        assert recipe.dataset.options["count"] == 40 and recipe.train.steps == 2
        assert "--set dataset.count=40" in job.command(plan.study)
    with pytest.raises(RecipeError, match="write it as KEY=VALUE"):
        read_study(write_study(), ["dataset.count"])


def test_closed_forms_on_what_training_made(carry_out, tmp_path):
    text = 'recipe = "toy.toml"\npaired = [24]\nseeds = 2\n[methods.clip]\n'
    text += '[methods.both]\nclosed_form = ["cca", "ensemble"]\ntrained = true\n'
    results = carry_out(text)
    assert not results.failures
    assert list(results.plan.variants)[-3:] == ["both", "both+pairs_only", "both+equal_rows"]
    recall = results.values["retrieval/mean/recall"]
    for seed in (0, 1):
        heads = json.loads((tmp_path / f"out/runs/both/paired-24/seed-{seed}/results.json").read_text())
        lines = {line["label"]: line["recall"]["test"] for line in heads["table"]}
        # The objective is that of the first method: the same heads, trained once more.
        assert lines["Trained heads"] == pytest.approx(recall["clip"][0][seed], abs=1e-6)
    assert not (tmp_path / "out/runs/both/paired-24/seed-0-trained/model").exists()
    commands = [job.command(results.plan.study) for job in results.plan.finals({}) if job.variant == "both"]
    assert commands[0].startswith("gentle run ") and commands[0].endswith(
        "gentle baseline RUN --form cca --form ensemble"
    )
    assert carry_out(text).as_json() == results.as_json()


def test_closed_forms_are_methods_too(carry_out, plan_of, tmp_path):
    text = 'recipe = "toy.toml"\npaired = [24]\nseeds = 2\n[methods.cca]\nclosed_form = ["cca"]\nhubness = false\n'
    text += '[methods.all]\nclosed_form = ["cca", "ot-em"]\ncontrols = []\n'
    results = carry_out(text)
    assert not results.failures
    assert list(results.plan.variants) == ["cca", "cca+pairs_only", "all"]
    assert all(len(level[0]) == 2 for level in results.values["retrieval/mean/recall"].values())
    command = results.plan.finals({})[0].command(results.plan.study)
    assert command.startswith("gentle baseline ") and " --form cca " in command
    plain = json.loads((tmp_path / "out/runs/cca/paired-24/seed-0/results.json").read_text())
    assert [line["label"] for line in plain["table"]] == ["CCA, closed form"] and " --no-hubness " in command
    control = json.loads((tmp_path / "out/runs/cca+pairs_only/paired-24/seed-0/manifest.json").read_text())
    assert set(control["data"]["pools"].values()) == {0}
    assert carry_out(text).as_json() == results.as_json()
