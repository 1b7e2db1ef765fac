"""The run directory: what it holds, and how each file gets there whole."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import gentle_core
from gentle_core.engine.checkpoint import replace_durably
from gentle_core.errors import CheckpointError, GentleError


class RunDirectory:
    """Files of one run: recipe.toml, resolved.toml, manifest.json, metrics.jsonl, results.json, checkpoints/, model/,
    embeddings/, baselines/, report.html.

    Args:
        writes: False on the ranks that leave writing to rank 0: what they are given to write is dropped.
    """

    def __init__(self, path: Path, writes: bool = True):
        self.path, self.writes = path, writes
        self.manifest: dict[str, Any] = {}
        self._metrics: Any = None

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        return self.path / "model"

    def exists(self) -> bool:
        return (self.path / "resolved.toml").exists()

    def worth_keeping(self) -> bool:
        """Whether a run got far enough here to leave a checkpoint or metrics."""
        return any(self.checkpoints.glob("step-*")) or (self.path / "metrics.jsonl").exists()

    def create(self, source: str, resolved: str) -> None:
        """Make the folder and keep the recipe as given and as resolved."""
        if not self.writes:
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise GentleError(f"cannot create {self.path}: {error.strerror or error}; choose another --out") from error
        replace_durably(self.path / "recipe.toml", source.encode())
        replace_durably(self.path / "resolved.toml", resolved.encode())

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        if self.writes:
            replace_durably(self.path / name, (json.dumps(content, indent=1, default=_plain) + "\n").encode())

    def read_json(self, name: str) -> dict[str, Any]:
        try:
            return json.loads((self.path / name).read_text())
        except (OSError, ValueError):
            return {}

    def update_manifest(self, **facts: Any) -> None:
        self.manifest.update(facts)
        self.write_json("manifest.json", self.manifest)

    def notice(self, message: str) -> None:
        """Keep a fact that the user must know, once."""
        notices = self.manifest.setdefault("notices", [])
        if message not in notices:
            notices.append(message)
            self.write_json("manifest.json", self.manifest)

    def truncate_metrics(self, step: int) -> None:
        """Forget metrics beyond `step` and final evaluations: a resumed run writes them again. So it does with the
        steps that were not finite, which are numbered by what was done before them."""
        for name, last in (("metrics.jsonl", step), ("nonfinite.jsonl", step - 1)):
            path = self.path / name
            if self.writes and path.exists():
                lines = [line for line in path.read_text().splitlines() if _belongs_before(line, last)]
                replace_durably(path, "".join(line + "\n" for line in lines).encode())

    def log(self, step: int, split: str, values: Mapping[str, Any]) -> None:
        """Append one line to metrics.jsonl."""
        if not self.writes:
            return
        record = {"step": step, "split": split, **values}
        with _can_write(self.path / "metrics.jsonl") as path:
            if self._metrics is None:
                self._metrics = open(path, "a")  # noqa: SIM115 - closed by close()
            self._metrics.write(json.dumps(record, default=_plain) + "\n")
            self._metrics.flush()

    def append_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Append one line to a file of JSON lines, and flush it to the disk."""
        if not self.writes:
            return
        with _can_write(self.path / name) as path, open(path, "a") as file:
            file.write(json.dumps(content, default=_plain) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def close(self) -> None:
        if self._metrics is not None:
            with contextlib.suppress(OSError):  # a line that found no room, and was complained of then
                self._metrics.close()
            self._metrics = None


@contextlib.contextmanager
def _can_write(path: Path) -> Iterator[Path]:
    try:
        yield path
    except OSError as error:
        raise CheckpointError(
            f"cannot write {path}: {error.strerror or error}; make room and go on with --resume auto"
        ) from error


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    return str(value)


def _belongs_before(line: str, step: int) -> bool:
    try:
        record = json.loads(line)
        return int(record["step"]) <= step and not record.get("final")
    except (ValueError, KeyError, TypeError, AttributeError):
        return False  # a torn last line


def environment(plugins: Mapping[str, str]) -> dict[str, Any]:
    """Versions, host and git state, for the manifest."""
    names = ("torch", "numpy", "transformers", "attrs", "cattrs", "pluggy", "safetensors", "scikit-learn")
    versions = {"python": platform.python_version()}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "gentle": gentle_core.__version__,
        "plugins": dict(plugins),
        "versions": versions,
        "host": {"system": platform.platform(), "machine": platform.machine()},
        "git": _git_state(),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def _git_state() -> dict[str, Any] | None:
    """Commit and cleanliness of the working folder, where it is a git checkout."""

    def ask(*words: str) -> str:
        return subprocess.run(["git", *words], capture_output=True, text=True, timeout=5, check=True).stdout.strip()

    try:
        return {"commit": ask("rev-parse", "HEAD"), "changed": bool(ask("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None
