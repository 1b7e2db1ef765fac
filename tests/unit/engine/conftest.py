"""Whole runs on the toy plugin, in a folder of their own."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gentle_core.catalog import Catalog
from gentle_core.engine.progress import Display
from gentle_core.engine.run import RunResult, run_recipe
from gentle_core.plugins import discover
from gentle_core.recipe import load_recipe

TOY = Path(__file__).parents[2] / "toy.py"

RECIPE = {
    "dataset": {"use": "toy/points", "paired": 0.5},
    "towers": {
        "a": {
            "modality": "toy-a",
            "encoder": {"use": "toy/mlp-a", "dropout": 0.1},
            "head": {"dimension": 8, "hidden": 16},
            "augment": [{"use": "toy/noise"}],
        },
        "b": {
            "modality": "toy-b",
            "encoder": {"use": "toy/mlp-b", "freeze": True},
            "head": {"dimension": 8, "hidden": 16},
        },
    },
    "train": {"steps": 8, "batch_size": 8, "evaluate_every": 4, "log_every": 1},
    "baseline": {"cca": False},
}


@pytest.fixture(scope="session")
def toy_catalog() -> Catalog:
    return discover(files=[TOY])


@pytest.fixture
def toy_run(toy_catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., RunResult]:
    """`toy_run("name", {"train.steps": 4}, resume="auto")` runs the toy recipe into tmp_path/name."""
    monkeypatch.setenv("GENTLE_CACHE", str(tmp_path / "cache"))
    assert os.environ["GENTLE_CACHE"]

    def run(name: str, sets: dict[str, Any] | None = None, resume: str = "never", recipe: Any = None) -> RunResult:
        resolved = load_recipe(RECIPE if recipe is None else recipe, sets or {}, toy_catalog)
        return run_recipe(resolved, tmp_path / name, resume, Display(quiet=True))

    return run
