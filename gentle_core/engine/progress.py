"""What a person sees while a run goes on: a live bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


def short(value: float) -> str:
    """A number in few characters."""
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


class Display:
    """Messages and one progress bar at a time; in plain mode a line at most every `interval` seconds."""

    def __init__(self, console: Console | None = None, interval: float = 5.0, quiet: bool = False):
        self.console = console or Console(stderr=True, highlight=False)
        self.interval, self.quiet = interval, quiet
        self._bar: Progress | None = None
        self._task: Any = None
        self._name, self._total, self._first, self._began, self._said = "", 0, 0, 0.0, 0.0

    def say(self, message: str) -> None:
        if not self.quiet:
            self.console.print(message, markup=False, soft_wrap=True)

    def warn(self, message: str) -> None:
        """A fact that must not be missed."""
        if not self.quiet:
            self.console.print(f"note: {message}", markup=False, soft_wrap=True, style="bold yellow")

    def start(self, name: str, total: int, done: int = 0) -> None:
        self._name, self._total = name, total
        self._began = self._said = time.monotonic()
        self._first = done
        if self.console.is_terminal and not self.quiet:
            self._bar = Progress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                TimeRemainingColumn(), TextColumn("{task.fields[detail]}"), console=self.console,
            )  # fmt: skip
            self._bar.start()
            self._task = self._bar.add_task(name, total=total, completed=done, detail="")

    def advance(self, done: int, values: Mapping[str, float] | None = None) -> None:
        """`done` of the total are finished; `values` are shown beside."""
        if self.quiet:
            return
        detail = "  ".join(f"{key} {short(value)}" for key, value in (values or {}).items())
        if self._bar is not None:
            self._bar.update(self._task, completed=done)
            if values is not None:
                self._bar.update(self._task, detail=detail)
            return
        now = time.monotonic()
        if now - self._said >= self.interval or (done >= self._total and now - self._began >= 1.0):
            self._said = now
            left = (now - self._began) / max(done - self._first, 1) * (self._total - done)
            self.say(f"{self._name} {done}/{self._total}  {detail}  {left:.0f} s left".replace("    ", "  "))

    @contextlib.contextmanager
    def aside(self, message: str) -> Iterator[None]:
        """Between two steps, something else that takes its time: what is left is not judged by it."""
        self.say(message)
        began = time.monotonic()
        try:
            yield
        finally:
            passed = time.monotonic() - began
            self._began, self._said = self._began + passed, self._said + passed

    def stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
