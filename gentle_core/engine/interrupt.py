"""SIGINT and SIGTERM: a flag that the training loop reads between two steps, an orderly end elsewhere.

A second Ctrl-C quits at once.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from gentle_core.errors import Stopped


class InterruptFlag:
    """Context manager: while it is active, `name` holds the signal that asked the run to stop ("" when none did).

    A signal raises `Stopped` unless it comes within `patiently`.
    """

    def __init__(self) -> None:
        self.name = ""
        self._patient = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> InterruptFlag:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    @contextlib.contextmanager
    def patiently(self) -> Iterator[InterruptFlag]:
        """While whoever is inside looks at `name` often enough. What they overlooked stops the run afterwards."""
        self._patient = True
        try:
            yield self
        finally:
            self._patient = False
        if self.name:
            raise self._stopped()

    def number(self) -> int:
        """The signal's number; 0 when none came."""
        return signal.Signals[self.name].value if self.name else 0

    def _stopped(self) -> Stopped:
        return Stopped(f"{self.name}: stopped; what was finished is kept, the same command with --resume auto goes on")

    def _receive(self, number: int, _: FrameType | None) -> None:
        if self.name and number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            raise KeyboardInterrupt
        first, self.name = not self.name, self.name or signal.Signals(number).name
        if first and not self._patient:
            raise self._stopped()
