"""The kit sees each seeded fault: every component of kit_broken fails exactly the checks that its fault must trip."""

from __future__ import annotations

from pathlib import Path

import pytest

from gentle_core.catalog import Entry
from gentle_core.plugins import discover
from gentle_core.testing.bench import Bench
from gentle_core.testing.cases import CHECKS, expected
from gentle_core.testing.suite import run

HERE = Path(__file__).parent

FAULTS = {
    "modality:silent": "summary",
    "encoder:builds-no-module": "builds",
    "encoder:builds-no-width": "builds",
    "encoder:builds-fails": "builds",
    "encoder:offline": "offline",
    "encoder:collate-random": "collate eval",
    "encoder:collate-mutates": "collate",
    "encoder:collate-lists": "collate",
    "encoder:size": "size",
    "encoder:shape-width": "shape",
    "encoder:shape-squeeze": "shape batch padding",
    "encoder:finite": "finite autocast gradient",
    "encoder:finite-constant": "finite",
    "encoder:padding": "padding batch",
    "encoder:batch-mean": "batch padding",
    "encoder:batch-order": "batch padding",
    "encoder:eval": "eval autocast batch padding saved",
    "encoder:frozen-counter": "frozen",
    "encoder:frozen-train": "frozen",
    "encoder:fingerprint-constant": "fingerprint",
    "encoder:fingerprint-random": "fingerprint",
    "encoder:state": "state",
    "encoder:gradient-detached": "gradient",
    "encoder:gradient-nan": "gradient",
    "encoder:saved": "saved",
    "encoder:saved-weights": "saved",
    "encoder:seed": "seed fingerprint",
    "encoder:autocast": "autocast",
    "encoder:facts": "facts",
    "encoder:items": "items",
    "encoder:parameters": "parameters",
    "encoder:summary": "summary",
    "encoder:documented": "documented",
    "encoder:licence": "licence",
    "encoder:options-taken": "options",
    "encoder:options-untyped": "options",
    "encoder:options-doubling": "options",
    "encoder:options-example": "options builds",
    "encoder:options-example-fails": "options builds",
    "encoder:target": "target builds",
    "encoder:deviations-unknown": "deviations",
    "encoder:deviations-stale": "padding",
    "augmentation:aug-builds": "builds",
    "augmentation:seeded-global": "seeded",
    "augmentation:seeded-state": "seeded",
    "augmentation:untouched": "untouched varies",
    "augmentation:varies": "varies",
    "augmentation:pairing-kind": "pairing readable",
    "augmentation:pairing-draws": "pairing",
    "augmentation:readable-shape": "readable",
    "augmentation:readable-nan": "readable",
    "augmentation:by-row": "by-row",
    "loss:builds": "builds",
    "loss:value-vector": "value",
    "loss:value-terms": "value",
    "loss:value-graph": "value",
    "loss:gradient": "gradient",
    "loss:precision": "precision extremes",
    "loss:permutation": "permutation",
    "loss:counts": "counts extremes precision ranks tiles",
    "loss:few-nan": "few",
    "loss:few-empty": "few",
    "loss:extremes": "extremes",
    "loss:repeatable-random": "repeatable gradient permutation precision ranks saved tiles",
    "loss:repeatable-mutates": "repeatable",
    "loss:evaluation": "evaluation",
    "loss:towers": "towers",
    "loss:dimensions": "dimensions",
    "loss:tiles": "tiles ranks",
    "loss:memory": "memory",
    "loss:ranks-mean": "ranks",
    "loss:ranks-share": "ranks",
    "loss:groups-forgets": "groups",
    "loss:groups-twice": "groups",
    "loss:saved": "saved",
    "loss:scorer": "scorer",
    "dataset:dataset-builds": "builds",
    "dataset:dataset-offline": "offline",
    "dataset:index-undeclared": "index",
    "dataset:index-empty": "index",
    "dataset:index-kind": "index",
    "dataset:stable": "stable",
    "dataset:splits": "splits",
    "dataset:load-order": "load",
    "dataset:load-count": "load",
    "dataset:resumable-pickle": "resumable",
    "dataset:resumable-state": "resumable",
    "dataset:bad-id": "bad-input",
    "dataset:bad-modality": "bad-input",
    "dataset:bad-path": "bad-input",
    "dataset:facts-json": "facts",
    "dataset:facts-shortcut": "facts",
    "dataset:dataset-items": "items",
    "task:task-builds": "builds",
    "task:figures-nan": "figures",
    "task:figures-facts": "figures",
    "task:task-repeatable": "repeatable",
    "teacher:teacher-builds": "builds",
    "teacher:rows-missing": "rows",
    "teacher:rows-count": "rows",
    "teacher:rows-norm": "rows",
    "teacher:rows-width": "rows",
    "teacher:luck": "repeatable",
    "teacher:forgetful": "state",
}
"""The checks that each faulty component fails: first the one that is meant for its fault."""

ELSEWHERE = {("component", "citation")}
"""What no single-file plugin can fail: see test_plugin_checks.py, as for checks of whole plugins."""


def make_bench() -> Bench:
    catalog = discover(enabled=False, files=[HERE / "kit_sound.py", HERE / "kit_broken.py"])
    assert not catalog.problems, catalog.problems
    return Bench("kit_broken", catalog=catalog)


BENCH = make_bench()
CASES = BENCH.cases()
REASONS = expected(CASES, {})
COMPONENTS = {f"{entry.kind}:{entry.name}": entry for entry in BENCH.entries}


@pytest.mark.parametrize("name", FAULTS)
def test_the_kit_sees_it(name: str) -> None:
    entry: Entry = COMPONENTS[name]
    outcomes = [run(BENCH, case, REASONS.get(case.id)) for case in CASES if case.entry is entry]
    failed = {outcome.case.check.name: outcome.message for outcome in outcomes if outcome.state == "failed"}
    assert set(failed) == set(FAULTS[name].split()), failed
    for message in failed.values():
        what, advice, *_ = message.split("\n  what to do: ")
        assert len(what) > 10 and len(advice) > 8, message


def test_every_fault_is_looked_at() -> None:
    assert {name for name in COMPONENTS if not name.startswith("modality:strip") and name != "modality:odd"} == set(
        FAULTS
    )


def test_every_check_is_seen_to_fail() -> None:
    seen = {(name.split(":")[0], faults.split()[0]) for name, faults in FAULTS.items()}
    seen |= {("component", check) for _, check in seen}
    missing = {(c.kind, c.name) for c in CHECKS if c.kind != "plugin"} - seen - ELSEWHERE
    assert not missing, f"no faulty component shows that these checks fail: {missing}"
