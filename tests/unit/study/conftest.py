"""Studies on the toy plugin."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import tomli_w

from gentle_core.catalog import Catalog
from gentle_core.plugins import discover
from gentle_core.study.model import read_study
from gentle_core.study.plan import Plan, make_plan

TOY = Path(__file__).parents[2] / "toy.py"

RECIPE = {
    "dataset": {"use": "toy/points"},
    "towers": {
        name: {
            "modality": f"toy-{name}",
            "encoder": {"use": f"toy/mlp-{name}", "freeze": True},
            "head": {"dimension": 8, "hidden": 16},
        }
        for name in ("a", "b")
    },
    "train": {"steps": 6, "paired_rows": 6, "unpaired_rows": 4, "log_every": 0},
}

STUDY = """
    recipe = "toy.toml"
    paired = [12, 0.5]
    seeds = 2
    [methods.clip]
    label = "CLIP"
    settings.objective = { use = "core/clip" }
    search."train.learning_rate" = [1e-9, 1e-2]
    [methods.gentle]
    settings.objective.eta = 3.0
"""


@pytest.fixture(scope="session")
def toy_catalog() -> Catalog:
    return discover(files=[TOY])


@pytest.fixture
def write_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """`write_study(text)` writes a study beside the toy recipe and returns its path."""
    monkeypatch.setenv("GENTLE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "toy.toml").write_text(tomli_w.dumps(RECIPE))

    def write(text: str = STUDY) -> Path:
        path = tmp_path / "study.toml"
        path.write_text(textwrap.dedent(text))
        return path

    return write


@pytest.fixture
def plan_of(write_study: Callable[..., Path], toy_catalog: Catalog) -> Callable[..., Plan]:
    return lambda text=STUDY: make_plan(read_study(write_study(text)), toy_catalog)
