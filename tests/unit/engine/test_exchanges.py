"""The clock of exchanges between ranks."""

from __future__ import annotations

import pytest

from gentle_core.engine.exchanges import time_exchanges
from gentle_core.losses import talk
from gentle_core.losses.talk import TALK, Talk


class Clock:
    now = 0.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    found = Clock()
    monkeypatch.setattr(talk, "time", found)
    return found


def test_an_exchange_within_another_counts_once(clock):
    found = Talk()
    with found.timed():
        clock.now += 1
        with found.timed():
            clock.now += 2
    assert found.seconds == 3
    clock.now += 10
    with pytest.raises(ValueError), found.timed():
        clock.now += 4
        raise ValueError
    with found.timed():
        clock.now += 5
    assert found.seconds == 12


def test_what_deepspeed_sends_is_on_the_clock_and_works_as_before(clock):
    class Work:
        done = True

        def wait(self):
            clock.now += 3
            return "waited"

    class Backend:
        def all_reduce(self, tensor, async_op=False):
            clock.now += 2
            return Work() if async_op else None

        def get_rank(self):
            clock.now += 100

    backend, before = Backend(), TALK.seconds
    time_exchanges(backend)
    time_exchanges(backend)
    assert backend.all_reduce(1.0) is None
    backend.get_rank()
    work = backend.all_reduce(1.0, async_op=True)
    assert TALK.seconds - before == pytest.approx(4) and work.done
    assert work.wait() == "waited" and TALK.seconds - before == pytest.approx(7)
