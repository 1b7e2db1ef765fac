"""The finished model on disk: safetensors and JSON, which load back without the run, the data or pretrained weights."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from gentle_core.catalog import Catalog
from gentle_core.engine.build import Builder
from gentle_core.engine.checkpoint import replace_durably, serialise
from gentle_core.engine.closed import FACTS, ClosedFormModel, read_form, save_form
from gentle_core.engine.towers import AlignedModel
from gentle_core.errors import CheckpointError
from gentle_core.plugins import discover
from gentle_core.recipe.load import Resolved, derive, load_recipe
from gentle_core.recipe.model import Component, TowerTable

WEIGHTS, CONFIG, RECIPE = "model.safetensors", "config.json", "recipe.toml"


def portable(resolved: Resolved, model: AlignedModel) -> Resolved:
    """The recipe with the options that rebuild each encoder without the files it was made from."""
    towers = dict(resolved.recipe.towers)
    for name, table in towers.items():
        options = model.tower(name).encoder.portable()
        if options is not None:
            towers[name] = attrs.evolve(table, encoder=attrs.evolve(table.encoder, options=options, config=None))
        if isinstance(model, ClosedFormModel):
            towers[name] = attrs.evolve(towers[name], descriptors=_portable_descriptors(table, model, name))
        elif table.descriptors:  # nothing of a trained model depends on them
            towers[name] = attrs.evolve(towers[name], descriptors=())
    return derive(resolved, attrs.evolve(resolved.recipe, towers=towers))


def _portable_descriptors(table: TowerTable, model: ClosedFormModel, name: str) -> tuple[Component, ...]:
    found = []
    for component, descriptor in zip(table.descriptors, model.source.descriptors[name], strict=True):
        options = descriptor.tower(name).encoder.portable()
        found.append(component if options is None else attrs.evolve(component, options=options, config=None))
    return tuple(found)


def save_model(folder: Path, model: AlignedModel, resolved: Resolved, facts: Mapping[str, Any]) -> None:
    """Write towers (frozen encoders included), the recipe that rebuilds them, and facts about them."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"cannot create {folder}: {error.strerror or error}") from error
    replace_durably(folder / WEIGHTS, serialise(model.state_dict()))
    replace_durably(folder / RECIPE, portable(resolved, model).to_toml().encode())
    replace_durably(folder / CONFIG, (json.dumps(dict(facts), indent=1, default=str) + "\n").encode())
    if isinstance(model, ClosedFormModel):
        save_form(folder, model)


def _extends(recipe: Path) -> bool:
    try:
        return "extends" in tomllib.loads(recipe.read_text())
    except (OSError, ValueError):
        return False  # load_recipe says what is wrong


def load_model(folder: Path, device: str = "cpu", catalog: Catalog | None = None) -> AlignedModel:
    """A saved model (a run's `model/`, or the run itself), in eval mode.

    Raises:
        CheckpointError: no model there, or one whose parts do not fit together.
    """
    folder = folder / "model" if (folder / "model").is_dir() else folder
    if not (folder / WEIGHTS).exists():
        raise CheckpointError(f"{folder} holds no model ({WEIGHTS} is missing); give a run that has finished")
    if _extends(folder / RECIPE):
        raise CheckpointError(f"{folder / RECIPE} extends another file; a model's recipe stands by itself")
    resolved = load_recipe(folder / RECIPE, catalog=discover() if catalog is None else catalog)
    builder = Builder(recipe=resolved.recipe, catalog=resolved.catalog, notify=lambda _: None, load_weights=False)
    model = builder.model()
    if (folder / FACTS).exists():
        model = read_form(folder, model, builder)
    try:
        model.load_state_dict(load_file(folder / WEIGHTS))
    except (SafetensorError, RuntimeError, OSError) as error:
        raise CheckpointError(f"{folder / WEIGHTS} does not fit the model that {RECIPE} describes: {error}") from error
    return model.to(torch.device(device)).eval()
