"""A plugin without a fault passes every check, and none is skipped but what it cannot have."""

from __future__ import annotations

from pathlib import Path

import pytest

from gentle_core.plugins import discover
from gentle_core.testing.bench import Bench
from gentle_core.testing.suite import run

FILE = Path(__file__).with_name("kit_sound.py")


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench("kit_sound", catalog=discover(enabled=False, files=[FILE]))


def test_everything_passes(bench: Bench) -> None:
    outcomes = [run(bench, case) for case in bench.cases()]
    assert {o.case.id: o.message for o in outcomes if o.state not in ("passed", "skipped")} == {}
    skipped = {outcome.case.id for outcome in outcomes if outcome.state == "skipped"}
    assert skipped == {"plugin:kit_sound:metadata", "augmentation:kit_sound/hide:readable"}
    assert {case.entry.kind for case in bench.cases() if case.entry} == {
        "modality", "encoder", "augmentation", "loss", "dataset", "task", "teacher"
    }  # fmt: skip
