"""From a resolved recipe to living components."""

from __future__ import annotations

import importlib
import itertools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
import torch

from gentle_core.batch import BuildContext
from gentle_core.catalog import Catalog, Entry
from gentle_core.data.streams import torch_seed
from gentle_core.engine.towers import AlignedModel, ProjectionHead, Tower
from gentle_core.errors import ComponentError, GentleError
from gentle_core.recipe.load import component_config
from gentle_core.recipe.model import Component, Recipe


def cache_folder() -> Path:
    """Where derived files go that may be deleted at any time: $GENTLE_CACHE, or gentle/ in the user's cache folder."""
    if chosen := os.environ.get("GENTLE_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gentle"


def create(entry: Entry, config: Any, context: BuildContext) -> Any:
    """Import a component's factory and call it; whatever goes wrong names the component and its distribution."""
    module, _, attribute = entry.spec.target.partition(":")
    origin = f"{entry.kind} {entry.full_name} (from {entry.distribution} {entry.version})"
    try:
        factory = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        needs = f"; it asks for: {', '.join(entry.spec.requires)}" if entry.spec.requires else ""
        raise ComponentError(f"{origin} cannot be imported: {error}{needs}") from error
    try:
        return factory(config, context)
    except GentleError:
        raise
    except Exception as error:
        raise ComponentError(f"{origin} failed while it was built: {type(error).__name__}: {error}") from error


@attrs.frozen(kw_only=True)
class Builder:
    """Builds the parts of a recipe.

    Attributes:
        recipe: resolved, with full names and parsed configs.
        catalog: where the names were found.
        notify: receives what the user must know.
        load_weights: False to build architectures whose weights a saved model will fill in.
    """

    recipe: Recipe
    catalog: Catalog
    notify: Callable[[str], None]
    load_weights: bool = True

    def _context(self, *key: str, **more: Any) -> BuildContext:
        seed = torch_seed(self.recipe.train.seed, "init", *key)
        return BuildContext(
            cache_dir=cache_folder(), seed=seed, notify=self.notify, load_weights=self.load_weights, **more
        )

    def _component(self, kind: str, component: Component, context: BuildContext) -> Any:
        torch.manual_seed(context.seed)
        return create(self.catalog.get(kind, component.use), component.config, context)

    def dataset(self) -> Any:
        return self._component("dataset", self.recipe.dataset, self._context("dataset"))

    def tower(self, name: str) -> Tower:
        """Encoder and head; the initial weights of one tower do not depend on the others."""
        table = self.recipe.towers[name]
        encoder = self._component("encoder", table.encoder, self._context("encoder", name))
        torch.manual_seed(torch_seed(self.recipe.train.seed, "init", "head", name))
        return Tower(encoder, ProjectionHead(encoder.width, table.head), table.modality, table.encoder.freeze)

    def model(self) -> AlignedModel:
        return AlignedModel({name: self.tower(name) for name in self.recipe.towers}, self.recipe.train.precision)

    def augmentations(self, name: str, stage: str) -> list[tuple[str, Any]]:
        """A tower's augmentations of one stage, as (full name, callable)."""
        found = []
        for number, component in enumerate(self.recipe.towers[name].augment):
            if self.catalog.get("augmentation", component.use).spec.stage == stage:
                context = self._context("augmentation", name, str(number))
                found.append((component.use, self._component("augmentation", component, context)))
        return found

    def pairs(self) -> tuple[tuple[str, str], ...]:
        """The tower pairs of the objective: those the recipe names, or all unordered pairs."""
        named = self.recipe.objective.pairs
        return tuple((a, b) for a, b in named) or tuple(itertools.combinations(self.recipe.towers, 2))

    def loss(self) -> Any:
        """The objective; compositions build their parts through the same catalog."""
        dimensions = {name: table.head.dimension for name, table in self.recipe.towers.items()}

        def part(use: str, options: Mapping[str, Any]) -> Any:
            entry = self.catalog.get("loss", use)
            return create(entry, component_config(entry, options), context)

        context = self._context("objective", loss=part, dimensions=dimensions, pairs=self.pairs())
        return self._component("loss", self.recipe.objective, context)
