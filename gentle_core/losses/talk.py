"""How long this process has been busy with exchanges between ranks, waiting for the others included."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator


class Talk:
    """A clock that runs while ranks talk. An exchange within another counts once.

    What it measures is the time of the thread that asks. On CUDA that is the whole exchange only where the thread
    waits for it; a collective that NCCL works off later costs here what it takes to ask for it.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._depth = 0

    @contextlib.contextmanager
    def timed(self) -> Iterator[None]:
        began, self._depth = time.perf_counter(), self._depth + 1
        try:
            yield
        finally:
            self._depth -= 1
            if not self._depth:
                self.seconds += time.perf_counter() - began


TALK = Talk()
"""Of this process."""
