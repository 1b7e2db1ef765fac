"""A fault campaign: hundreds of short runs, each hit by a fault at random, resumed, and compared with a run in peace.

    python tests/campaign/faults.py                      # 300 runs on both back ends, some minutes
    python tests/campaign/faults.py --runs 40 --only "rank killed" --seed 7 --engine deepspeed

A run has survived when every resume ends in order and what is left in the end — weights, optimiser, loss, position,
model, the losses logged at each step — is the same, bit by bit, as without a fault. The seed and number of one that has
not are printed; --only-run NUMBER repeats it. Runs are forks of this process, so Linux is needed (and may be all that
is needed: without the right to mount, a full disk is only pretended). docs/reference/reliability.md keeps the counts.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import hashlib
import importlib
import importlib.util
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from gentle_core.catalog import Catalog
from gentle_core.engine.checkpoint import steps_in
from gentle_core.engine.progress import Display
from gentle_core.engine.run import run_recipe
from gentle_core.errors import GentleError
from gentle_core.plugins import discover
from gentle_core.recipe import load_recipe

TOY = Path(__file__).parents[1] / "toy.py"
STEPS = 8

RECIPE = {
    "dataset": {"use": "toy/points", "paired": 0.5},
    "towers": {
        "a": {
            "modality": "toy-a",
            "encoder": {"use": "toy/mlp-a", "dropout": 0.1, "norm": True},
            "head": {"dimension": 8, "hidden": 16, "standardize": False},
            "augment": [{"use": "toy/noise"}],
        },
        "b": {
            "modality": "toy-b",
            "encoder": {"use": "toy/mlp-b", "freeze": True},
            "head": {"dimension": 8, "hidden": 16},
        },
    },
    "train": {"steps": STEPS, "batch_size": 8, "log_every": 1, "checkpoint_every": 1, "keep_last": 2},
    "baseline": {"cca": False},
    "evaluate": {"splits": ["val"]},
    "report": {"map": "none"},
}
VARIANTS = (
    {},
    {"train.accumulate": 3},
    {"train.evaluate_every": 2, "train.select": "retrieval/mean/R@1", "train.keep_best": 2},
    {"train.checkpoint_every": 3, "train.keep_last": 1},
)
ENGINES = {
    "local": [{} for _ in VARIANTS],
    "deepspeed": [
        {"engine.use": "deepspeed", "engine.zero_stage": stage, "engine.device": "cpu"}
        for stage in range(len(VARIANTS))
    ],
}
"""Settings of each back end beside each variant: with DeepSpeed, every variant has a ZeRO stage of its own."""

ENDS = {"killed", "finished", 6, 7, 75}
"""How a run may end. Anything else is a defect, whatever a resume makes of it."""

MEASURED = ("rows_per_second", "data_wait", "communication", "memory_gib", "tflops", "flop_share")
"""Figures of a step that no two runs share."""

FILE_EVENTS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree")


class Failed(Exception):
    """A run that has not survived, and why."""


class Trial:
    """One run with its faults, in a folder of its own."""

    def __init__(self, folder: Path, catalog: Catalog, sets: dict, ranks: int = 1):
        self.folder, self.catalog, self.sets, self.ranks = folder, catalog, sets, ranks
        self.out = folder / "run"

    def start(self, *prepare: Callable[[int], None]) -> list[int]:
        """Fork one process a rank, each of which runs `prepare` with its rank and then the recipe."""
        port, children = free_port(), []
        for rank in range(self.ranks):
            pid = os.fork()
            if pid:
                children.append(pid)
                continue
            code = 70
            try:
                log = os.open(self.folder / f"log-{rank}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
                os.dup2(log, 1)
                os.dup2(log, 2)
                os.environ["GENTLE_CACHE"] = str(self.folder / "cache")
                if self.ranks > 1:
                    os.environ |= {
                        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(self.ranks),
                        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
                    }  # fmt: skip
                for one in prepare:
                    one(rank)
                recipe = load_recipe(RECIPE, self.sets, self.catalog)
                run_recipe(recipe, self.out, "auto", Display(interval=0.0), report=False)
                code = 0
            except GentleError as error:
                print(f"gentle: error: {error}", file=sys.stderr)
                code = error.exit_code
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        return children

    def end(self, children: list[int], seconds: float = 120.0) -> list[str | int]:
        """How each process ended; one that does not is a failure."""
        found: list[str | int] = []
        for pid in children:
            deadline = time.monotonic() + seconds
            while not (answer := os.waitpid(pid, os.WNOHANG))[0]:
                if time.monotonic() > deadline:
                    for other in children:
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(other, signal.SIGKILL)
                    raise Failed("hangs")
                time.sleep(0.005)
            status = answer[1]
            code = os.waitstatus_to_exitcode(status)
            found.append("killed" if code < 0 else "finished" if code == 0 else code)
        return found

    def go(self, *prepare: Callable[[int], None]) -> list[str | int]:
        return self.end(self.start(*prepare))

    def finish(self) -> None:
        """Resume until the run has finished."""
        ends = self.go()
        if set(ends) != {"finished"}:
            raise Failed(f"the resume ended with {ends}: {self.words()}")

    def words(self) -> str:
        """The last error of each rank."""
        logs = [self.folder / f"log-{rank}" for rank in range(self.ranks)]
        return " | ".join(log.read_text().strip().splitlines()[-1] for log in logs if log.exists() and log.read_text())

    def digest(self) -> str:
        """Of all that a run leaves and that does not hold a time."""
        found = hashlib.sha256()
        newest = steps_in(self.out / "checkpoints")[0]
        files = [*sorted(newest.glob("*.safetensors")), newest / "state.json", self.out / "model/model.safetensors"]
        for file in files:
            found.update(file.name.encode() + file.read_bytes())
        for line in (self.out / "metrics.jsonl").read_text().splitlines():
            record = json.loads(line)
            kept = {k: v for k, v in record.items() if k not in MEASURED}
            found.update(json.dumps(kept, sort_keys=True).encode())
        return found.hexdigest()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# -- faults: each hits a trial and leaves it to be resumed -------------------------------------------------------------


def killed_at_some_time(trial: Trial, rng: random.Random, took: float) -> list[str | int]:
    children = trial.start()
    time.sleep(rng.uniform(0, took))
    for pid in children:
        os.kill(pid, signal.SIGKILL)
    return trial.end(children)


def killed_at_a_file_event(trial: Trial, rng: random.Random, took: float) -> list[str | int]:
    """Before the event, or with the file that is being flushed cut to a part."""
    event, part = rng.randrange(160), rng.random()

    def prepare(_: int) -> None:
        counter, flush = iter(range(10**9)), os.fsync

        def die(name: str, arguments: tuple) -> None:
            if name in FILE_EVENTS and str(trial.folder) in str(arguments[0]) and next(counter) == event:
                os.kill(os.getpid(), signal.SIGKILL)

        def torn(handle: int) -> None:
            if next(counter) == event:
                if os.path.isfile(f"/proc/self/fd/{handle}"):
                    os.ftruncate(handle, int(os.fstat(handle).st_size * part))
                os.kill(os.getpid(), signal.SIGKILL)
            flush(handle)

        os.fsync = torn
        sys.addaudithook(die)

    return trial.go(prepare)


def told_to_stop(trial: Trial, rng: random.Random, took: float) -> list[str | int]:
    children = trial.start()
    time.sleep(rng.uniform(0.05, took))
    for pid in rng.sample(children, rng.randrange(1, len(children) + 1)):
        os.kill(pid, rng.choice([signal.SIGTERM, signal.SIGINT]))
    return trial.end(children)


def disk_full(trial: Trial, rng: random.Random, took: float) -> list[str | int]:
    """A real small file system where one can be mounted, else writes that fail from some moment on."""
    trial.out.mkdir(exist_ok=True)
    used = sum(-(-f.stat().st_size // 4096) * 4 for f in trial.out.rglob("*") if f.is_file()) + 4 * 30
    disk = trial.folder / "disk"
    disk.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={used + rng.randrange(120)}k", "tmpfs", str(disk)]
    if os.geteuid() == 0 and subprocess.run(mount, capture_output=True).returncode == 0:
        former = trial.out
        try:
            shutil.copytree(former, disk / "run")
            trial.out = disk / "run"
            ends = trial.go()
            shutil.rmtree(former)
            shutil.copytree(trial.out, former)
        finally:
            trial.out = former
            subprocess.run(["umount", str(disk)], check=True)
        return ends
    moment = rng.randrange(60)

    def prepare(_: int) -> None:
        counter, flush = iter(range(10**9)), os.fsync

        def full(handle: int) -> None:
            if next(counter) >= moment:
                raise OSError(errno.ENOSPC, "No space left on device")
            flush(handle)

        os.fsync = full

    return trial.go(prepare)


def checkpoint_damaged(trial: Trial, rng: random.Random, took: float) -> list[str | int]:
    """Stop in the midst, then harm a file of the newest checkpoint, which the resume must pass over."""
    ends = killed_at_some_time(trial, rng, took)
    found = steps_in(trial.out / "checkpoints") if trial.out.exists() else []
    if len(found) > 1:
        damage(rng.choice(sorted(f for f in found[0].iterdir())), rng)
    return ends


def cache_damaged(trial: Trial, rng: random.Random, took: float) -> list[str | int]:
    ends = killed_at_some_time(trial, rng, took)
    shards = sorted((trial.folder / "cache").rglob("*.safetensors"))
    if shards:
        damage(rng.choice(shards), rng)
    return ends


def damage(file: Path, rng: random.Random) -> None:
    content = bytearray(file.read_bytes())
    kind = rng.choice(["flip", "cut", "empty", "gone"])
    if kind == "flip" and content:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    elif kind == "cut":
        del content[rng.randrange(max(len(content), 1)) :]
    elif kind == "empty":
        content.clear()
    if kind == "gone":
        file.unlink()
    else:
        file.write_bytes(content)


def one_rank_killed(trial: Trial, rng: random.Random, took: float) -> list[str | int]:
    """The others must end by themselves, and say so."""
    children = trial.start()
    time.sleep(rng.uniform(0.1, took))
    os.kill(rng.choice(children), signal.SIGKILL)
    ends = trial.end(children, seconds=60)
    if set(ends) - {"killed", "finished", 1}:
        raise Failed(f"one rank was killed, and the others ended with {ends}: {trial.words()}")
    return [end for end in ends if end != 1]


NAN = {"dataset.nan_at": 5, "dataset.paired": 1.0, "train.on_nonfinite": "skip", "train.steps": 16}
"""An item that is not finite, in some of the batches."""

FAULTS: dict[str, tuple[Callable[..., list[str | int]], dict, int, int]] = {
    "killed at a random time": (killed_at_some_time, {}, 1, 5),
    "killed at a file event": (killed_at_a_file_event, {}, 1, 6),
    "SIGTERM or SIGINT": (told_to_stop, {}, 1, 3),
    "disk full": (disk_full, {}, 1, 4),
    "checkpoint damaged": (checkpoint_damaged, {}, 1, 4),
    "feature cache damaged": (cache_damaged, {}, 1, 2),
    "NaN, and killed": (killed_at_some_time, NAN, 1, 3),
    "rank killed": (one_rank_killed, {"train.accumulate": 4}, 2, 2),
    "SIGTERM or SIGINT to some of two ranks": (told_to_stop, {"train.accumulate": 4}, 2, 1),
}
"""By name: what happens, settings, ranks, and how often of 30."""


class Campaign:
    def __init__(self, catalog: Catalog, root: Path, seed: int):
        self.catalog, self.root, self.seed = catalog, root, seed
        self.peaceful: dict[str, tuple[str, float]] = {}

    def peace(self, sets: dict, ranks: int) -> tuple[str, float]:
        """Digest and seconds of the same run without a fault."""
        key = json.dumps([sets, ranks])
        if key not in self.peaceful:
            with self._trial(sets, ranks) as trial:
                began = time.monotonic()
                ends = trial.go()
                if set(ends) != {"finished"}:
                    raise SystemExit(f"a run without a fault ended with {ends}: {trial.words()}")
                self.peaceful[key] = trial.digest(), time.monotonic() - began
        return self.peaceful[key]

    @contextlib.contextmanager
    def _trial(self, sets: dict, ranks: int) -> Iterator[Trial]:
        folder = Path(tempfile.mkdtemp(dir=self.root))
        try:
            yield Trial(folder, self.catalog, sets, ranks)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def one(self, number: int, only: str = "", engines: Sequence[str] = ("local",)) -> tuple[str, str, int, str]:
        """Run number `number`: the fault, the back end, how often it hit, and what was wrong ("" for survived)."""
        rng, engine = random.Random(f"{self.seed}/{number}"), engines[number % len(engines)]
        names = [name for name, (*_, weight) in FAULTS.items() for _ in range(weight) if only in name]
        name = rng.choice(names)
        fault, sets, ranks, _ = FAULTS[name]
        variant, also = rng.choice(list(zip(VARIANTS, ENGINES[engine], strict=True)))
        sets = variant | also | sets
        expected, took = self.peace(sets, ranks)
        hits = 0
        with self._trial(sets, ranks) as trial:
            try:
                for _ in range(rng.choice([1, 1, 2, 3])):
                    ends = fault(trial, rng, took)
                    if not set(ends) <= ENDS:
                        raise Failed(f"ended with {ends}: {trial.words()}")
                    if set(ends) == {"finished"}:
                        break
                    hits += 1
                trial.finish()
                if trial.digest() != expected:
                    raise Failed("other bits than without a fault")
            except Failed as error:
                return name, engine, hits, str(error)
        return name, engine, hits, ""

    def run(self, numbers: range | list[int], only: str = "", engines: Sequence[str] = ("local",)) -> bool:
        """Run all, print the table; whether all survived."""
        runs, hits, lost = (Counter[tuple[str, str]]() for _ in range(3))
        began = time.monotonic()
        for number in numbers:
            name, engine, hit, wrong = self.one(number, only, engines)
            for key in ((name, engine), ("**all**", engine)):
                runs[key] += 1
                hits[key] += hit
                lost[key] += bool(wrong)
            if wrong:
                print(f"run {number} of seed {self.seed}: {name}, {engine}: {wrong}", flush=True)
        print("| fault |" + "".join(f" {engine}: runs | faults that struck | survived |" for engine in engines))
        print("|---|" + "---:|---:|---:|" * len(engines))
        for name in (*FAULTS, "**all**"):
            keys = [(name, engine) for engine in engines]
            if any(runs[key] for key in keys):
                cells = "".join(f" {runs[key]} | {hits[key]} | {runs[key] - lost[key]} |" for key in keys)
                print(f"| {name} |{cells}")
        print(f"seed {self.seed}, {(time.monotonic() - began) / 60:.1f} minutes")
        return not any(lost.values())


def known_engines() -> list[str]:
    """The back ends that are there. What DeepSpeed imports at its first use is imported here, once for all forks."""
    if importlib.util.find_spec("deepspeed") is None:
        return ["local"]
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    deepspeed = importlib.import_module("deepspeed")
    importlib.import_module("deepspeed.runtime.zero.muon.original_muon")
    deepspeed.ops.__compatible_ops__  # noqa: B018 (looked for at first use)
    return ["local", "deepspeed"]


def toy_catalog() -> Catalog:
    """The toy plugin; a first run in this process imports all that the forks need."""
    catalog = discover(enabled=False, files=[TOY])
    with tempfile.TemporaryDirectory() as folder:
        former, os.environ["GENTLE_CACHE"] = os.environ.get("GENTLE_CACHE"), f"{folder}/cache"
        run_recipe(load_recipe(RECIPE, {}, catalog), Path(folder) / "run", "never", Display(quiet=True), report=False)
        os.environ.pop("GENTLE_CACHE")
        if former is not None:
            os.environ["GENTLE_CACHE"] = former
    return catalog


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="faults whose name holds this")
    parser.add_argument("--engine", choices=list(ENGINES), help="one back end; without it they take turns")
    parser.add_argument("--only-run", type=int, help="repeat one run of this seed")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as root:
        campaign = Campaign(toy_catalog(), Path(root), args.seed)
        numbers = range(args.runs) if args.only_run is None else [args.only_run]
        known = known_engines()
        sys.exit(not campaign.run(numbers, args.only, [args.engine] if args.engine else known))


if __name__ == "__main__":
    main()
