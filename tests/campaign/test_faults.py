"""A small campaign; `python tests/campaign/faults.py` is the whole one."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import faults

sys.path.pop(0)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="looks into /proc")
def test_thirty_runs_survive_their_faults(tmp_path, capsys):
    torch.set_num_threads(1)  # a fork has no other threads
    campaign = faults.Campaign(faults.toy_catalog(), tmp_path, seed=1)
    assert campaign.run(range(30), engines=faults.known_engines()), capsys.readouterr().out


def test_a_run_that_has_not_survived_is_seen(tmp_path, monkeypatch, capsys):
    """The campaign's own eye: other bits and wrong ends count as lost."""
    campaign = faults.Campaign(None, tmp_path, seed=1)
    monkeypatch.setattr(campaign, "peace", lambda sets, ranks: ("expected", 1.0))
    ends = iter([["finished"], ["finished"], [70]])
    monkeypatch.setattr(faults, "FAULTS", {"nothing": (lambda trial, rng, took: next(ends), {}, 1, 1)})
    monkeypatch.setattr(faults.Trial, "finish", lambda self: None)
    digests = iter(["expected", "other"])
    monkeypatch.setattr(faults.Trial, "digest", lambda self: next(digests))
    assert not campaign.run(range(3))
    said = capsys.readouterr().out
    assert "other bits" in said and "ended with [70]" in said and "| **all** | 3 | 0 | 1 |" in said
