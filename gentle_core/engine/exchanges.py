"""DeepSpeed's own exchanges, put on the clock of those that it knows nothing of."""

from __future__ import annotations

import functools
from typing import Any

from gentle_core.losses.talk import TALK

EXCHANGES = (
    "all_reduce", "all_reduce_coalesced", "inference_all_reduce", "reduce", "reduce_scatter", "reduce_scatter_tensor",
    "broadcast", "all_gather", "all_gather_into_tensor", "all_gather_coalesced", "all_to_all", "all_to_all_single",
    "barrier",
)  # fmt: skip
"""Methods of DeepSpeed's `TorchBackend` through which everything goes that its engine sends."""


class _Waiting:
    """What an asynchronous exchange returns; waiting for it counts."""

    def __init__(self, work: Any):
        self._work = work

    def wait(self, *given: Any, **named: Any) -> Any:
        with TALK.timed():
            return self._work.wait(*given, **named)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._work, name)


def time_exchanges(backend: Any) -> None:
    """Let a communication back end of DeepSpeed count its time. Again on the same one changes nothing."""
    for name in EXCHANGES:
        plain = getattr(backend, name, None)
        if plain is not None and not isinstance(plain, functools.partial):
            setattr(backend, name, functools.partial(_timed, plain))


def _timed(exchange: Any, *given: Any, **named: Any) -> Any:
    with TALK.timed():
        work = exchange(*given, **named)
    return _Waiting(work) if hasattr(work, "wait") else work
