from pathlib import Path

import pytest

from gentle_core.errors import RecipeError
from gentle_core.study.model import read_study


def test_defaults(write_study):
    study = read_study(write_study())
    assert study.table.each_seed == (0, 1)
    assert study.table.rivals == ("clip",)
    assert study.table.paired == (12, 0.5) and isinstance(study.table.paired[0], int)
    assert study.title == "study"


@pytest.mark.parametrize(
    "text, message",
    [
        ("methods = {}", "study.toml:1: recipe: is missing"),
        ('recipe = "toy.toml"\nmethods = {}', "study.toml:2: methods: is empty"),
        ('recipe = "none.toml"\n[methods.a]', "study.toml:1: recipe: there is no file"),
        ('recipe = "toy.toml"\nseed = 3\n[methods.a]', "study.toml:2: seed: unknown key — did you mean 'seeds'?"),
        ('recipe = "toy.toml"\nseeds = [1, 1]\n[methods.a]', "study.toml:2: seeds: must be different values"),
        ('recipe = "toy.toml"\nseeds = [-1]\n[methods.a]', "study.toml:2: seeds[0]: must be 0 or more"),
        ('recipe = "toy.toml"\npaired = [1.5]\n[methods.a]', "study.toml:2: paired: must be shares from 0.0 to 1.0"),
        ('recipe = "toy.toml"\nagainst = ["b"]\n[methods.a]', "study.toml:2: against[0]: there is no method 'b'"),
        ('recipe = "toy.toml"\n[methods."../a"]', "use letters, digits"),
        ('recipe = "toy.toml"\n[methods.a]\nsearch.x = []', "study.toml:3: methods.a.search.x: is empty"),
        ('recipe = "toy.toml"\nsplit = "train"\n[methods.a]', "study.toml:2: split: should be 'val' or 'test'"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(write_study, text, message):
    with pytest.raises(RecipeError) as caught:
        read_study(write_study(text))
    assert message in str(caught.value)


STUDIES = Path(__file__).parents[2] / "benchmarks" / "studies"


@pytest.mark.parametrize("path", [p for p in sorted(STUDIES.glob("*.toml")) if not p.stem.endswith("recipe")], ids=str)
def test_the_studies_of_the_documentation_can_be_read(path):
    assert read_study(path).table.recipe.parent == STUDIES
