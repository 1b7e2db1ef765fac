"""What happens to runs of several processes: a resume on as many or on another number, a signal or a NaN on one."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

from gentle_core.engine.checkpoint import load_checkpoint, steps_in
from gentle_core.engine.progress import Display
from gentle_core.engine.run import run_recipe
from gentle_core.recipe import load_recipe

from .conftest import TOY
from .test_ranks import free_port

RECIPE = """
[dataset]
use = "toy/points"
paired = 0.5
[towers.a]
modality = "toy-a"
encoder = { use = "toy/mlp-a", dropout = 0.1, norm = true }
head = { dimension = 8, hidden = 16 }
augment = [{ use = "toy/noise" }]
[towers.b]
modality = "toy-b"
encoder = { use = "toy/mlp-b", freeze = true }
head = { dimension = 8, hidden = 16 }
[train]
steps = 6
batch_size = 8
accumulate = 4
log_every = 1
keep_last = 9
[baseline]
cca = false
[evaluate]
splits = []
[report]
map = "none"
"""


class Ranks:
    """`gentle run` as so many processes."""

    def __init__(self, folder, name, ranks, *options, **environment):
        (folder / "toy.toml").write_text(RECIPE)
        self.out = folder / name
        code = "from gentle_core.cli import main; main()"
        command = [sys.executable, "-c", code, "run", str(folder / "toy.toml"), "--plugin", str(TOY)]
        command += ["--out", str(self.out), *options]
        common = {"GENTLE_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1", "GENTLE_PLUGINS": "toy"}
        common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(ranks)}
        common |= {"TOY_LOADS": str(folder / "loads")} | environment
        # Files, since a pipe that nobody reads while another rank is waited for would fill, and stop its rank.
        self.errors = [folder / f"{name}-{rank}.txt" for rank in range(ranks)]
        with contextlib.ExitStack() as files:
            self.processes = [
                subprocess.Popen(
                    command, env=os.environ | common | {"RANK": str(r), "LOCAL_RANK": str(r)},
                    stderr=files.enter_context(error.open("w")),
                )
                for r, error in enumerate(self.errors)
            ]  # fmt: skip

    def finish(self):
        """Exit codes and standard errors."""
        try:
            codes = [process.wait(timeout=150) for process in self.processes]
        finally:
            for process in self.processes:
                process.kill()
        return codes, [error.read_text() for error in self.errors]

    def succeed(self):
        codes, errors = self.finish()
        assert not any(codes), errors
        return self.out


def digest(run, step=None):
    """Of all tensors of a checkpoint, and of what it says about the run."""
    folder = steps_in(run / "checkpoints")[0] if step is None else run / f"checkpoints/step-{step:08d}"
    files = [*sorted(folder.glob("*.safetensors")), folder / "state.json"]
    assert len(files) == 4
    return hashlib.sha256(b"".join(f.name.encode() + f.read_bytes() for f in files)).hexdigest()


def alone(folder, catalog, name, sets, resume="never"):
    resolved = load_recipe(RECIPE, sets, catalog)
    return run_recipe(resolved, folder / name, resume, Display(quiet=True), report=False).out


def copy_of(run, folder, name, step):
    """A run as it was when it had just written this checkpoint."""
    shutil.copytree(run, folder / name)
    for path in steps_in(folder / name / "checkpoints"):
        if path.name != f"step-{step:08d}":
            shutil.rmtree(path)
    return folder / name


def nearly_the_same(one, two):
    """Up to rounding, running statistics of batch normalisation included: the chunks are the same."""
    a, b = (load_checkpoint(steps_in(run / "checkpoints")[0]).tensors for run in (one, two))
    for part in a:
        assert set(a[part]) == set(b[part])
        for name, value in a[part].items():
            torch.testing.assert_close(value, b[part][name], rtol=2e-3, atol=2e-4, msg=lambda m, n=name: f"{n}: {m}")


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A run of two ranks that has kept every checkpoint."""
    folder = tmp_path_factory.mktemp("parts")
    return Ranks(folder, "parts", 2, "--set", "train.checkpoint_every=1", "--set", "train.workers=1").succeed()


@pytest.mark.timeout(400)
def test_two_ranks_resume_to_the_same_bits_and_other_numbers_of_ranks_to_the_same_figures(
    tmp_path, toy_catalog, monkeypatch, parts
):
    monkeypatch.setenv("GENTLE_CACHE", str(tmp_path / "cache"))
    straight = Ranks(tmp_path, "straight", 2).succeed()
    assert digest(parts) == digest(straight), "neither checkpoints nor workers change anything"
    copy_of(parts, tmp_path, "again", 4)
    assert digest(Ranks(tmp_path, "again", 2, "--resume", "auto").succeed()) == digest(straight)

    one = alone(tmp_path, toy_catalog, "one", {"train.checkpoint_every": 2})
    nearly_the_same(one, straight)
    copy_of(parts, tmp_path, "two-to-one", 2)
    nearly_the_same(alone(tmp_path, toy_catalog, "two-to-one", {}, "auto"), straight)
    copy_of(one, tmp_path, "one-to-two", 2)
    nearly_the_same(Ranks(tmp_path, "one-to-two", 2, "--resume", "auto").succeed(), one)


@pytest.mark.timeout(400)
def test_a_gradient_that_is_not_finite_on_one_rank_stops_or_skips_on_all(tmp_path, parts):
    # With two chunks a rank, a step passes tower a four times with a graph: two views of two groups' chunks each.
    bad = {"TOY_NAN_RANK": "1", "TOY_NAN_PASS": "20"}
    stopped = Ranks(tmp_path, "stopped", 2, **bad)
    codes, errors = stopped.finish()
    assert codes == [6, 6] and "the gradient is not finite at step 2; no step was taken" in errors[0], errors
    (record,) = [json.loads(line) for line in (stopped.out / "nonfinite.jsonl").read_text().splitlines()]
    assert record["what"] == "the gradient" and record["step"] == 2 and record["items"]["a"]
    assert [p.name for p in steps_in(stopped.out / "checkpoints")] == ["step-00000002"]
    assert digest(stopped.out) == digest(parts, 2), "what is left is the state before that step"

    skipped = Ranks(tmp_path, "skipped", 2, "--set", "train.on_nonfinite=skip", **bad).succeed()
    newest = load_checkpoint(steps_in(skipped / "checkpoints")[0])
    assert newest.facts["step"] == 6 and newest.facts["skipped"] == 1
    assert all(t.isfinite().all() for part in newest.tensors.values() for t in part.values())
    steps = [json.loads(line)["step"] for line in (skipped / "metrics.jsonl").read_text().splitlines()]
    assert 3 not in steps and {1, 2, 4, 5, 6} <= set(steps)


@pytest.mark.timeout(300)
def test_a_signal_to_one_rank_stops_all_after_the_same_step(tmp_path):
    run = Ranks(tmp_path, "run", 2, "--set", "train.steps=100000")
    deadline = time.monotonic() + 100
    metrics = run.out / "metrics.jsonl"
    while time.monotonic() < deadline and not (metrics.exists() and metrics.read_text().count("\n") > 3):
        time.sleep(0.02)
    run.processes[1].send_signal(signal.SIGTERM)
    codes, errors = run.finish()
    assert codes == [75, 75], errors
    (checkpoint,) = steps_in(run.out / "checkpoints")
    assert f"SIGTERM: stopped after step {int(checkpoint.name[5:])} of 100000" in errors[0]
    assert json.loads((run.out / "manifest.json").read_text())["status"] == "interrupted"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_four_ranks_resume_to_the_same_bits_and_from_four_to_two(tmp_path):
    straight = Ranks(tmp_path, "straight", 4).succeed()
    parts = Ranks(tmp_path, "parts", 4, "--set", "train.checkpoint_every=2").succeed()
    assert digest(parts) == digest(straight)
    copy_of(parts, tmp_path, "again", 4)
    assert digest(Ranks(tmp_path, "again", 4, "--resume", "auto").succeed()) == digest(straight)
    copy_of(parts, tmp_path, "four-to-two", 2)
    nearly_the_same(Ranks(tmp_path, "four-to-two", 2, "--resume", "auto").succeed(), straight)


def deepspeed(stage, precision="float32"):
    return ("--set", "engine.use=deepspeed", "--set", f"engine.zero_stage={stage}",
            "--set", f"train.precision={precision}", "--set", "engine.device=cpu")  # fmt: skip


def check_deepspeed(folder, catalog, stage, other, precision="float32"):
    """N = k + (N − k) at a stage; then on from there at another stage, and on the local back end."""
    pytest.importorskip("deepspeed")
    options = deepspeed(stage, precision)
    straight = Ranks(folder, "straight", 2, *options).succeed()
    parts = Ranks(folder, "parts", 2, "--set", "train.checkpoint_every=2", *options).succeed()
    assert digest(parts) == digest(straight), "a checkpoint changes nothing"
    copy_of(parts, folder, "again", 4)
    assert digest(Ranks(folder, "again", 2, "--resume", "auto", *options).succeed()) == digest(straight)
    if precision == "float32":
        nearly_the_same(alone(folder, catalog, "local", {"train.checkpoint_every": 2}), straight)
        copy_of(parts, folder, "to-local", 2)
        nearly_the_same(alone(folder, catalog, "to-local", {}, "auto"), straight)
        copy_of(folder / "local", folder, "other", 2)
        nearly_the_same(Ranks(folder, "other", 2, "--resume", "auto", *deepspeed(other)).succeed(), straight)


@pytest.mark.timeout(500)
def test_deepspeed_resumes_to_the_same_bits_and_from_and_to_the_local_back_end(tmp_path, toy_catalog, monkeypatch):
    monkeypatch.setenv("GENTLE_CACHE", str(tmp_path / "cache"))
    check_deepspeed(tmp_path, toy_catalog, 2, 3)


@pytest.mark.timeout(300)
def test_deepspeed_in_bfloat16_resumes_to_the_same_bits(tmp_path):
    """Weights in half precision beside their masters, batch normalisation among them."""
    pytest.importorskip("deepspeed")
    options = deepspeed(2, "bfloat16")
    parts = Ranks(tmp_path, "parts", 2, "--set", "train.checkpoint_every=4", *options).succeed()
    weight = load_checkpoint(steps_in(parts / "checkpoints")[0]).tensors["model"][
        "tower_modules.a.encoder.layers.1.weight"
    ]
    assert weight.dtype == torch.float32 and (weight != weight.bfloat16()).any(), "masters are what is kept"
    copy_of(parts, tmp_path, "again", 4)
    assert digest(Ranks(tmp_path, "again", 2, "--resume", "auto", *options).succeed()) == digest(parts)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("stage", "other", "precision"),
    [(0, 1, "float32"), (1, 2, "float32"), (3, 0, "float32"), (1, 1, "bfloat16"), (3, 3, "bfloat16")],
)
def test_every_zero_stage_resumes_to_the_same_bits(tmp_path, toy_catalog, monkeypatch, stage, other, precision):
    monkeypatch.setenv("GENTLE_CACHE", str(tmp_path / "cache"))
    check_deepspeed(tmp_path, toy_catalog, stage, other, precision)
