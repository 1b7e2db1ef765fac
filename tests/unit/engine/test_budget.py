"""What `gentle plan` foresees: arithmetic by hand, and against a step that is really taken."""

from __future__ import annotations

import re
import subprocess
import sys
from unittest import mock

import attrs
import pytest

from gentle_core.cli import invoke
from gentle_core.engine.budget import BUCKET, LIVE, ObjectiveCost, Setting, TowerCost, memory, smallest_chunks, traffic
from gentle_core.engine.foresee import foresee, peak_bytes
from gentle_core.engine.loop import Trainer
from gentle_core.engine.progress import Display
from gentle_core.engine.session import Session
from gentle_core.recipe import load_recipe

from .conftest import RECIPE, TOY

TOWER = TowerCost(
    parameters=1200, trainable=1000, largest=100, matched=8, unmatched=16, dimension=4, inputs=10, fixed=7, row=100,
    largest_activation=20,
)  # fmt: skip
NO_OBJECTIVE = ObjectiveCost(fixed=0, row=0, square=0)


@pytest.mark.parametrize(
    ("stage", "weights", "copy", "optimiser", "gradients", "gathered", "buckets"),
    [
        (None, 4800, 0, 8000, 4000, 0, 0),
        (0, 4800, 4000, 8000, 4000, 0, 4000),
        (1, 4800, 4000, 12000 / 4, 4000, 0, 4000),
        (2, 4800, 4000, 12000 / 4, 1000, 0, 4000),
        (3, 1200, 4800, 12000 / 4, 1000, 4800 + 400, 12000),
    ],
)
def test_zero_divides_what_it_says(stage, weights, copy, optimiser, gradients, gathered, buckets):
    need = memory({"a": TOWER}, NO_OBJECTIVE, Setting(ranks=4, stage=stage))
    assert (need.weights, need.optimiser, need.gradients) == (weights, optimiser, gradients)
    assert (need.copy, need.gathered, need.buckets) == (copy, gathered, buckets)


def test_large_towers_go_in_buckets_and_live_in_parts():
    tower = attrs.evolve(TOWER, parameters=3 * LIVE, trainable=2 * BUCKET, largest=10)
    need = memory({"a": tower}, NO_OBJECTIVE, Setting(ranks=4, stage=3, weight=2))
    assert need.buckets == 3 * 2 * BUCKET and need.gathered == 2 * (LIVE + 10)


def test_half_precision_keeps_a_master_copy_and_offload_takes_the_optimiser_away():
    half = memory({"a": TOWER}, NO_OBJECTIVE, Setting(ranks=2, stage=1, weight=2))
    assert (half.weights, half.gradients, half.optimiser, half.copy) == (2400, 2000, 12000 / 2, 4800)
    away = memory({"a": TOWER}, NO_OBJECTIVE, Setting(ranks=2, stage=1, weight=2, offload=True))
    assert away.peak == half.peak - half.optimiser


def test_rows_and_chunks_are_shared_out():
    one = memory({"a": TOWER}, NO_OBJECTIVE, Setting(views=2))
    assert one.inputs == 2 * 24 * 10
    assert one.activations == 2 * (2 * 7 + 100 * 24) + 2 * 20 * 16
    assert one.embeddings == 4 * (4 * 24 * 4 * 2)
    four = memory({"a": TOWER}, NO_OBJECTIVE, Setting(ranks=4, views=2))
    assert four.inputs == 2 * (2 + 4) * 10 and four.activations == 2 * (2 * 7 + 100 * 6) + 2 * 20 * 4
    assert four.embeddings == one.embeddings, "each rank sees the whole batch's projections"
    cut = memory({"a": TOWER}, NO_OBJECTIVE, Setting(ranks=4, views=2, chunks=8))
    assert cut.activations == 7 + 100 * 2 + 2 * 20 * 2, "one chunk of one view at a time"


def test_what_is_sent():
    sent = traffic({"a": TOWER}, Setting(ranks=4, views=2))
    assert sent.gradients == 2 * 0.75 * 4000 and sent.weights == 0
    assert sent.embeddings == 3 * 0.75 * (4 * 24 * 4 * 2)
    assert traffic({"a": TOWER}, Setting(ranks=4, stage=2)).total == traffic({"a": TOWER}, Setting(ranks=4)).total
    third = traffic({"a": TOWER}, Setting(ranks=4, stage=3))
    assert third.gradients == 0.75 * 4000 and third.weights == 2 * 0.75 * 4800
    assert traffic({"a": TOWER}, Setting(ranks=1)).total == 0


def test_the_smallest_accumulation_that_fits():
    towers, setting = {"a": attrs.evolve(TOWER, row=10_000)}, Setting(ranks=2)
    limit = memory(towers, NO_OBJECTIVE, attrs.evolve(setting, chunks=8)).peak
    chunks = smallest_chunks(towers, NO_OBJECTIVE, setting, limit)
    assert chunks is not None and memory(towers, NO_OBJECTIVE, attrs.evolve(setting, chunks=chunks)).peak <= limit
    assert memory(towers, NO_OBJECTIVE, attrs.evolve(setting, chunks=chunks // 2)).peak > limit
    assert smallest_chunks(towers, NO_OBJECTIVE, setting, 1.0) is None


BIG = {"dataset.count": 1024, "dataset.paired": 0.5, "train.batch_size": 256, "towers.a.encoder.width": 64}


@pytest.mark.parametrize("chunks", [1, 4])
def test_a_real_step_takes_what_was_foreseen(toy_catalog, tmp_path, monkeypatch, chunks):
    monkeypatch.setenv("GENTLE_CACHE", str(tmp_path / "cache"))
    resolved = load_recipe(RECIPE, BIG | {"train.accumulate": chunks}, toy_catalog)
    found = foresee(resolved)
    assert found.on_meta["a"], "a plain network is measured without numbers"
    assert found.towers["b"].cached is True and found.views == 2
    ahead = memory(found.towers, found.objective, Setting(chunks=chunks, views=2))

    session = Session(resolved, tmp_path / "run", "never", Display(quiet=True))
    session.build()
    trainer = session.trainer()
    parameters = sum(p.numel() for p in session.model.parameters() if p.requires_grad)
    assert sum(t.trainable for t in found.towers.values()) == parameters

    def step(number):
        trainer.step, trainer.steps = number, number + 1
        with mock.patch.object(Trainer, "_between_steps", lambda *_: None):
            trainer.fit()
        session.model.zero_grad(set_to_none=True)

    step(0)
    real = peak_bytes(lambda: step(1))
    session.run.close()
    foreseen = ahead.peak - ahead.weights - ahead.optimiser
    assert foreseen == pytest.approx(real, rel=0.4), (foreseen, real)


@pytest.mark.slow
def test_the_objective_is_fitted_where_it_is_too_large_to_try(toy_catalog):
    """Measured at up to 1,024 rows a set, foreseen for 3,000 and then measured there."""
    many = {"dataset.count": 8000, "train.batch_size": 1500, "towers.a.head.dimension": 32,
            "towers.b.head.dimension": 32}  # fmt: skip
    found = foresee(load_recipe(RECIPE, many, toy_catalog))
    with mock.patch("gentle_core.engine.foresee.OBJECTIVE_ROWS", (10**6,)):
        whole = foresee(load_recipe(RECIPE, many, toy_catalog))
    rows = 2 * 3000
    assert found.objective.peak(rows) == pytest.approx(whole.objective.peak(rows), rel=0.35)
    assert found.objective.square == 0, "in tiles, memory grows with the rows"


def test_the_command(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy.toml").write_text(
        """
        [dataset]
        use = "toy/points"
        paired = 0.5
        [towers.a]
        modality = "toy-a"
        encoder = { use = "toy/mlp-a" }
        [towers.b]
        modality = "toy-b"
        encoder = { use = "toy/mlp-b", freeze = true }
        [train]
        steps = 1
        batch_size = 16
        """
    )
    assert invoke(["plan", "toy.toml", "--plugin", str(TOY), "--gpus", "4", "--gpu-memory", "80"]) == 0
    said = capsys.readouterr().out
    for word in ("ZeRO 3", "weights", "optimiser", "activations", "embeddings", "tiles", "peak", "sent per step",
                 "fits 80 GiB with 25% in reserve: local, ZeRO 0, ZeRO 1, ZeRO 2, ZeRO 3"):  # fmt: skip
        assert word in said, said
    assert invoke(["plan", "toy.toml", "--plugin", str(TOY), "--gpu-memory", "1e-5"]) == 0
    assert re.search(r"does not fit 1e-05 GiB", capsys.readouterr().out)
    assert "the recipe's engine (local)" in said
    half = ["--set", "engine.use=deepspeed", "--set", "engine.zero_stage=2", "--set", "train.precision=bfloat16"]
    assert invoke(["plan", "toy.toml", "--plugin", str(TOY), "--gpus", "4", *half]) == 0
    assert re.search(r"the recipe's engine \(ZeRO 2\): .*iB, fits", capsys.readouterr().out)
    assert invoke(["plan", "toy.toml", "--plugin", str(TOY), "--gpus", "0"]) == 2
    assert invoke(["plan", "none.toml"]) == 2
    assert not list(tmp_path.glob("runs*")), "nothing is written"


def test_arithmetic_needs_no_torch():
    code = "import sys, gentle_core.engine.budget; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_what_is_computed_again_is_not_kept(toy_catalog):
    """Of three layers of a transformer the inputs are kept, and one layer's activations are there at a time."""
    deep = {"towers.a.encoder.blocks": 3}
    plain, lean = (
        foresee(load_recipe(RECIPE, deep | {"engine.activation_checkpointing": on}, toy_catalog)).towers["a"]
        for on in (False, True)
    )
    assert plain.block == 0 and lean.block > 0
    assert lean.row < plain.row / 2
    assert lean.row + 3 * lean.block == pytest.approx(plain.row, rel=0.25), "what is not kept is in the layers"
