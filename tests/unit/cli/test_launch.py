"""`gentle launch` as a supervisor of any processes."""

from __future__ import annotations

import sys
import time

import pytest

from gentle_core.cli import launch


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_killed_ends_one_that_would_wait_for_ever(monkeypatch, capsys, rank):
    monkeypatch.setattr(launch, "GRACE", 0.5)
    code = f"""
import os, signal, time
if os.environ["RANK"] == "{rank}":
    os.kill(os.getpid(), signal.SIGKILL)
time.sleep(1000)
"""
    began = time.monotonic()
    assert launch.supervise([sys.executable, "-c", code], 2) == 128 + 9
    assert time.monotonic() - began < 30
    assert f"rank {rank} was ended by SIGKILL" in capsys.readouterr().err


def test_the_first_that_failed_gives_the_exit_code():
    code = "import os, sys, time; r = int(os.environ['RANK']); time.sleep(2 - 2 * r); sys.exit(6 + r)"
    assert launch.supervise([sys.executable, "-c", code], 2) == 7
