"""The reference page shows a recipe with every key, and it holds."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import attrs
import pytest

from gentle_core.recipe import model

PAGE = (Path(__file__).parents[3] / "docs" / "reference" / "recipes.md").read_text()
SHOWN = tomllib.loads(re.search(r"```toml\n(.*?)```", PAGE, re.DOTALL)[1])  # type: ignore[index]
TOWER = SHOWN["towers"]["sequence"]
TABLES = {
    model.Recipe: SHOWN,
    model.DatasetTable: SHOWN["dataset"],
    model.TowerTable: TOWER,
    model.EncoderTable: TOWER["encoder"],
    model.HeadTable: TOWER["head"],
    model.ObjectiveTable: SHOWN["objective"],
    model.PseudoTable: SHOWN["pseudo"],
    model.TrainTable: SHOWN["train"],
    model.EngineTable: SHOWN["engine"],
    model.EvaluateTable: SHOWN["evaluate"],
    model.BaselineTable: SHOWN["baseline"],
    model.ReportTable: SHOWN["report"],
}
NOT_DEFAULTS = {"use", "steps", "paired_rows", "unpaired_rows", "learning_rate", "augment"}


@pytest.mark.parametrize("table", TABLES, ids=lambda t: t.__name__)
def test_every_key_is_shown_with_its_default(table: type) -> None:
    shown: dict[str, Any] = TABLES[table]
    for field in attrs.fields(table):
        if field.name in ("options", "config"):
            continue
        assert field.name in shown or f"{field.name} = " in PAGE, f"{table.__name__}.{field.name} is not documented"
        value = shown.get(field.name)
        plain = isinstance(value, (int, float, str)) and field.default is not attrs.NOTHING
        if plain and (table, field.name) != (model.EncoderTable, "learning_rate") and field.name not in NOT_DEFAULTS:
            assert value == field.default, f"{table.__name__}.{field.name}"
    strangers = set(shown) - {f.name for f in attrs.fields(table)} - {"extends"}
    assert not strangers, f"{strangers} are no keys of {table.__name__}"
