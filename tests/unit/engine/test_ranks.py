"""Runs of several processes: the same numbers as one, and one end for all."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

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


def processes(folder, name, ranks, *options, recipe=RECIPE, plugin=TOY):
    """`gentle run` as so many processes; returns exit codes, standard errors and the run directory."""
    (folder / "toy.toml").write_text(recipe)
    command = [sys.executable, "-c", "from gentle_core.cli import main; main()", "run", str(folder / "toy.toml")]
    command += ["--plugin", str(plugin), "--out", str(folder / name), *options]
    common = {"GENTLE_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1", "GENTLE_PLUGINS": "toy"}
    common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(ranks)}
    started = [
        subprocess.Popen(
            command, env=os.environ | common | {"RANK": str(r), "LOCAL_RANK": str(r)}, stderr=subprocess.PIPE, text=True
        )
        for r in range(ranks)
    ]  # fmt: skip
    try:
        errors = [process.communicate(timeout=100)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    return [process.returncode for process in started], errors, folder / name


def lines(run, split="train"):
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in found if line["split"] == split]


def same_run(one, two, rel=1e-4):
    """Two runs that took the same steps, up to rounding."""
    assert len(lines(one)) == len(lines(two)) == 6
    for mine, theirs in zip(lines(one), lines(two), strict=True):
        for key in ("loss", "clip", "mmd", "sdd", "ssl/a", "grad_norm", "learning_rate", "grad_norm/sdd", "rows/clip"):
            assert mine[key] == pytest.approx(theirs[key], rel=rel, abs=1e-6), (key, mine["step"])
    for part in ("model", "loss"):
        a, b = (load_file(steps_in(run / "checkpoints")[0] / f"{part}.safetensors") for run in (one, two))
        assert set(a) == set(b)
        for name, value in a.items():
            assert (value.double() - b[name].double()).abs().max() < 2e-4 * max(1, value.abs().max()), name


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
