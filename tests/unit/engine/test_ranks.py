"""Runs of several processes: the same numbers as one, and one end for all."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
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

needs_deepspeed = pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def env(folder):
    return os.environ | {"GENTLE_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1", "GENTLE_PLUGINS": "toy"}


def torchrun(rank, ranks):
    return {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1"}


def slurm(rank, ranks):
    return {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank), "SLURM_NTASKS": str(ranks),
            "SLURM_NODELIST": "localhost"}  # fmt: skip


def start(command, folder, ranks, environment=torchrun):
    """The command as so many ranks; returns exit codes and standard errors."""
    common = env(folder) | {"MASTER_PORT": str(free_port())}
    with contextlib.ExitStack() as files:
        # A pipe that nobody reads while another rank is waited for would fill, and stop its rank.
        said = [files.enter_context(tempfile.TemporaryFile("w+")) for _ in range(ranks)]
        started = [
            subprocess.Popen(command, env=common | environment(r, ranks), stderr=error) for r, error in enumerate(said)
        ]
        try:
            codes = [process.wait(timeout=500) for process in started]
        finally:
            for process in started:
                process.kill()
        for error in said:
            error.seek(0)
        return codes, [error.read() for error in said]


def processes(folder, name, ranks, *options, environment=torchrun):
    """`gentle run` as so many ranks; returns exit codes, standard errors and the run directory."""
    (folder / "toy.toml").write_text(RECIPE)
    command = [sys.executable, "-m", "gentle_core", "run", str(folder / "toy.toml")]
    command += ["--plugin", str(TOY), "--out", str(folder / name), *options]
    return *start(command, folder, ranks, environment), folder / name


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


def launched(folder, name, ranks, *options):
    """`gentle launch` in a process of its own."""
    (folder / "toy.toml").write_text(RECIPE)
    command = [sys.executable, "-m", "gentle_core", "launch", "--ranks", str(ranks), str(folder / "toy.toml")]
    command += ["--plugin", str(TOY), "--out", str(folder / name), *options]
    return subprocess.run(command, env=env(folder), stderr=subprocess.PIPE, text=True, timeout=500), folder / name


@pytest.mark.timeout(300)
def test_two_ranks_take_the_steps_of_one(tmp_path):
    codes, errors, alone = processes(tmp_path, "alone", 1)
    assert codes == [0], errors
    ended, both = launched(tmp_path, "both", 2, "--profile")
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.count("report:") == ended.stderr.count("run directory:") == 1, "rank 0 speaks alone"
    same_run(alone, both)
    assert (both / "report.html").is_file() and (both / "model/model.safetensors").is_file()
    a, b = (lines(run, "val")[-1]["retrieval/mean/R@10"] for run in (alone, both))
    assert a == pytest.approx(b, abs=5)
    first = lines(both)[0]
    assert 0 < first["communication"] < 1 and first["memory_gib"] > 0 and first["tflops"] > 0
    trace = json.loads((both / "profile/trace.json").read_text())
    assert any(event.get("name") == "gentle: objective" for event in trace["traceEvents"])


ENDS = """
import atexit, os, sys
def threads():
    names = [open(f"/proc/self/task/{t}/comm").read().strip() for t in os.listdir("/proc/self/task")]
    print("threads", names, file=sys.stderr)
atexit.register(threads)  # before the run's own, so called after it
from gentle_core.cli import main
main()
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="names of threads are read from /proc")
@pytest.mark.timeout(300)
def test_no_thread_that_talks_to_other_ranks_outlives_a_run(tmp_path):
    """One that lets go of a tensor while the interpreter is taken down would abort the process."""
    (tmp_path / "toy.toml").write_text(RECIPE)
    command = [sys.executable, "-c", ENDS, "run", str(tmp_path / "toy.toml"), "--plugin", str(TOY)]
    codes, errors = start([*command, "--out", str(tmp_path / "run")], tmp_path, 2)
    assert codes == [0, 0], errors
    said = [error[error.rindex("threads") :] for error in errors]
    assert all("python" in text and "gloo" not in text for text in said), said


@pytest.mark.timeout(300)
def test_a_file_that_one_rank_misses_ends_all(tmp_path):
    codes, errors, run = processes(tmp_path, "run", 2, "--set", "dataset.missing_on_rank=1", environment=slurm)
    assert codes == [1, 1], errors
    assert re.search(r"gentle: error: rank 1: p\d+\.npy: No such file or directory", errors[0])
    assert "error" not in errors[1]
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["status"] == "failed" and "rank 1" in manifest["error"]


@pytest.mark.timeout(300)
def test_a_rank_that_fails_while_the_other_waits_for_it_is_heard(tmp_path):
    ended, run = launched(tmp_path, "run", 2, "--set", "towers.a.encoder.fails_on_rank=1")
    assert ended.returncode == 70, ended.stderr
    assert ended.stderr.count("error: ") == 1 and "rank 1: RuntimeError: no memory, on purpose" in ended.stderr
    assert json.loads((run / "manifest.json").read_text())["status"] == "failed"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_rank_that_is_killed_ends_the_other(tmp_path):
    ended, run = launched(tmp_path, "run", 2, "--set", "dataset.dies_on_rank=1")
    assert ended.returncode == 128 + 9
    assert "rank 1 was ended by SIGKILL" in ended.stderr and "a rank ended" in ended.stderr
    assert json.loads((run / "manifest.json").read_text())["status"] == "failed"


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_launch_passes_signals_on_and_the_run_goes_on_later(tmp_path, number):
    (tmp_path / "toy.toml").write_text(RECIPE.replace("steps = 6", "steps = 100"))
    command = [sys.executable, "-m", "gentle_core", "launch", "--ranks", "2", str(tmp_path / "toy.toml")]
    command += ["--plugin", str(TOY), "--out", str(tmp_path / "run")]
    process = subprocess.Popen(command, env=env(tmp_path), stderr=subprocess.PIPE, text=True)
    while not steps_in(tmp_path / "run" / "checkpoints") and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(number)
    _, error = process.communicate(timeout=100)
    assert process.returncode == 75, error
    assert error.count("--resume auto") == 1
    assert subprocess.run([*command, "--resume", "auto"], env=env(tmp_path)).returncode == 0


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_second_ctrl_c_quits_all_ranks_at_once(tmp_path):
    """The first waits for the end of a step, which here never comes."""
    (tmp_path / "toy.toml").write_text(RECIPE.replace('select = "retrieval/mean/R@1"', ""))
    command = [sys.executable, "-m", "gentle_core", "launch", "--ranks", "2", str(tmp_path / "toy.toml")]
    command += ["--plugin", str(TOY), "--out", str(tmp_path / "run"), "--set", "dataset.slow=1000"]
    for key in ("towers.a.head.standardize", "towers.b.encoder.freeze", "towers.b.head.standardize"):
        command += ["--set", f"{key}=false"]
    environment = env(tmp_path) | {"TOY_LOADS": str(tmp_path / "loads")}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "loads").exists() and process.poll() is None:
        time.sleep(0.05)
    time.sleep(2)  # the other rank as well
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1.0)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=100)
    assert process.returncode == 130 and time.monotonic() - began < 15, error
    assert json.loads((tmp_path / "run/manifest.json").read_text())["status"] == "interrupted"


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("launcher", "engine"), [("torchrun", "local"), ("torchrun", "deepspeed"), ("deepspeed", "deepspeed")]
)
def test_other_launchers(tmp_path, launcher, engine):
    (tmp_path / "toy.toml").write_text(RECIPE)
    port = str(free_port())
    words = {
        "torchrun": ["torch.distributed.run", "--nproc-per-node", "2", "--master-port", port, "-m", "gentle_core"],
        "deepspeed": ["deepspeed.launcher.runner", "--num_gpus", "2", "--master_port", port, "--no_local_rank",
                      "--module", "gentle_core"],
    }[launcher]  # fmt: skip
    if "deepspeed" in (launcher, engine):
        pytest.importorskip("deepspeed")
    command = [sys.executable, "-m", *words, "run", str(tmp_path / "toy.toml"), "--plugin", str(TOY)]
    ended = subprocess.run(
        [*command, "--out", str(tmp_path / "run"), "--set", f"engine.use={engine}"],
        env=env(tmp_path) | {"DS_ACCELERATOR": "cpu"}, stderr=subprocess.PIPE, text=True, timeout=200,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.count("run directory:") == 1
    assert "communication" in lines(tmp_path / "run")[0]


@needs_deepspeed
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_slurm_places_the_ranks_of_deepspeed(tmp_path):
    codes, errors, run = processes(
        tmp_path, "run", 2, "--set", "engine.use=deepspeed", "--set", "engine.zero_stage=2",
        environment=lambda rank, ranks: slurm(rank, ranks) | {"DS_ACCELERATOR": "cpu"},
    )  # fmt: skip
    assert codes == [0, 0], errors
    assert all(0 < line["communication"] < 1 for line in lines(run))


ONCE = {"train.accumulate": 1, "towers.a.encoder.dropout": 0.0, "towers.a.head.dropout": 0.0,
        "towers.b.head.dropout": 0.0}  # fmt: skip
DEEPSPEED = {"engine.use": "deepspeed"}
STAGES = {f"zero-{stage}": DEEPSPEED | {"engine.zero_stage": stage} for stage in range(4)}
OFFLOAD = {
    "zero-1-offload": STAGES["zero-1"] | {"engine.offload": "optimizer"},
    "zero-2-offload": STAGES["zero-2"] | {"engine.offload": "optimizer"},
    "zero-3-offload": STAGES["zero-3"] | {"engine.offload": "parameters"},
}


def in_float16():
    """The back ends that compute in float16 here: DeepSpeed does on a processor that has instructions for it."""
    from deepspeed.accelerator import get_accelerator

    return [{}, *(STAGES.values() if get_accelerator().is_fp16_supported() else ())]


def compared(folder, ranks, back_ends):
    """Every back end at so many ranks against the local one alone: with cached embedding gradients, and without."""
    several(folder, 1, [("alone", {}, "never"), ("alone-once", ONCE, "never")])
    runs = [(name, sets, "never") for name, sets in back_ends.items()]
    several(folder, ranks, runs + [(f"{name}-once", sets | ONCE, "never") for name, sets, _ in runs])
    for name in back_ends:
        same_run(folder / "alone", folder / name)
        same_run(folder / "alone-once", folder / f"{name}-once")
        assert ranks == 1 or all(0 < line["communication"] < 1 for line in lines(folder / name))


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
@pytest.mark.parametrize("uneven", [False, True])
def test_activation_checkpointing_of_a_transformer_changes_nothing(tmp_path, uneven):
    """Layers that are computed again, from weights that are divided, chunk by chunk and all at once; also where the
    layers are called more often on one rank than on the other."""
    deep = {"towers.a.encoder.blocks": 3, "towers.a.encoder.uneven": uneven}
    lean = deep | {"engine.activation_checkpointing": True}
    several(tmp_path, 1, [("alone", deep, "never"), ("alone-once", deep | ONCE, "never")])
    back_ends = {"local": {}, "zero-2": STAGES["zero-2"], "zero-3": STAGES["zero-3"]}
    runs = [(f"{name}{end}", sets | lean | more, "never")
            for name, sets in back_ends.items() for end, more in (("", {}), ("-once", ONCE))]  # fmt: skip
    several(tmp_path, 2, runs)
    for name in back_ends:
        same_run(tmp_path / "alone", tmp_path / name)
        same_run(tmp_path / "alone-once", tmp_path / f"{name}-once")


@needs_deepspeed
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_half_precision_stays_close(tmp_path):
    several(tmp_path, 1, [("alone", ONCE, "never")])
    half = {
        f"{name}-{precision}": sets | ONCE | {"train.precision": precision, "engine.loss_scale": scale}
        for name, sets in ({"local": {}} | STAGES).items()
        for precision, scale in (("bfloat16", 0.0), ("float16", 256.0))
        if precision == "bfloat16" or sets in in_float16()
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
    back_ends = {name: sets for name, sets in ({"local": {}} | STAGES).items() if sets in in_float16()}
    several(tmp_path, 2, [(name, sets | {"train.precision": "float16"}, "never") for name, sets in back_ends.items()])
    for name in back_ends:
        found = lines(tmp_path / name)
        assert 0 < len(found) < 6, name  # steps that overflowed are not logged
        assert found[-1]["loss_scale"] < 2**16 and found[-1]["learning_rate"] > 0
        assert not (tmp_path / name / "nonfinite.jsonl").exists()
