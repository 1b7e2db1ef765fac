"""From a resolved recipe to living components."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import torch

from gentle_core.batch import BuildContext
from gentle_core.catalog import Catalog
from gentle_core.data.sources import open_dataset
from gentle_core.data.streams import torch_seed
from gentle_core.engine.towers import AlignedModel, ProjectionHead, Tower
from gentle_core.factory import cache_folder, create
from gentle_core.recipe.load import component_config
from gentle_core.recipe.model import Component, Recipe


@attrs.frozen(kw_only=True)
class Builder:
    """Builds the parts of a recipe.

    Attributes:
        recipe: resolved, with full names and parsed configs.
        catalog: where the names were found.
        notify: receives what the user must know.
        progress: receives what takes a while.
        load_weights: False to build architectures whose weights a saved model will fill in.
    """

    recipe: Recipe
    catalog: Catalog
    notify: Callable[[str], None]
    progress: Callable[[str], None] = lambda _: None
    load_weights: bool = True

    def _context(self, *key: str, **more: Any) -> BuildContext:
        seed = torch_seed(self.recipe.train.seed, "init", *key)
        return BuildContext(
            cache_dir=cache_folder(), seed=seed, notify=self.notify, progress=self.progress,
            load_weights=self.load_weights, **more,
        )  # fmt: skip

    def _component(self, kind: str, component: Component, context: BuildContext) -> Any:
        torch.manual_seed(context.seed)
        return create(self.catalog.get(kind, component.use), component.config, context)

    def dataset(self) -> Any:
        context = self._context("dataset")
        torch.manual_seed(context.seed)
        return open_dataset(self.recipe, self.catalog, context)

    def tower(self, name: str) -> Tower:
        """Encoder and head; the initial weights of one tower do not depend on the others."""
        table = self.recipe.towers[name]
        encoder = self._component("encoder", table.encoder, self._context("encoder", name))
        torch.manual_seed(torch_seed(self.recipe.train.seed, "init", "head", name))
        return Tower(encoder, ProjectionHead(encoder.width, table.head), table.modality, table.encoder.freeze)

    def model(self) -> AlignedModel:
        return AlignedModel({name: self.tower(name) for name in self.recipe.towers}, self.recipe.train.precision)

    def descriptors(self, name: str) -> list[Any]:
        """A tower's further encoders, in evaluation mode, for closed forms."""
        return [
            self._component("encoder", component, self._context("descriptor", name, str(number))).eval()
            for number, component in enumerate(self.recipe.towers[name].descriptors)
        ]

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

    def teacher(self) -> Any:
        """The source of pseudo-pairs, None where the recipe has none."""
        table = self.recipe.pseudo
        return None if table is None else self._component("teacher", table.teacher, self._context("teacher"))

    def loss(self) -> Any:
        """The objective; compositions build their parts through the same catalog."""
        dimensions = {name: table.head.dimension for name, table in self.recipe.towers.items()}

        def part(use: str, options: Mapping[str, Any]) -> Any:
            entry = self.catalog.get("loss", use)
            return create(entry, component_config(entry, options), context)

        context = self._context("objective", loss=part, dimensions=dimensions, pairs=self.pairs())
        return self._component("loss", self.recipe.objective, context)
