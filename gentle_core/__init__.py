"""Gentle: align two or more modalities from a few matched pairs and many unmatched samples."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gentle_core.engine.run import RunResult
    from gentle_core.recipe.model import Recipe

__version__ = "0.1.0"
__all__ = ["__version__", "run"]


def run(
    recipe: str | Path | Recipe, *, out: str | Path | None = None, resume: str = "never", **overrides: Any
) -> RunResult:
    """Run a recipe and return what came of it: the Python side of `gentle run`.

    Args:
        recipe: path of a TOML recipe, TOML text, or a typed `gentle_core.recipe.Recipe`.
        out: the run directory; by default the first free `runs/<recipe>-<n>`.
        resume: "never", "auto" (from the newest good checkpoint in `out`, if there is one) or a checkpoint's path.
        overrides: settings that replace the recipe's, with two underscores for the dot: `train__steps=5`.
            Keys that are no Python names go in a dictionary: `overrides={"towers.sequence.head.dimension": 64}`.

    Raises:
        RecipeError: with every problem of the recipe, one a line.
        ComponentError, DataError, WeightsError: what the recipe names cannot be used.

    Example:
        result = gentle_core.run("recipes/protein.toml", out="runs/first", train__steps=50)
    """
    from gentle_core.engine.run import run_recipe
    from gentle_core.recipe import free_directory, load_recipe

    extra = overrides.pop("overrides", {})
    sets = {key.replace("__", "."): value for key, value in overrides.items()} | dict(extra)
    resolved = load_recipe(recipe, sets=sets)
    return run_recipe(resolved, Path(out) if out is not None else free_directory(resolved), resume)
