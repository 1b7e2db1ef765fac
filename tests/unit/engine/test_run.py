"""Whole runs: what they leave behind, and what must be the same bits."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from gentle_core.engine.artifact import load_model
from gentle_core.engine.checkpoint import load_checkpoint, steps_in
from gentle_core.errors import CheckpointError, DataError, GentleError, NonFiniteError, RecipeError

from .conftest import RECIPE


def digest(run) -> str:
    folder = steps_in(run.out / "checkpoints")[0]
    files = sorted(folder.glob("*.safetensors"))
    assert len(files) == 3
    return hashlib.sha256(b"".join(f.name.encode() + f.read_bytes() for f in files)).hexdigest()


def lines(run, split="train"):
    found = [json.loads(line) for line in (run.out / "metrics.jsonl").read_text().splitlines()]
    return [line for line in found if line["split"] == split]


STEADY = ("loss", "clip", "mmd", "sdd", "ssl/a", "ssl/b", "grad_norm", "learning_rate")


def test_a_run_leaves_everything(toy_run):
    run = toy_run("one", {"baseline.pairs_only": True, "baseline.cca": True})
    for name in ("recipe.toml", "resolved.toml", "manifest.json", "metrics.jsonl", "results.json", "report.html",
                 "model/model.safetensors", "embeddings/test.npz", "baselines/pairs_only/metrics.jsonl"):  # fmt: skip
        assert (run.out / name).is_file(), name
    manifest = json.loads((run.out / "manifest.json").read_text())
    assert manifest["status"] == "finished"
    assert manifest["data"]["pairs"] == 48
    assert manifest["towers"]["b"]["frozen"] and manifest["towers"]["b"]["trainable"] > 0
    results = json.loads((run.out / "results.json").read_text())
    assert set(results["baselines"]) == {
        "CLIP, pairs only", "CCA, closed form", "Ridge, closed form", "Procrustes, closed form",
        "CCA on the pairs-only features", "CCA on this run's features",
    }  # fmt: skip
    comparison = results["comparisons"]["CLIP, pairs only"]["test"]["mean/R@10"]
    assert comparison["low"] <= comparison["difference"] <= comparison["high"]
    assert [line["step"] for line in lines(run)] == list(range(1, 9))
    first = lines(run)[0]
    for key in ("loss", "clip", "ssl/a", "mmd", "sdd", "weight/sdd", "grad_norm/clip", "rows/clip", "rows_per_second"):
        assert key in first
    assert "retrieval/a->b/R@10" in lines(run, "val")[0]


def test_the_same_seed_gives_the_same_bits_and_another_does_not(toy_run):
    one, two, other = toy_run("one"), toy_run("two"), toy_run("other", {"train.seed": 1})
    assert digest(one) == digest(two) != digest(other)


@pytest.mark.parametrize("extra", [{}, {"train.accumulate": 3}, {"train.workers": 1}])
def test_resuming_gives_the_same_bits(toy_run, extra):
    straight = toy_run("straight", extra)
    part = toy_run("part", extra | {"train.checkpoint_every": 3, "train.keep_last": 5})
    kept = part.out / "checkpoints" / "step-00000003"
    for folder in steps_in(part.out / "checkpoints"):
        if folder != kept:
            for file in folder.iterdir():
                file.unlink()
            folder.rmdir()
    again = toy_run("part", extra | {"train.checkpoint_every": 3, "train.keep_last": 5}, resume="auto")
    assert digest(again) == digest(straight)
    for one, two in zip(lines(straight), lines(again), strict=True):
        assert {k: one[k] for k in STEADY} == {k: two[k] for k in STEADY}


def test_a_damaged_checkpoint_is_passed_over(toy_run):
    part = toy_run("part", {"train.checkpoint_every": 3, "train.keep_last": 5})
    newest = steps_in(part.out / "checkpoints")[0]
    (newest / "model.safetensors").write_bytes(b"garbage")
    with pytest.raises(CheckpointError, match="not an intact checkpoint"):
        load_checkpoint(newest)
    again = toy_run("part", {"train.checkpoint_every": 3, "train.keep_last": 5}, resume="auto")
    notices = json.loads((again.out / "manifest.json").read_text())["notices"]
    assert any("trying the one before it" in notice for notice in notices)
    assert digest(again) == digest(toy_run("straight"))


def test_the_paired_part_does_not_notice_the_unpaired_terms(toy_run):
    """Weights 0 for all unpaired terms: the same trajectory as CLIP on the pairs alone, bit by bit."""
    bare = {"objective.mu": 0.0, "objective.delta": 0.0, "objective.eta": 0.0}
    weightless = toy_run("weightless", bare)
    alone = toy_run("alone", {"objective.use": "core/clip"})
    assert [x["clip"] for x in lines(weightless)] == [x["clip"] for x in lines(alone)]
    # Tiny weights draw the unmatched rows, yet the first step's contrastive loss is the same number.
    tiny = toy_run("tiny", {"objective.mu": 1e-12, "objective.delta": 1e-12, "objective.eta": 1e-12})
    # Up to rounding: the rows share one product with the others of the batch.
    assert lines(tiny)[0]["clip"] == pytest.approx(lines(alone)[0]["clip"], rel=1e-6)


def test_accumulation_keeps_the_global_objective(toy_run):
    still = {"towers.a.encoder.dropout": 0.0, "towers.a.head.dropout": 0.0, "towers.b.head.dropout": 0.0}
    whole, cut = toy_run("whole", still), toy_run("cut", still | {"train.accumulate": 4})
    for one, two in zip(lines(whole), lines(cut), strict=True):
        assert one["loss"] == pytest.approx(two["loss"], rel=1e-4)


def test_three_towers(toy_run):
    recipe = copy.deepcopy(RECIPE)
    recipe["towers"]["c"] = {"modality": "toy-c", "encoder": {"use": "toy/mlp-c"}, "head": {"dimension": 8}}
    run = toy_run("three", recipe=recipe)
    assert set(np.load(run.out / "embeddings/test.npz")) >= {"a.z", "b.z", "c.z"}
    assert "mmd/a-b" in lines(run)[0] and "mmd/b-c" in lines(run)[0]
    named = toy_run("named", {"objective.pairs": [["a", "b"], ["a", "c"]]}, recipe=recipe)
    assert "retrieval/a->c/R@1" in named.metrics["test"]
    assert "retrieval/b->c/R@1" not in named.metrics["test"]


def test_zero_pairs_run_and_zero_pairs_with_clip_alone_do_not(toy_run):
    run = toy_run("zero", {"dataset.paired": 0})
    assert lines(run)[0]["clip"] == 0.0
    with pytest.raises((DataError, RecipeError), match="pair"):
        toy_run("none", {"dataset.paired": 0, "objective.use": "core/clip"})


def test_items_without_a_mate_make_pools_unequal(toy_run):
    run = toy_run("unequal", {"dataset.extra_a": 30, "dataset.paired": 1.0})
    data = json.loads((run.out / "manifest.json").read_text())["data"]
    assert data["pools"] == {"a": 30, "b": 0}
    assert data["unpaired_rows"] == {"a": 8, "b": 0}


def test_the_model_loads_back_without_the_run(toy_run, toy_catalog, tmp_path):
    run = toy_run("one")
    moved = tmp_path / "elsewhere"
    (run.out / "model").rename(moved)
    model = load_model(moved, catalog=toy_catalog)
    held = np.load(run.out / "embeddings/test.npz")
    from_run = torch.from_numpy(held["a.z"])
    values = toy_dataset_rows(toy_catalog, held["a.items"])
    torch.testing.assert_close(model.embed("a", values), from_run, rtol=1e-5, atol=1e-6)


def toy_dataset_rows(catalog, items):
    from gentle_core.engine.build import Builder
    from gentle_core.recipe import load_recipe

    resolved = load_recipe(RECIPE, {}, catalog)
    dataset = Builder(recipe=resolved.recipe, catalog=catalog, notify=print).dataset()
    return dataset.load("toy-a", [str(i) for i in items])


def test_more_pairs_than_there_are_is_said(toy_run):
    manifest = json.loads((toy_run("many", {"dataset.paired": 9999}).out / "manifest.json").read_text())
    pairs = manifest["data"]["pairs"]
    assert (
        f"dataset.paired = 9999, and there are {pairs} pairs: all are used, none joins the pools" in manifest["notices"]
    )
    exactly = json.loads((toy_run("all", {"dataset.paired": pairs}).out / "manifest.json").read_text())
    assert exactly["data"]["pairs"] == pairs
    assert not any("dataset.paired" in notice for notice in exactly["notices"])


NAN = {"dataset.nan_at": 5, "dataset.paired": 1.0, "train.steps": 40, "evaluate.splits": []}


def test_items_that_give_no_finite_features_are_named_before_training(toy_run):
    with pytest.raises(DataError, match=r"tower 'a'.*first: p5"):
        toy_run("nan", NAN)


def test_validation_is_the_val_split_whatever_is_evaluated_at_the_end(toy_run):
    run = toy_run("one", {"evaluate.splits": ["test"]})
    assert set(run.metrics) == {"test"}
    both = toy_run("two")
    assert [x["gap"] for x in lines(run, "val")] == [x["gap"] for x in lines(both, "val") if not x.get("final")]


def test_a_metric_to_select_by_that_does_not_exist_is_an_error_at_once(toy_run):
    with pytest.raises(RecipeError, match=r"did you mean 'retrieval/mean/R@10'"):
        toy_run("one", {"train.select": "retreival/mean/R@10"})
    assert toy_run("one").metrics, "nothing was trained: the directory may be used"


def test_resuming_a_finished_run_writes_nothing_twice(toy_run):
    once = toy_run("one")
    first = (once.out / "metrics.jsonl").read_text().count('"final": true')
    again = toy_run("one", resume="auto")
    assert (again.out / "metrics.jsonl").read_text().count('"final": true') == first == 2


NAN_LOSS = NAN | {"towers.a.head.standardize": False}


def not_finite(run) -> list[dict]:
    return [json.loads(line) for line in (run / "nonfinite.jsonl").read_text().splitlines()]


def test_a_resume_without_a_checkpoint_begins_the_metrics_anew(toy_run):
    """What was measured before the first step is measured again, and must not be there twice."""
    options = {"train.select": "retrieval/mean/R@5", "train.evaluate_every": 4}
    run = toy_run("one", options)
    before = [(x["step"], x["split"]) for split in ("train", "val") for x in lines(run, split)]
    shutil.rmtree(run.out / "checkpoints")
    again = toy_run("one", options, resume="auto")
    assert [(x["step"], x["split"]) for split in ("train", "val") for x in lines(again, split)] == before
    assert before.count((0, "val")) == 1


def test_a_loss_that_is_not_finite_takes_no_step(toy_run, tmp_path):
    with pytest.raises(NonFiniteError, match="no step was taken"):
        toy_run("nan", NAN_LOSS)
    (record,) = not_finite(tmp_path / "nan")
    assert "p5" in record["items"]["a"] and record["what"] == "term 'clip'" and record["terms"]["clip"] == "nan"
    for folder in steps_in(tmp_path / "nan/checkpoints"):
        assert folder.name == f"step-{record['step']:08d}"
        tensors = load_file(folder / "model.safetensors")
        assert all(torch.isfinite(t).all() for t in tensors.values())
    assert json.loads((tmp_path / "nan/manifest.json").read_text())["status"] == "failed"


def test_steps_that_are_not_finite_can_be_skipped_up_to_a_bound(toy_run, tmp_path):
    skip = NAN_LOSS | {"train.on_nonfinite": "skip", "train.log_every": 1}
    run = toy_run("skip", skip)
    records = not_finite(run.out)
    assert len(records) >= 3 and all("p5" in record["items"]["a"] for record in records)
    left_out = {record["step"] + 1 for record in records}
    assert [line["step"] for line in lines(run)] == [n for n in range(1, 41) if n not in left_out]
    newest = load_checkpoint(steps_in(run.out / "checkpoints")[0])
    assert newest.facts["skipped"] == len(records)
    assert all(t.isfinite().all() for part in newest.tensors.values() for t in part.values())

    # The bound stops the run with the state before the step; raising it goes on, and ends with the same bits.
    with pytest.raises(NonFiniteError, match=r"train.max_skipped = 1 steps were skipped"):
        toy_run("bound", skip | {"train.max_skipped": 1})
    assert len(not_finite(tmp_path / "bound")) == 2
    again = toy_run("bound", skip, resume="auto")
    assert [r["step"] for r in not_finite(again.out)] == [r["step"] for r in records]
    assert digest(again) == digest(run)


def test_a_step_that_is_not_taken_leaves_the_statistics_of_normalisation_alone(toy_run):
    """Stopping before the step and stopping because of it leave the same bits behind."""
    norm = NAN_LOSS | {"towers.a.encoder.norm": True}
    with pytest.raises(NonFiniteError):
        toy_run("stopped", norm)
    run = toy_run("skipped", norm | {"train.on_nonfinite": "skip"})
    (first, *_) = not_finite(run.out)
    before = toy_run("before", norm | {"train.checkpoint_every": first["step"], "train.on_nonfinite": "skip",
                                       "train.keep_last": 99})  # fmt: skip
    name = f"step-{first['step']:08d}"
    stopped, straight = (load_checkpoint(before.out.parent / r / "checkpoints" / name) for r in ("stopped", "before"))
    assert any("running_mean" in key for key in stopped.tensors["model"])
    for part, content in straight.tensors.items():
        assert all(torch.equal(t, stopped.tensors[part][key]) for key, t in content.items())
    final = load_file(run.out / "model/model.safetensors")
    assert all(t.isfinite().all() for t in final.values())


def test_a_directory_in_use_and_a_changed_recipe_are_refused(toy_run):
    toy_run("one")
    with pytest.raises(GentleError, match="--resume auto"):
        toy_run("one")
    with pytest.raises(RecipeError, match="train.learning_rate"):
        toy_run("one", {"train.learning_rate": 0.5}, resume="auto")
    again = toy_run("one", {"report.map": "none"}, resume="auto")
    assert again.metrics


def test_the_best_validation_checkpoint_becomes_the_model(toy_run):
    run = toy_run("best", {"train.select": "retrieval/mean/R@5", "train.evaluate_every": 2, "train.keep_last": 1})
    values = {x["step"]: x["retrieval/mean/R@5"] for x in lines(run, "val") if not x.get("final")}
    best = max(values, key=lambda step: (values[step], -step))
    assert (run.out / "checkpoints" / f"step-{best:08d}").is_dir()
    assert run.metrics["val"]["retrieval/mean/R@5"] == pytest.approx(values[best])


def test_bfloat16_runs(toy_run):
    run = toy_run("half", {"train.precision": "bfloat16"})
    assert all(np.isfinite(x["loss"]) for x in lines(run))


def test_the_best_few_checkpoints_stay(toy_run):
    run = toy_run("best", {"train.select": "retrieval/mean/R@5", "train.evaluate_every": 1, "train.keep_last": 1,
                           "train.keep_best": 3})  # fmt: skip
    values = {x["step"]: x["retrieval/mean/R@5"] for x in lines(run, "val") if not x.get("final")}
    values.pop(0)  # measured before training, where there is no checkpoint
    best = sorted(values, key=lambda step: (-values[step], step))[:3]
    kept = {int(p.name.split("-")[1]) for p in steps_in(run.out / "checkpoints")}
    assert kept == {*best, 8}
    ranked = json.loads((run.out / "model/config.json").read_text())["select"]["ranked"]
    assert [name for _, name in ranked] == [f"step-{step:08d}" for step in best]


def test_a_damaged_best_checkpoint_gives_way_to_the_next_best(toy_run):
    # A metric that stays the same, of which the earlier count: the newest checkpoint is not among the best.
    options = {"train.select": "retrieval/mean/R@1", "train.evaluate_every": 2, "train.keep_best": 2}
    run = toy_run("best", options)
    ranked = json.loads((run.out / "model/config.json").read_text())["select"]["ranked"]
    newest = steps_in(run.out / "checkpoints")[0]
    assert newest.name not in [name for _, name in ranked]
    (run.out / "checkpoints" / ranked[0][1] / "model.safetensors").write_bytes(b"garbage")
    again = toy_run("best", options, resume="auto")
    assert json.loads((again.out / "model/config.json").read_text())["step"] == int(ranked[1][1].split("-")[1])
    notices = json.loads((again.out / "manifest.json").read_text())["notices"]
    assert any("not the one with the best" in notice for notice in notices)
