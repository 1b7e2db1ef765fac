"""Gentle: align two or more modalities from a few matched pairs and many unmatched samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from os import PathLike

    from gentle_core.catalog import Catalog
    from gentle_core.engine.run import RunResult
    from gentle_core.engine.towers import AlignedModel
    from gentle_core.recipe import Recipe

__version__ = "0.1.0"
__all__ = ["__version__", "load_model", "run"]


def run(
    recipe: str | PathLike[str] | Recipe,
    *,
    out: str | PathLike[str] | None = None,
    resume: str = "never",
    catalog: Catalog | None = None,
    settings: Mapping[str, Any] | None = None,
    **overrides: Any,
) -> RunResult:
    """Run a recipe and return what came of it: `gentle run` from Python.

    Args:
        recipe: path of a TOML recipe, TOML text, or a typed `gentle_core.recipe.Recipe`.
        out: the run directory; by default the first free `runs/<recipe>-<n>`.
        resume: "never", "auto" (from the newest intact checkpoint in `out`, if there is one) or a checkpoint's path.
        catalog: what is installed; discovered where it is not given.
        settings: values that replace the recipe's, by dotted key: `{"train.steps": 5}`.
        overrides: the same with two underscores for a dot: `train__steps=5`.

    Raises:
        RecipeError: with every problem of the recipe, one a line.
        ComponentError, DataError, WeightsError: what the recipe names cannot be used.
        Interrupted: SIGINT or SIGTERM; a checkpoint was left behind.

    Example:
        result = gentle_core.run("recipes/protein.toml", out="runs/first", train__steps=50)
        print(result.metrics["test"]["retrieval/mean/R@10"], result.report)
    """
    from pathlib import Path

    from gentle_core.recipe import load_recipe

    changes = dict(settings or {}) | {key.replace("__", "."): value for key, value in overrides.items()}
    resolved = load_recipe(recipe, changes, catalog)

    from gentle_core.engine.run import run_recipe

    return run_recipe(resolved, None if out is None else Path(out), resume)


def load_model(folder: str | PathLike[str], device: str = "cpu") -> AlignedModel:
    """A finished run's model (the run directory or its `model/`), in eval mode; neither data nor the run is needed.

    Its `embed(tower, items, space="joint")` maps raw items to unit vectors, or to encoder features with
    `space="feature"`.

    Raises:
        CheckpointError: there is no model, or its parts do not fit together.
    """
    from pathlib import Path

    from gentle_core.engine.artifact import load_model as load

    return load(Path(folder), device)
