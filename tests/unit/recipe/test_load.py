"""Whole recipes: resolved to full names, every default and back; wrong ones with all that is wrong, line by line."""

from __future__ import annotations

import copy
import datetime
import random
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import tomli_w

from gentle_core.builtin import GentleConfig
from gentle_core.catalog import Catalog
from gentle_core.errors import RecipeError
from gentle_core.recipe import (
    Component,
    DatasetTable,
    EncoderTable,
    ObjectiveTable,
    Recipe,
    TowerTable,
    TrainTable,
    derive,
    differences,
    free_directory,
    load_recipe,
)
from gentle_core.recipe.load import component_config, load_component
from gentle_core.schedule import Schedule

TOY = Path(__file__).with_name("toy.toml").read_text()


def problems(catalog: Catalog, recipe: object, *sets: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load_recipe(recipe, sets, catalog)  # type: ignore[arg-type]
    assert all("\n" not in problem for problem in caught.value.problems)
    return caught.value.problems


def changed(path: Path, *changes: tuple[str, str]) -> Path:
    """The recipe with pieces of its text replaced."""
    text = path.read_text()
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path.write_text(text)
    return path


def test_resolved_recipe_has_full_names_defaults_and_configs(catalog: Catalog, recipe_file: Path) -> None:
    resolved = load_recipe(recipe_file, catalog=catalog)
    recipe = resolved.recipe
    assert recipe.objective.use == "core/gentle"
    assert isinstance(recipe.objective.config, GentleConfig)
    assert recipe.towers["left"].encoder.config.width == 8
    assert recipe.towers["left"].encoder.options["rate"] == 0.5
    assert recipe.towers["right"].augment[0].config.p == 0.1
    assert recipe.train.learning_rate == 1e-3
    assert resolved.path == recipe_file and resolved.source_text == recipe_file.read_text()
    assert resolved.warnings == ()


def test_round_trip(catalog: Catalog, recipe_file: Path, tmp_path: Path) -> None:
    sets = ["objective.eta={ start = 0, end = 2, shape = 'step' }", "towers.left.encoder.folder=data"]
    resolved = load_recipe(recipe_file, sets, catalog)
    written = resolved.to_toml()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "resolved.toml").write_text(written)
    again = load_recipe(tmp_path / "elsewhere" / "resolved.toml", catalog=catalog)
    assert again.recipe == resolved.recipe
    assert again.recipe.objective.config == resolved.recipe.objective.config
    assert again.recipe.objective.config.eta == Schedule(end=2.0, shape="step")
    assert again.recipe.towers["left"].encoder.config.folder == tmp_path / "data"
    assert again.to_toml() == written
    assert load_recipe(resolved.recipe, catalog=catalog).to_toml() == written, "as the typed object"
    assert load_recipe(written, catalog=catalog).to_toml() == written, "as text"
    for field in attrs.fields(TrainTable):
        if getattr(resolved.recipe.train, field.name) is not None:
            assert re.search(rf"(?m)^{field.name} = ", written), f"the default of train.{field.name} is not written out"


def test_typed_recipe_from_python(catalog: Catalog) -> None:
    noise = Component(use="noise", options={"p": 1})
    recipe = Recipe(
        dataset=DatasetTable(use="pairs"),
        towers={
            "a": TowerTable(modality="sound", encoder=EncoderTable(use="cnn", options={"width": 3})),
            "b": TowerTable(modality="text", encoder=EncoderTable(use="bow"), augment=(noise,)),
        },
        objective=ObjectiveTable(config=GentleConfig(eta=0.0)),
        train=TrainTable(steps=3),
    )  # fmt: skip
    resolved = load_recipe(recipe, {"train.seed": 4}, catalog)
    assert resolved.recipe.towers["a"].encoder.config.width == 3
    assert resolved.recipe.objective.config.eta == 0
    assert resolved.recipe.train == TrainTable(steps=3, seed=4)
    assert load_recipe(resolved.source_text, {"train.seed": 4}, catalog).recipe == resolved.recipe
    wrong = attrs.evolve(recipe, train=TrainTable(), dataset=DatasetTable(use="pears"))
    assert problems(catalog, wrong) == [
        "recipe: dataset.use: there is no dataset 'pears' — did you mean 'toy/pairs'?",
        "recipe: train: give steps (or epochs): how long to train",
    ]


def test_options_and_config_that_disagree(catalog: Catalog, recipe_file: Path) -> None:
    resolved = load_recipe(recipe_file, catalog=catalog)
    objective = attrs.evolve(resolved.recipe.objective, config=GentleConfig(eta=7.0))
    (problem,) = problems(catalog, attrs.evolve(resolved.recipe, objective=objective))
    assert "objective: options and config disagree" in problem
    fresh = attrs.evolve(objective, options={})
    assert derive(resolved, attrs.evolve(resolved.recipe, objective=fresh)).recipe.objective.config.eta == 7


def test_everything_wrong_is_said_at_once_with_its_line(catalog: Catalog, recipe_file: Path) -> None:
    changed(
        recipe_file,
        ('name = "test"', "name = 3\ncolour = 1"),
        ("paired = 0.5", "paired = 1.5"),
        ("width = 8", 'width = "8", wdith = 2'),
        ('modality = "text"', 'modality = "txet"'),
        ("p = 0.1", "p = true"),
        ('use = "gentle"', 'use = "gentle"\nalpha = "high"\n[objective.mmd]\nbeta = "fxed"'),
        ("steps = 10", "steps = 10\nstpes = 1\nepochs = 2\nclip = -1"),
    )
    found = problems(catalog, recipe_file, "train.warmup=no", "evaluate.split=[]")
    assert found == [
        "recipe.toml:1: name: should be a string, not 3 (an integer)",
        "recipe.toml:2: colour: unknown key",
        "recipe.toml:6: dataset.paired: must be a share from 0.0 to 1.0, or an integer for a count, not 1.5",
        "recipe.toml:10: towers.left.encoder.wdith: unknown key for toy/cnn — did you mean 'width'?",
        "recipe.toml:10: towers.left.encoder.width: should be an integer, not '8' (a string)",
        "recipe.toml:13: towers.right.modality: toy/pairs yields 'sound' and 'text', not 'txet' — did you mean 'text'?",
        "recipe.toml:16: towers.right.augment[0].p: should be a number, not true (a boolean)",
        "recipe.toml:21: objective.alpha: should be a number or a table, not 'high' (a string)",
        "recipe.toml:23: objective.mmd.beta: should be 'adversarial' or 'fixed', not 'fxed' (a string) "
        "— did you mean 'fixed'?",
        "recipe.toml:27: train.stpes: unknown key — did you mean 'steps'?",
        "recipe.toml:28: train.epochs: give steps or epochs, not both",
        "recipe.toml:29: train.clip: must be 0 or more, not -1.0",
        "--set train.warmup: should be a number, not 'no' (a string)",
        "--set evaluate.split: unknown key — did you mean 'splits'?",
    ]


Change = tuple[str, str]
NO_AUGMENT: Change = ('augment = [\n    { use = "toy/noise", p = 0.1 },\n]\n', "")
ONE_PROBLEM: dict[str, tuple[list[Change], str]] = {
    "no dataset": ([('[dataset]\nuse = "toy/pairs"\npaired = 0.5\n', "")], "recipe.toml:1: dataset: is missing"),
    "no use": ([('use = "toy/pairs"\n', "")], "recipe.toml:3: dataset.use: is missing"),
    "one tower": (
        [('[towers.right]\nmodality = "text"\nencoder = { use = "toy/bow" }\n', ""), NO_AUGMENT],
        "recipe.toml:7: towers: core/gentle aligns 2 towers or more, and the recipe has 1",
    ),
    "too few for the loss": (
        [('"gentle"', '"toy/three"')],
        "towers: toy/three aligns 3 towers or more, and the recipe has 2; losses for 2: 'core/clip', 'core/gentle'",
    ),
    "unmet need": ([('"gentle"', '"tokenwise"')], "19: objective.use: toy/tokenwise needs 'tokens' in every batch"),
    "loss for other data": ([('"gentle"', '"for-images"')], "is made for 'image'; tower 'left' holds 'sound'"),
    "encoder of another modality": (
        [('"toy/bow"', '"toy/cnn"')],
        "13: towers.right.encoder.use: toy/cnn reads 'sound', and this tower holds 'text'; "
        "its readers are 'toy/bow', 'toy/clashing' and 'toy/greedy'",
    ),
    "augmentation of another modality": (
        [('"toy/noise", p = 0.1', '"echo"')],
        "15: towers.right.augment[0].use: toy/echo acts on 'sound', and this tower holds 'text'; "
        "what acts on that: 'toy/noise'",
    ),
    "more special than the tower says": (
        [('modality = "sound"', 'modality = "signal"')],
        "towers.left.modality: toy/pairs yields 'sound' and 'text', not 'signal': write 'sound'; "
        "encoders of 'signal' read it too",
    ),
    "a modality of another dataset": (
        [('modality = "sound"', 'modality = "image"')],
        "toy/pairs yields 'sound' and 'text', not 'image'; datasets for all towers of this recipe: 'toy/pictures'",
    ),
    "nobody reads it": (
        [('"toy/pairs"', '"toy/pictures"'), ('modality = "sound"', 'modality = "image"')],
        "toy/cnn reads 'sound', and this tower holds 'image'; no installed encoder reads that: install one, or "
        "`gentle new plugin` makes one; datasets for toy/cnn: 'toy/folder' and 'toy/pairs'",
    ),
    "dimensions": (
        [("width = 8 }", "width = 8 }\nhead = { dimension = 64 }")],
        "12: towers.right.head.dimension: all towers must project to one dimension, not left 64, right 128",
    ),
    "dotted path": ([('"toy/pairs"', '"os.system"')], "4: dataset.use: there is no dataset 'os.system'"),
    "code": ([('"toy/pairs"', '"os:system"')], "never import paths or code"),
    "packages": ([('"toy/bow"', '"toy/greedy"')], "needs more packages: pip install 'no-such-package>=2'"),
    "plugin": (
        [('name = "test"', 'plugins = ["gentle-nose"]')],
        "plugins[0]: gentle-nose is not there: pip install gentle-nose"),
    "reserved option": ([('"toy/bow"', '"clashing"')], "which is Gentle's own key here"),
    "pair of nobody": ([('"gentle"', '"gentle"\npairs = [["left", "rihgt"]]')], "did you mean 'right'?"),
    "pair with itself": ([('"gentle"', '"gentle"\npairs = [["left", "left"]]')], "pairs[0]: pairs 'left' with itself"),
    "pair twice": (
        [('"gentle"', '"gentle"\npairs = [["left", "right"], ["right", "left"]]')],
        "objective.pairs[1]: is named twice",
    ),
    "no length": ([("steps = 10", "seed = 1")], "21: train: give steps (or epochs)"),
    "zero steps": ([("steps = 10", "steps = 0")], "22: train.steps: must be 1 or more, not 0"),
    "batch of one": ([("steps = 10", "steps = 10\nbatch_size = 1")], "23: train.batch_size: must be 2 or more, not 1"),
    "one row": (
        [("steps = 10", "steps = 10\npaired_rows = 1\nunpaired_rows = 0")],
        "21: train: a batch of one row has nothing to compare",
    ),
    "empty batch": (
        [("steps = 10", "steps = 10\nunpaired_rows = 0"), ("paired = 0.5", "paired = 0")],
        "21: train: a batch would be empty",
    ),
    "proportional and rows": (
        [("steps = 10", "steps = 10\nproportional = 8\npaired_rows = 4")],
        "24: train.paired_rows: proportional = 8 sets the rows of a batch already",
    ),
    "no pairs, clip": (
        [("paired = 0.5", "paired = 0.0"), ('"gentle"', '"clip"')],
        "5: dataset.paired: no pairs, and core/clip learns from pairs alone",
    ),
    "no pairs, only L_CL": (
        [("paired = 0.5", "paired = 0"), ('"gentle"', '"gentle"\nmu = 0\ndelta = 0\neta = 0')],
        "no pairs, and core/gentle learns from pairs alone",
    ),
    "unknown part": (
        [('"gentle"', '"sum"\nterms = [{ use = "clip" }, { use = "sddd", weight = 2 }]')],
        "20: objective.terms[1].use: there is no loss 'sddd' — did you mean 'core/sdd'?",
    ),
    "part without name": ([('"gentle"', '"sum"\nterms = [{ weight = 2 }]')], "terms[0]: name a loss with `use`"),
    "option of a part": (
        [('"gentle"', '"sum"\nterms = [{ use = "clip", temperatur = 1 }]')],
        "20: objective.terms[0].temperatur: unknown key for core/clip — did you mean 'temperature'?",
    ),
    "config that does not fit together": (
        [("width = 8", "span = [2, 1]")],
        "9: towers.left.encoder: span = [2, 1] runs backwards",
    ),
    "tower name": ([("[towers.left]", '[towers."le ft"]')], "7: towers.\"le ft\": a tower's name is made of"),
    "select": (
        [("steps = 10", 'steps = 10\nselect = "retrieval/lefd->right/R@10"')],
        "23: train.select: there is no tower 'lefd' — did you mean 'left'?",
    ),
    "nan": ([("steps = 10", "steps = 10\nlearning_rate = nan")], "23: train.learning_rate: should be a number"),
    "infinite": ([("steps = 10", "steps = 10\nlearning_rate = inf")], "23: train.learning_rate: must be above 0"),
    "device": ([("steps = 10", 'steps = 10\n[engine]\ndevice = "gpu"')], "24: engine.device: must be 'auto'"),
    "splits": ([("steps = 10", 'steps = 10\n[evaluate]\nsplits = ["dev"]')], "24: evaluate.splits: must name 'train'"),
}  # fmt: skip


@pytest.mark.parametrize("case", ONE_PROBLEM)
def test_one_problem_one_line(catalog: Catalog, recipe_file: Path, case: str) -> None:
    changes, expected = ONE_PROBLEM[case]
    (problem,) = problems(catalog, changed(recipe_file, *changes))
    assert expected in problem, problem


def test_tables_that_are_none(catalog: Catalog) -> None:
    found = problems(catalog, "dataset = 3\ntowers = [1]\nobjective = 'gentle'\ntrain = 3\n")
    assert found == [
        "recipe:1: dataset: should be a table, not 3 (an integer)",
        "recipe:2: towers: should be a table, not an array",
        "recipe:3: objective: should be a table, not 'gentle' (a string)",
        "recipe:4: train: should be a table, not 3 (an integer)",
    ]
    found = problems(
        catalog, "dataset = 3\n[towers]\na = 1\nb = { encoder = 1, augment = 2, head = 3, modality = 4 }\n"
    )
    assert "recipe:3: towers.a: should be a table, not 1 (an integer)" in found
    assert "recipe:4: towers.b.augment: should be an array, not 2 (an integer)" in found
    assert problems(catalog, "\n")[0].startswith("recipe:1: dataset: is missing")


HINTS: dict[str, tuple[list[Change], str]] = {
    "augment before a frozen encoder": (
        [('"toy/bow" }', '"toy/bow", freeze = true }')],
        "recipe.toml:14: towers.right.augment: augmenting before a frozen encoder",
    ),
    "rate of a frozen encoder": (
        [("width = 8", "width = 8, freeze = true, learning_rate = 0.1")],
        "recipe.toml:9: towers.left.encoder.learning_rate: has no effect",
    ),
    "what speaks of training alone": (
        [("width = 8", "width = 8, freeze = true, rate = 0.25")],
        "recipe.toml:9: towers.left.encoder.rate: has no effect: the encoder is frozen",
    ),
    "no views": (
        [("width = 8 }", "width = 8, freeze = true }\nhead = { dropout = 0.0 }")],
        "recipe.toml:7: towers.left: the two views of a row are the same",
    ),
    "one for all": (
        [("paired = 0.5", "paired = 1")],
        "recipe.toml:5: dataset.paired: 1 is a count, one pair; write 1.0",
    ),
    "one pair a batch": (
        [("steps = 10", "steps = 10\npaired_rows = 1")],
        "23: train.paired_rows: with one pair a batch",
    ),
    "no pairs": ([("paired = 0.5", "paired = 0")], "recipe.toml:18: objective: alpha > 0 but no pairs"),
    "nothing to select from": (
        [("steps = 10", 'steps = 10\nselect = "loss"')],
        "23: train.select: selects nothing without evaluate_every",
    ),
    "SDD alone": ([('"gentle"', '"gentle"\nmu = 0')], "recipe.toml:18: objective: eta > 0 with mu = 0"),
}


@pytest.mark.parametrize("case", HINTS)
def test_hints(catalog: Catalog, recipe_file: Path, case: str) -> None:
    changes, expected = HINTS[case]
    warnings = load_recipe(changed(recipe_file, *changes), catalog=catalog).warnings
    assert any(expected in warning for warning in warnings), warnings


LEGAL: dict[str, list[Change]] = {
    "more general encoder": [('"toy/cnn", width = 8', '"any-signal"')],
    "unequal heads where the loss allows": [
        ("width = 8 }", "width = 8 }\nhead = { dimension = 64 }"),
        ('"gentle"', '"two"'),
    ],
    "epochs": [("steps = 10", "epochs = 0.5")],
    "integer for a number": [("steps = 10", "steps = 10\nlearning_rate = 1\nclip = 0")],
    "no pairs": [("paired = 0.5", "paired = 0")],
    "sum": [('"gentle"', '"sum"\nterms = [{ use = "clip", weight = { start = 1, end = 2 } }, { use = "core/mmd" }]')],
}


@pytest.mark.parametrize("case", LEGAL)
def test_what_is_legal(catalog: Catalog, recipe_file: Path, case: str) -> None:
    resolved = load_recipe(changed(recipe_file, *LEGAL[case]), catalog=catalog)
    again = load_recipe(resolved.to_toml(), catalog=catalog)
    assert again.to_toml() == resolved.to_toml()
    assert again.recipe == resolved.recipe


def test_parts_of_a_sum_are_resolved(catalog: Catalog, recipe_file: Path) -> None:
    changed(recipe_file, ('"gentle"', '"sum"\nterms = [{ use = "clip", weight = 2 }]'))
    (term,) = load_recipe(recipe_file, catalog=catalog).recipe.objective.options["terms"]
    assert term["use"] == "core/clip" and term["weight"] == 2 and term["temperature"] == 0.07


def test_paths_count_from_their_recipe_or_the_working_directory(
    catalog: Catalog, recipe_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "sub").mkdir()
    changed(recipe_file, ("width = 8", 'width = 8, folder = "sounds"')).rename(tmp_path / "sub" / "base.toml")
    recipe_file.write_text('extends = "sub/base.toml"\n')
    folder = lambda *sets: load_recipe(recipe_file, sets, catalog).recipe.towers["left"].encoder.config.folder  # noqa: E731
    assert folder() == tmp_path / "sub" / "sounds"
    assert folder("towers.left.encoder.folder=sounds") == tmp_path / "sounds"


def test_component_config(catalog: Catalog) -> None:
    entry = catalog.get("loss", "clip")
    assert component_config(entry, {"temperature": 1}).temperature == 1
    with pytest.raises(RecipeError, match="core/clip: temperatur: unknown key"):
        component_config(entry, {"temperatur": 1})


def test_component_by_itself(catalog: Catalog, recipe_file: Path, tmp_path: Path) -> None:
    entry, config = load_component(catalog, "encoder", "cnn", ["width=7", "folder=x"])
    assert entry.full_name == "toy/cnn" and config.width == 7 and config.folder == tmp_path / "x"
    with pytest.raises(RecipeError) as caught:
        load_component(catalog, "encoder", "cnn", ["wdith=7", "rate=fast"])
    assert caught.value.problems == [
        "--set wdith: unknown key — did you mean 'width'?",
        "--set rate: should be a number, not 'fast' (a string)",
    ]
    with pytest.raises(RecipeError, match="toy/noise: p: is missing"):
        load_component(catalog, "augmentation", "noise")


def test_differences(catalog: Catalog, recipe_file: Path) -> None:
    text = lambda *sets: load_recipe(recipe_file, sets, catalog).to_toml()  # noqa: E731
    assert differences(text(), text()) == []
    assert differences(text(), text("train.seed=1", "towers.right.augment=[]")) == [
        "towers.right.augment",
        "train.seed",
    ]


def test_free_directory(catalog: Catalog, recipe_file: Path, tmp_path: Path) -> None:
    resolved = load_recipe(recipe_file, catalog=catalog)
    assert free_directory(resolved) == Path("runs/recipe-1")
    Path("runs/recipe-1").mkdir(parents=True)
    assert free_directory(resolved) == Path("runs/recipe-2")


def test_a_recipe_is_checked_without_torch(recipe_file: Path) -> None:
    code = f"""
import sys
from gentle_core.errors import RecipeError
from gentle_core.recipe import load_recipe
try:
    load_recipe({str(recipe_file)!r})
except RecipeError as error:
    assert "toy/pairs" in str(error), error
else:
    raise AssertionError("toy is not installed here")
heavy = {{"torch", "sklearn", "scipy", "transformers", "matplotlib"}} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)


@pytest.mark.parametrize("wrong", [3, None, ["a"]])
def test_no_recipe_at_all(catalog: Catalog, wrong: object) -> None:
    with pytest.raises(TypeError, match="a recipe is a path, TOML text or"):
        load_recipe(wrong, catalog=catalog)  # type: ignore[arg-type]


VALUES: list[object] = [
    0, -1, 3.5, float("inf"), float("nan"), 10**30, True, "", "x", "\0", "toy/cnn", "core/sum", [], {}, [1], [[1]],
    {"use": "clip"}, {"use": 3}, [{"use": "echo"}], [{"use": "clip", "weight": {"end": 1}}], datetime.date(2020, 1, 1),
]  # fmt: skip
KEYS = ["use", "terms", "width", "freeze", "clip", "pairs", "epochs", "x", "paired", "plugins", "options", "config",
        "extends", "select", "proportional", "towers", "head"]  # fmt: skip


def every_path(value: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from every_path(inner, (*path, key))


@pytest.mark.parametrize("seed", range(300))
def test_a_mangled_recipe_resolves_or_says_why(catalog: Catalog, seed: int) -> None:
    rng = random.Random(seed)
    data = tomllib.loads(TOY)
    for _ in range(rng.randint(1, 3)):
        path = rng.choice(list(every_path(data)))
        table: Any = data
        for key in path[:-1]:
            table = table[key]
        way = rng.random()
        if way < 0.5:
            table[path[-1]] = copy.deepcopy(rng.choice(VALUES))
        elif way < 0.7:
            del table[path[-1]]
        elif isinstance(table, dict):
            table[rng.choice(KEYS)] = copy.deepcopy(rng.choice(VALUES))
    try:
        resolved = load_recipe(tomli_w.dumps(data) + "\n" if seed % 2 else data, catalog=catalog)
    except RecipeError as error:
        assert error.problems and all(0 < len(line) < 400 and "\n" not in line for line in error.problems)
    else:
        again = load_recipe(resolved.to_toml(), catalog=catalog)
        assert again.recipe == resolved.recipe and again.to_toml() == resolved.to_toml()
