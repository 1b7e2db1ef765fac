"""Recipes: typed, strict, with errors that name the line. Nothing here imports torch."""

from __future__ import annotations

from gentle_core.recipe.load import Resolved, derive, differences, free_directory, load_recipe
from gentle_core.recipe.model import (
    BaselineTable,
    Component,
    DatasetTable,
    EncoderTable,
    EngineTable,
    EvaluateTable,
    HeadTable,
    ObjectiveTable,
    Recipe,
    ReportTable,
    TowerTable,
    TrainTable,
)

__all__ = [
    "BaselineTable",
    "Component",
    "DatasetTable",
    "EncoderTable",
    "EngineTable",
    "EvaluateTable",
    "HeadTable",
    "ObjectiveTable",
    "Recipe",
    "ReportTable",
    "Resolved",
    "TowerTable",
    "TrainTable",
    "derive",
    "differences",
    "free_directory",
    "load_recipe",
]
