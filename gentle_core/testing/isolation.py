"""What a check runs in: no network, random states that are put back."""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Iterator
from typing import Any

_LOCAL = {"localhost", "127.0.0.1", "::1"}


class NetworkBlocked(ConnectionError):
    """Raised in place of a connection."""


@contextlib.contextmanager
def no_network() -> Iterator[list[str]]:
    """Refuse connections to other machines inside the block; the list names the hosts that were asked for.

    A library that falls back on a local copy after the refusal has still asked.
    """
    asked: list[str] = []
    connect, connect_ex, resolve = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo

    def refuse(host: Any) -> None:
        name = host.decode() if isinstance(host, bytes) else str(host)
        if name not in _LOCAL:
            asked.append(name)
            raise NetworkBlocked(f"the conformance kit lets nothing connect to {name}")

    def guarded(original: Any) -> Any:
        def call(self: socket.socket, address: Any) -> Any:
            if self.family in (socket.AF_INET, socket.AF_INET6):
                refuse(address[0])
            return original(self, address)

        return call

    def guarded_resolve(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host is not None:
            refuse(host)
        return resolve(host, *args, **kwargs)

    patched: Any = socket
    patched.socket.connect, patched.socket.connect_ex = guarded(connect), guarded(connect_ex)
    patched.getaddrinfo = guarded_resolve
    try:
        yield asked
    finally:
        patched.socket.connect, patched.socket.connect_ex = connect, connect_ex
        patched.getaddrinfo = resolve


@contextlib.contextmanager
def random_states(seed: int = 0) -> Iterator[None]:
    """Seed Python's, numpy's and torch's generators inside the block, and put back what they were."""
    import numpy as np
    import torch

    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
