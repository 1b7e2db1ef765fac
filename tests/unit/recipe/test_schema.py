"""The JSON schema accepts what loads and refuses what does not."""

from __future__ import annotations

import copy
import json
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from gentle_core.cli import invoke
from gentle_core.errors import RecipeError
from gentle_core.plugins import discover
from gentle_core.recipe import load_recipe
from gentle_core.recipe.schema import recipe_schema

ROOT = Path(__file__).parents[3]
CATALOG = discover()
SCHEMA = recipe_schema(CATALOG)
VALIDATOR = jsonschema.Draft7Validator(SCHEMA)

RECIPE = tomllib.loads("""
dataset = { use = "protein/pdb-sample", train = 10, paired = 0.5 }
train = { steps = 5, batch_size = 8 }
objective = { use = "core/gentle", eta = { start = 0.0, end = 1.0 } }
[towers.left]
modality = "protein-sequence"
encoder = { use = "esm2", model = "esm2_pdb_small", freeze = true }
augment = [{ use = "protein/residue-dropout", p = 0.2 }]
[towers.right]
modality = "protein-structure"
encoder = { use = "protein/cdconv" }
head = { dimension = 128 }
""")


def changed(path: str, value: Any) -> dict[str, Any]:
    """The recipe with another value at a dotted path; None removes it."""
    recipe = copy.deepcopy(RECIPE)
    table: Any = recipe
    *way, last = path.split(".")
    for part in way:
        table = table[int(part)] if part.isdecimal() else table.setdefault(part, {})
    if value is None:
        del table[last]
    else:
        table[last] = value
    return recipe


def loads(recipe: dict[str, Any]) -> bool:
    try:
        load_recipe(recipe, catalog=CATALOG)
    except RecipeError:
        return False
    return True


def test_it_is_a_schema() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").rglob("*.toml")), ids=lambda path: path.name)
def test_shipped_recipes(recipe: Path) -> None:
    VALIDATOR.validate(tomllib.loads(recipe.read_text()))
    VALIDATOR.validate(tomllib.loads(load_recipe(recipe, catalog=CATALOG).to_toml()))


GOOD = [
    ("train.steps", 7), ("train.learning_rate", 1), ("objective.use", "gentle"), ("objective", None),
    ("towers.left.encoder.use", "protein/esm2"), ("towers.left.augment", None), ("name", "x"), ("plugins", ["a"]),
    ("dataset.pool", "disjoint"), ("towers.right.encoder.channels", [8, 16, 32]), ("engine.device", "cpu"),
    ("objective.mmd", {"weights": [0.5, 0.5]}), ("dataset.unpaired", [0.5, {"use": "protein/pdb-sample"}]),
]  # fmt: skip
BAD = [
    ("train.stpes", 1), ("train.steps", "5"), ("train.steps", 0), ("train.steps", None), ("train.steps", True),
    ("train.learning_rate", -1.0), ("train.precision", "float8"), ("dataset.use", "protein/pdb-simple"),
    ("dataset.use", None), ("dataset", None), ("towers", None), ("train", None), ("dataset.train", 1.5),
    ("dataset.train", -1), ("dataset.pool", "shufled"), ("towers.left.modality", "protein-sequense"),
    ("towers.left.modality", None), ("towers.left.encoder", None), ("towers.left.encoder.use", "protein/cdconv"),
    ("towers.left.encoder.modell", "x"), ("towers.left.encoder.freeze", "no"), ("towers.left.augment.0.p", 2.0),
    ("towers.left.augment.0.use", "protein/random-rotation"), ("towers.left.augment.0.q", 2.0),
    ("objective.eta", "big"), ("objective.eta", {"start": 0.0}), ("objective.eta", {"end": 0.0, "stop": 1}),
    ("objective.use", "core/gentel"), ("objective.pairs", [["left"]]), ("towers.right.head.dimension", 0),
    ("towers.right.encoder.preset", "smal"), ("objektive", {}), ("evaluate.splits", "test"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value"), GOOD, ids=str)
def test_it_accepts_what_loads(path: str, value: Any) -> None:
    recipe = changed(path, value)
    if path != "plugins":
        assert loads(recipe)
    VALIDATOR.validate(recipe)


@pytest.mark.parametrize(("path", "value"), BAD, ids=str)
def test_it_refuses_what_does_not(path: str, value: Any) -> None:
    recipe = changed(path, value)
    assert not loads(recipe)
    assert not VALIDATOR.is_valid(recipe)


def test_a_file_that_extends_another_may_leave_out_anything() -> None:
    VALIDATOR.validate({"extends": "base.toml", "train": {"steps": 5}})
    VALIDATOR.validate({"extends": ["base.toml"], "towers": {"left": {"encoder": {"model": "t6_8M"}}}})
    assert not VALIDATOR.is_valid({"extends": "base.toml", "train": {"stpes": 5}})


def test_it_shows_texts_and_defaults() -> None:
    model = SCHEMA["definitions"]["encoder.protein.esm2"]["properties"]["model"]
    assert "a released size" in model["description"] and model["type"] == "string" and model["default"]
    dataset = SCHEMA["definitions"]["dataset.protein.pdb-sample"]["properties"]
    assert dataset["train"]["minimum"] == 0 and "how many chains" in dataset["train"]["description"]
    assert "share (0.0–1.0) or count" in dataset["paired"]["description"]


def test_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert invoke(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == SCHEMA
    assert invoke(["schema", "--out", str(tmp_path / "recipe.schema.json")]) == 0
    assert "#:schema ./recipe.schema.json" in capsys.readouterr().out
    assert json.loads((tmp_path / "recipe.schema.json").read_text()) == SCHEMA
    line = "#:schema ./recipe.schema.json\n"
    assert load_recipe(line + load_recipe(RECIPE, catalog=CATALOG).to_toml(), catalog=CATALOG).recipe
