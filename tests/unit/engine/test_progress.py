from __future__ import annotations

import io

import pytest
from rich.console import Console

from gentle_core.engine import progress
from gentle_core.engine.progress import Display


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still unless it is moved."""

    class Clock:
        now = 100.0

    monkeypatch.setattr(progress.time, "monotonic", lambda: Clock.now)
    return Clock


def test_what_is_left_is_judged_by_steps_alone(clock):
    out = io.StringIO()
    display = Display(Console(file=out, width=200))
    display.start("run", 10)
    with display.aside("asking the teacher"):
        clock.now += 600
    for step in range(1, 4):
        clock.now += 3
        display.advance(step, {"loss": 0.5})
    assert out.getvalue().splitlines() == ["asking the teacher", "run 2/10  loss 0.5  24 s left"]


def test_nothing_is_said_in_quiet(clock):
    out = io.StringIO()
    display = Display(Console(file=out), quiet=True)
    display.start("run", 1)
    with display.aside("asking the teacher"):
        clock.now += 600
    display.advance(1)
    display.stop()
    assert not out.getvalue()
