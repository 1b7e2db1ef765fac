"""Runs of several processes: the same numbers as one, and one end for all."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from gentle_core.engine.checkpoint import steps_in

from .conftest import TOY

RECIPE = """
[dataset]
use = "toy/points"
paired = 0.5
[towers.a]
modality = "toy-a"
encoder = { use = "toy/mlp-a", dropout = 0.1 }
head = { dimension = 8, hidden = 16 }
[towers.b]
modality = "toy-b"
encoder = { use = "toy/mlp-b", freeze = true }
head = { dimension = 8, hidden = 16 }
[train]
steps = 6
batch_size = 9
accumulate = 4
log_every = 1
evaluate_every = 3
checkpoint_every = 3
select = "retrieval/mean/R@1"
[baseline]
cca = false
[report]
map = "none"
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(command, folder, ranks, env=None):
    """The command as so many ranks; returns exit codes and standard errors."""
    common = {"GENTLE_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1", "GENTLE_PLUGINS": "toy"}
    common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(ranks)} | (env or {})
    started = [
        subprocess.Popen(
            command, env=os.environ | common | {"RANK": str(r), "LOCAL_RANK": str(r)}, stderr=subprocess.PIPE, text=True
        )
        for r in range(ranks)
    ]  # fmt: skip
    try:
        errors = [process.communicate(timeout=500)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    return [process.returncode for process in started], errors


def processes(folder, name, ranks, *options, recipe=RECIPE, plugin=TOY):
    """`gentle run` as so many ranks; returns exit codes, standard errors and the run directory."""
    (folder / "toy.toml").write_text(recipe)
    command = [sys.executable, "-c", "from gentle_core.cli import main; main()", "run", str(folder / "toy.toml")]
    command += ["--plugin", str(plugin), "--out", str(folder / name), *options]
    return *start(command, folder, ranks), folder / name


def several(folder, ranks, runs):
    """Runs in turn in the same processes: (name, settings, resume) each."""
    (folder / "toy.toml").write_text(RECIPE)
    (folder / "runs.json").write_text(json.dumps(runs))
    worker = Path(__file__).with_name("ranks_worker.py")
    codes, errors = start([sys.executable, str(worker), str(folder), str(TOY)], folder, ranks)
    assert codes == [0] * ranks, "\n".join(errors)


def lines(run, split="train"):
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in found if line["split"] == split]


SAME = ("loss", "clip", "mmd", "sdd", "ssl/a", "grad_norm", "learning_rate", "grad_norm/sdd", "rows/clip",
        "beta/gaussian")  # fmt: skip


def same_run(one, two, rel=1e-4):
    """Two runs that took the same steps, up to rounding."""
    assert len(lines(one)) == len(lines(two)) == 6
    for mine, theirs in zip(lines(one), lines(two), strict=True):
        for key in SAME:
            assert mine[key] == pytest.approx(theirs[key], rel=rel, abs=1e-6), (two.name, key, mine["step"])
    for part in ("model", "loss", "optimizer"):
        a, b = (load_file(steps_in(run / "checkpoints")[0] / f"{part}.safetensors") for run in (one, two))
        assert set(a) == set(b)
        for name, value in a.items():
            scale = max(1e-2, value.abs().max())
            assert (value.double() - b[name].double()).abs().max() < 1e-3 * scale, (two.name, name)


def test_two_ranks_take_the_steps_of_one(tmp_path):
    codes, errors, alone = processes(tmp_path, "alone", 1)
    assert codes == [0], errors
    codes, errors, both = processes(tmp_path, "both", 2)
    assert codes == [0, 0], errors
    assert errors[1] == "" and "report:" in errors[0]
    same_run(alone, both)
    assert (both / "report.html").is_file() and (both / "model/model.safetensors").is_file()
    a, b = (lines(run, "val")[-1]["retrieval/mean/R@10"] for run in (alone, both))
    assert a == pytest.approx(b, abs=5)
    assert 0 < lines(both)[0]["communication"] < 1


ONCE = {"train.accumulate": 1, "towers.a.encoder.dropout": 0.0, "towers.a.head.dropout": 0.0,
        "towers.b.head.dropout": 0.0}  # fmt: skip
DEEPSPEED = {"engine.use": "deepspeed"}
STAGES = {f"zero-{stage}": DEEPSPEED | {"engine.zero_stage": stage} for stage in range(4)}
OFFLOAD = {
    "zero-1-offload": STAGES["zero-1"] | {"engine.offload": "optimizer"},
    "zero-2-offload": STAGES["zero-2"] | {"engine.offload": "optimizer"},
    "zero-3-offload": STAGES["zero-3"] | {"engine.offload": "parameters"},
}
needs_deepspeed = pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed")


def compared(folder, ranks, back_ends):
    """Every back end at so many ranks against the local one alone: with cached embedding gradients, and without."""
    several(folder, 1, [("alone", {}, "never"), ("alone-once", ONCE, "never")])
    runs = [(name, sets, "never") for name, sets in back_ends.items()]
    several(folder, ranks, runs + [(f"{name}-once", sets | ONCE, "never") for name, sets, _ in runs])
    for name in back_ends:
        same_run(folder / "alone", folder / name)
        same_run(folder / "alone-once", folder / f"{name}-once")


@needs_deepspeed
@pytest.mark.timeout(400)
def test_every_zero_stage_takes_the_steps_of_one_process(tmp_path):
    """Global gradient, β's ascent, schedule, clipping: six steps later weights and optimiser state are the same."""
    compared(tmp_path, 2, STAGES)


@needs_deepspeed
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_back_ends_agree_at_any_number_of_ranks(tmp_path, ranks):
    compared(tmp_path, ranks, {"local": {}} | STAGES | OFFLOAD)


@needs_deepspeed
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_half_precision_stays_close(tmp_path):
    several(tmp_path, 1, [("alone", ONCE, "never")])
    half = {
        f"{name}-{precision}": sets | ONCE | {"train.precision": precision, "engine.loss_scale": scale}
        for name, sets in ({"local": {}} | STAGES).items()
        for precision, scale in (("bfloat16", 0.0), ("float16", 256.0))
    }
    several(tmp_path, 2, [(name, sets, "never") for name, sets in half.items()])
    for name in half:
        for mine, theirs in zip(lines(tmp_path / "alone"), lines(tmp_path / name), strict=True):
            assert mine["loss"] == pytest.approx(theirs["loss"], rel=0.03), (name, mine["step"])
            assert mine["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=0.1), (name, mine["step"])


@needs_deepspeed
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_loss_scale_that_overflows_falls_and_no_rank_steps(tmp_path):
    several(
        tmp_path, 2, [(n, s | {"train.precision": "float16"}, "never") for n, s in ({"local": {}} | STAGES).items()]
    )
    for name in ("local", *STAGES):
        found = lines(tmp_path / name)
        assert 0 < len(found) < 6, name  # steps that overflowed are not logged
        assert found[-1]["loss_scale"] < 2**16 and found[-1]["learning_rate"] > 0
        assert not (tmp_path / name / "nonfinite.jsonl").exists()
