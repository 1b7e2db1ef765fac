"""What happens to runs: signals, kills and a full disk."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from gentle_core.engine import checkpoint
from gentle_core.engine.checkpoint import load_checkpoint, newest_checkpoint, prune, save_checkpoint, steps_in
from gentle_core.errors import CheckpointError

from .conftest import TOY
from .test_run import digest

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
steps = 120
batch_size = 8
save_every = 1
[baseline]
cca = false
[evaluate]
splits = []
"""


class Process:
    """`gentle run` in a process of its own, that can be stopped once it has written a checkpoint."""

    def __init__(self, tmp_path, name: str, *options: str):
        (tmp_path / "toy.toml").write_text(RECIPE)
        self.out = tmp_path / name
        command = [sys.executable, "-c", "from gentle_core.cli import main; main()", "run", str(tmp_path / "toy.toml")]
        command += ["--plugin", str(TOY), "--out", str(self.out), *options]
        env = os.environ | {"GENTLE_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)

    def stop(self, number: int, after: int) -> tuple[int, str]:
        deadline = time.monotonic() + 200
        while time.monotonic() < deadline and self.process.poll() is None:
            if (found := steps_in(self.out / "checkpoints")) and int(found[0].name.split("-")[1]) >= after:
                self.process.send_signal(number)
                break
            time.sleep(0.005)
        return self.finish()

    def finish(self) -> tuple[int, str]:
        _, error = self.process.communicate(timeout=200)
        return self.process.returncode, error


@pytest.mark.timeout(600)
def test_sigterm_leaves_a_checkpoint_sigkill_too_and_the_rest_gives_the_same_bits(tmp_path):
    code, error = Process(tmp_path, "run").stop(signal.SIGTERM, after=5)
    assert code == 75, error
    assert "--resume auto" in error
    manifest = json.loads((tmp_path / "run/manifest.json").read_text())
    assert manifest["status"] == "interrupted"
    stopped_at = steps_in(tmp_path / "run/checkpoints")[0].name

    code, _ = Process(tmp_path, "run", "--resume", "auto").stop(signal.SIGKILL, after=25)
    assert code == -signal.SIGKILL
    assert steps_in(tmp_path / "run/checkpoints")[0].name > stopped_at

    code, error = Process(tmp_path, "run", "--resume", "auto").finish()
    assert code == 0, error
    code, error = Process(tmp_path, "straight", "--set", "train.save_every=0").finish()
    assert code == 0, error

    class Run:
        def __init__(self, name):
            self.out = tmp_path / name

    assert digest(Run("run")) == digest(Run("straight"))


def tensors(value: float = 1.0) -> dict[str, dict[str, torch.Tensor]]:
    return {"model": {"w": torch.full((3,), value)}, "loss": {}, "optimizer": {"0.step": torch.tensor(2.0)}}


@pytest.mark.parametrize("fails_at", [0, 1, 3, 4])
def test_a_full_disk_leaves_the_earlier_checkpoint(tmp_path, monkeypatch, fails_at):
    save_checkpoint(tmp_path, 1, tensors(1.0), {})
    real, calls = checkpoint.write_durably, iter(range(100))

    def full(path, data):
        if next(calls) == fails_at:
            path.write_bytes(data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, data)

    monkeypatch.setattr(checkpoint, "write_durably", full)
    with pytest.raises(CheckpointError, match=r"No space left on device.*--resume auto"):
        save_checkpoint(tmp_path, 2, tensors(2.0), {})
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    assert load_checkpoint(tmp_path / "step-00000001").tensors["model"]["w"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("damage", ["flip", "cut", "missing", "no manifest", "state"])
def test_what_is_not_whole_is_not_a_checkpoint(tmp_path, damage):
    save_checkpoint(tmp_path, 1, tensors(1.0), {"kept": True})
    bad = save_checkpoint(tmp_path, 2, tensors(2.0), {})
    weights = bad / "model.safetensors"
    data = weights.read_bytes()
    if damage == "flip":
        weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif damage == "cut":
        weights.write_bytes(data[:-4])
    elif damage == "missing":
        weights.unlink()
    elif damage == "no manifest":
        (bad / "manifest.json").unlink()
    else:
        (bad / "state.json").write_text("{}")
    told: list[str] = []
    found = newest_checkpoint(tmp_path, told.append)
    assert found is not None and found.facts["step"] == 1 and found.facts["kept"]
    assert len(told) == 1 and "step-00000002" in told[0]


def test_a_manifest_cannot_point_outside(tmp_path):
    folder = save_checkpoint(tmp_path / "c", 1, tensors(), {})
    manifest = json.loads((folder / "manifest.json").read_text())
    outside = tmp_path / "outside.safetensors"
    outside.write_bytes((folder / "model.safetensors").read_bytes())
    manifest["sha256"]["../../outside.safetensors"] = manifest["sha256"]["model.safetensors"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="not an intact"):
        load_checkpoint(folder)


def test_retention_keeps_the_newest_and_the_best_and_clears_leftovers(tmp_path):
    for step in range(1, 6):
        save_checkpoint(tmp_path, step, tensors(), {})
    (tmp_path / ".partial-step-00000009").mkdir()
    prune(tmp_path, 2, {"step-00000001"})
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["step-00000001", "step-00000004", "step-00000005"]
