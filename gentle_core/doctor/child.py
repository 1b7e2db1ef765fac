"""Code tried in an interpreter of its own, since it may crash, hang or print."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import Any

import attrs


@attrs.frozen
class Child:
    """How a child process ended.

    Attributes:
        code: its exit code, negative for a signal; None where it had to be stopped.
        out, err: what it printed.
    """

    code: int | None
    out: str
    err: str

    def alive(self, word: str) -> bool:
        """Whether it came to the end, where it prints `word`."""
        return self.code == 0 and word in self.out

    @property
    def ended(self) -> str:
        if self.code is None:
            return "it does not end"
        if self.code < 0:
            try:
                return f"signal {signal.Signals(-self.code).name}"
            except ValueError:
                return f"signal {-self.code}"
        last = self.err.strip().splitlines()
        return f"exit code {self.code}" + (f", {last[-1][:200]}" if last else "")

    def result(self) -> Any:
        """The JSON on the last line, or None."""
        try:
            return json.loads(self.out.strip().splitlines()[-1]) if self.code == 0 else None
        except (ValueError, IndexError):
            return None


def in_child(code: str, seconds: float) -> Child:
    """Run `code` with the interpreter and the paths of this process."""
    paths = os.pathsep.join(path for path in sys.path if path)
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, errors="replace", timeout=seconds,
            stdin=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": paths},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Child(None, "", "")
    return Child(done.returncode, done.stdout, done.stderr)
