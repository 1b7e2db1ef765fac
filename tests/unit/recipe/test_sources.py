"""`dataset.unpaired` as a list of further sources."""

from __future__ import annotations

import pytest

from gentle_core.errors import RecipeError
from gentle_core.recipe import load_recipe
from gentle_core.recipe.schema import recipe_schema


def recipe(unpaired):
    return {
        "dataset": {"use": "toy/pairs", "paired": 0.5, "unpaired": unpaired},
        "towers": {
            "ear": {"modality": "sound", "encoder": {"use": "cnn"}},
            "pen": {"modality": "text", "encoder": {"use": "bow"}},
        },
        "train": {"steps": 1},
    }


def test_sources_are_resolved_and_come_back(catalog):
    resolved = load_recipe(recipe([0.25, {"use": "folder", "width": 9}]), catalog=catalog)
    table = resolved.recipe.dataset
    assert table.remaining == 0.25
    [source] = table.sources
    assert source.use == "toy/folder" and source.config.width == 9
    again = load_recipe(resolved.to_toml(), catalog=catalog)
    assert again.recipe == resolved.recipe
    assert again.recipe.dataset.sources[0].config == source.config


def test_numbers_still_mean_a_share_or_count(catalog):
    for value in (0.5, 3, 0.0):
        table = load_recipe(recipe(value), catalog=catalog).recipe.dataset
        assert table.unpaired == table.remaining == value and table.sources == ()


@pytest.mark.parametrize(
    ("unpaired", "says"),
    [
        ([{"use": "folders"}], r"dataset.unpaired\[0\].use: there is no dataset 'folders' — did you mean 'toy/folder'"),
        ([{"use": "folder", "widht": 3}], r"dataset.unpaired\[0\].widht: unknown key .*did you mean 'width'"),
        ([{"width": 3}], r"dataset.unpaired\[0\].use: is missing"),
        ([0.1, 0.2, {"use": "folder"}], "may hold one number"),
        ([1.5], "share from 0.0 to 1.0"),
        ("more.txt", "dataset.unpaired: should be"),
    ],
)
def test_what_is_wrong_is_said(unpaired, says, catalog):
    with pytest.raises(RecipeError, match=says):
        load_recipe(recipe(unpaired), catalog=catalog)


def test_a_source_without_use_for_any_tower(catalog):
    given = recipe([{"use": "folder"}])
    given["towers"] = {"x": {"modality": "gas", "encoder": {"use": "cnn"}}}
    with pytest.raises(RecipeError, match="yields 'sound' and 'text', which no tower holds"):
        load_recipe(given, catalog=catalog)


def test_views_belong_to_frozen_encoders(catalog):
    given = recipe(1.0)
    given["towers"]["ear"]["encoder"]["views"] = 4
    with pytest.raises(RecipeError, match="towers.ear.encoder.views: only features of a frozen encoder"):
        load_recipe(given, catalog=catalog)
    given["towers"]["ear"]["encoder"]["freeze"] = True
    assert any("no augmentation" in line for line in load_recipe(given, catalog=catalog).warnings)


def test_editors_know_both_forms(catalog):
    jsonschema = pytest.importorskip("jsonschema")
    schema = recipe_schema(catalog)
    for unpaired in (0.5, 3, [{"use": "folder", "width": 9}, 0.25]):
        jsonschema.validate(recipe(unpaired), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(recipe([{"use": "folder", "widht": 9}]), schema)
