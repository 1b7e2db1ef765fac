"""What happens to runs: signals, kills and a full disk."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

from gentle_core.engine import checkpoint
from gentle_core.engine.checkpoint import load_checkpoint, newest_checkpoint, prune, save_checkpoint, steps_in
from gentle_core.engine.interrupt import InterruptFlag
from gentle_core.errors import CheckpointError, Interrupted, Stopped

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
checkpoint_every = 1
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
        env |= {"TOY_LOADS": str(tmp_path / "loads")}
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
    code, error = Process(tmp_path, "straight", "--set", "train.checkpoint_every=0").finish()
    assert code == 0, error

    class Run:
        def __init__(self, name):
            self.out = tmp_path / name

    assert digest(Run("run")) == digest(Run("straight"))


def test_a_signal_is_a_flag_in_the_loop_and_an_end_elsewhere():
    with InterruptFlag() as flag, flag.patiently():
        os.kill(os.getpid(), signal.SIGTERM)
        assert flag.name == "SIGTERM"
        os.kill(os.getpid(), signal.SIGTERM)
        assert flag.name == "SIGTERM", "only a second Ctrl-C is in a hurry"
        flag.name = ""
    with pytest.raises(Stopped, match=r"SIGTERM.*--resume auto"), InterruptFlag() as flag:
        os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(Stopped, match="SIGINT"), InterruptFlag() as flag, flag.patiently():
        os.kill(os.getpid(), signal.SIGINT)
        # the loop ended without another look at the flag
    with pytest.raises(KeyboardInterrupt), InterruptFlag() as flag, flag.patiently():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL and Stopped.exit_code == Interrupted.exit_code == 75


def until(condition, seconds=100.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.timeout(300)
def test_a_second_ctrl_c_quits_at_once(tmp_path):
    """The first waits for the end of a step, which here never comes."""
    slow = ("--set", "dataset.slow=1000", "--set", "towers.a.head.standardize=false", "--set",
            "towers.b.encoder.freeze=false", "--set", "towers.b.head.standardize=false")  # fmt: skip
    run = Process(tmp_path, "run", *slow)
    until((tmp_path / "loads").exists)
    run.process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        run.process.wait(1.0)
    began = time.monotonic()
    run.process.send_signal(signal.SIGINT)
    code, error = run.finish()
    assert code == 130 and "interrupted" in error and time.monotonic() - began < 10
    assert json.loads((tmp_path / "run/manifest.json").read_text())["status"] == "interrupted"


@pytest.mark.timeout(300)
def test_sigterm_before_the_first_step_ends_in_order(tmp_path):
    run = Process(tmp_path, "run", "--set", "dataset.slow=1000")
    until((tmp_path / "loads").exists)  # for the features of the frozen tower
    run.process.send_signal(signal.SIGTERM)
    code, error = run.finish()
    assert code == 75 and "SIGTERM: stopped" in error, error
    assert json.loads((tmp_path / "run/manifest.json").read_text())["status"] == "interrupted"


def tensors(value: float = 1.0) -> dict[str, dict[str, torch.Tensor]]:
    return {"model": {"w": torch.full((3,), value)}, "loss": {}, "optimizer": {"0.step": torch.tensor(2.0)}}


def killed_at(event: int, work) -> bool:
    """Do `work` in a fork that kills itself with SIGKILL at its file-system event number `event`; whether it came that
    far. An event is whatever opens, renames or removes something, and each flush to the disk: there the file is cut
    to half its size first, as a kill in the midst of writing leaves it."""
    pid = os.fork()
    if pid:
        return os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    try:
        counter, flush = iter(range(10**9)), os.fsync

        def die(name: str, arguments: tuple) -> None:
            if name in EVENTS and not (name == "open" and not isinstance(arguments[0], str)) and next(counter) == event:
                os.kill(os.getpid(), signal.SIGKILL)

        def torn(handle: int) -> None:
            if next(counter) == event:
                if os.path.isfile(f"/proc/self/fd/{handle}"):
                    os.ftruncate(handle, os.fstat(handle).st_size // 2)
                os.kill(os.getpid(), signal.SIGKILL)
            flush(handle)

        os.fsync = torn
        sys.addaudithook(die)
        work()
    finally:
        os._exit(0)


EVENTS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree")
LINUX = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="looks into /proc")


@LINUX
@pytest.mark.parametrize("again", [False, True], ids=["next", "same step again"])
def test_sigkill_at_every_write_step_leaves_a_whole_checkpoint(tmp_path, again):
    def write(folder):
        save_checkpoint(folder, 1 if again else 2, tensors(2.0), {"value": 2.0})
        prune(folder, 1, set())

    seen, event, alive = set(), 0, False
    while not alive:
        folder = tmp_path / str(event)
        save_checkpoint(folder, 1, tensors(1.0), {"value": 1.0})
        alive = not killed_at(event, lambda folder=folder: write(folder))
        told: list[str] = []
        found = newest_checkpoint(folder, told.append)
        assert found is not None and not told, (event, told)
        value = found.facts["value"]
        assert value in (1.0, 2.0) and found.tensors["model"]["w"].tolist() == [value] * 3, event
        assert all(path.name.startswith("step-") for path in folder.iterdir()), "leftovers are cleared away"
        write(folder)
        assert newest_checkpoint(folder, told.append).facts["value"] == 2.0 and not told
        seen.add(value)
        event += 1
    assert event > 15 and seen == {1.0, 2.0}


@LINUX
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_killed_at_any_file_event_resumes_to_the_same_bits(toy_run, tmp_path):
    """Events of a whole run, from the first file to the report; each resumed and compared with a run in one go."""
    torch.set_num_threads(1)  # a fork has no other threads
    options = {"train.checkpoint_every": 2, "train.select": "retrieval/mean/R@1", "train.evaluate_every": 2}
    expected = digest(toy_run("straight", options))
    event, alive = 0, False
    while not alive:
        name = f"killed-{event}"
        alive = not killed_at(event, lambda name=name: toy_run(name, options))
        assert digest(toy_run(name, options, resume="auto")) == expected, event
        shutil.rmtree(tmp_path / name)
        event += 7
    assert event > 100


@pytest.mark.parametrize("fails_at", range(6))
def test_a_full_disk_leaves_the_earlier_checkpoint(tmp_path, monkeypatch, fails_at):
    save_checkpoint(tmp_path, 1, tensors(1.0), {})
    flush, calls = os.fsync, itertools.count()

    def full(handle):
        if next(calls) == fails_at:
            raise OSError(errno.ENOSPC, "No space left on device")
        flush(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"No space left on device.*--resume auto"):
        save_checkpoint(tmp_path, 2, tensors(2.0), {})
    monkeypatch.undo()
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"step-00000001"} or (fails_at == 5 and names == {"step-00000001", "step-00000002"})
    assert load_checkpoint(tmp_path / "step-00000001").tensors["model"]["w"].tolist() == [1, 1, 1]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 300 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("cannot mount a small file system here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_run_on_a_disk_that_fills_up_goes_on_when_there_is_room(toy_run, tmp_path, small_disk):
    options = {"train.checkpoint_every": 1, "train.keep_last": 99, "train.log_every": 1}
    with pytest.raises(CheckpointError, match=r"cannot write .*No space left on device"):
        toy_run("disk/run", options)
    kept = steps_in(small_disk / "run/checkpoints")
    assert 0 < len(kept) < 8, "it got somewhere"
    subprocess.run(["mount", "-o", "remount,size=30m", small_disk], check=True)
    resumed = toy_run("disk/run", options, resume="auto")
    assert digest(resumed) == digest(toy_run("straight"))


def test_a_run_whose_writes_fail_goes_on_when_there_is_room(toy_run, tmp_path, monkeypatch):
    """The same where nothing can be mounted: every file has a largest size that the second checkpoint exceeds."""
    options = {"train.checkpoint_every": 2, "train.keep_last": 99}
    write, calls = checkpoint.write_durably, itertools.count()

    def full(path, data):
        if path.suffix == ".safetensors" and next(calls) >= 4:
            path.write_bytes(b"torn")
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return write(path, data)

    monkeypatch.setattr(checkpoint, "write_durably", full)
    with pytest.raises(CheckpointError, match=r"No space left on device.*--resume auto"):
        toy_run("run", options)
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["step-00000002"]
    monkeypatch.undo()
    monkeypatch.setenv("GENTLE_CACHE", str(tmp_path / "cache"))
    assert digest(toy_run("run", options, resume="auto")) == digest(toy_run("straight"))


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
