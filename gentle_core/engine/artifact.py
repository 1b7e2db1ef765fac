"""The finished model on disk: safetensors and JSON, which load back without the run, the data or pretrained weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from gentle_core.catalog import Catalog
from gentle_core.engine.build import Builder
from gentle_core.engine.checkpoint import replace_durably, serialise
from gentle_core.engine.towers import AlignedModel
from gentle_core.errors import CheckpointError
from gentle_core.plugins import discover
from gentle_core.recipe.load import load_recipe

WEIGHTS, CONFIG, RECIPE = "model.safetensors", "config.json", "recipe.toml"


def save_model(folder: Path, model: AlignedModel, recipe_toml: str, facts: Mapping[str, Any]) -> None:
    """Write towers (frozen encoders included), the resolved recipe that rebuilds them, and facts about them."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"cannot create {folder}: {error.strerror or error}") from error
    replace_durably(folder / WEIGHTS, serialise(model.state_dict()))
    replace_durably(folder / RECIPE, recipe_toml.encode())
    replace_durably(folder / CONFIG, (json.dumps(dict(facts), indent=1) + "\n").encode())


def load_model(folder: Path, device: str = "cpu", catalog: Catalog | None = None) -> AlignedModel:
    """A saved model (a run's `model/`, or the run itself), in eval mode.

    Raises:
        CheckpointError: no model there, or one whose parts do not fit together.
    """
    folder = folder / "model" if (folder / "model").is_dir() else folder
    if not (folder / WEIGHTS).exists():
        raise CheckpointError(f"{folder} holds no model ({WEIGHTS} is missing); give a run that has finished")
    resolved = load_recipe(folder / RECIPE, catalog=discover() if catalog is None else catalog)
    builder = Builder(recipe=resolved.recipe, catalog=resolved.catalog, notify=lambda _: None, load_weights=False)
    model = builder.model()
    try:
        model.load_state_dict(load_file(folder / WEIGHTS))
    except (SafetensorError, RuntimeError, OSError) as error:
        raise CheckpointError(f"{folder / WEIGHTS} does not fit the model that {RECIPE} describes: {error}") from error
    return model.to(torch.device(device)).eval()
