"""The dataset of a run: the one that `[dataset]` names, and the further sources of unmatched items beside it.

Imports no torch itself; a dataset's own code may.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import numpy as np

from gentle_core.batch import BuildContext, ItemIndex
from gentle_core.catalog import Catalog
from gentle_core.data.pools import SOURCE
from gentle_core.factory import create
from gentle_core.recipe.model import Recipe


@attrs.frozen
class Source:
    """A dataset whose training items all become unmatched.

    Attributes:
        name: its component's full name.
        feeds: for each modality that a tower holds, the modalities of the source that are read as it.
    """

    name: str
    dataset: Any
    feeds: Mapping[str, tuple[str, ...]]


def open_dataset(recipe: Recipe, catalog: Catalog, context: BuildContext) -> Any:
    """The dataset of a resolved recipe, further sources included.

    Raises:
        DataError, ComponentError: one of them cannot be used.
    """
    table = recipe.dataset
    main = create(catalog.get("dataset", table.use), table.config, context)
    held = dict.fromkeys(tower.modality for tower in recipe.towers.values())
    sources = []
    for part in table.sources:
        entry = catalog.get("dataset", part.use)
        feeds = {to: tuple(m for m in entry.spec.modalities if catalog.reads(to, m)) for to in held}
        sources.append(Source(part.use, create(entry, part.config, context), feeds))
    return WithSources(main, sources) if sources else main


class WithSources:
    """A dataset with further items in its training split, which have no mates in any other source.

    Ids of source number i begin with `unpaired[i]/`, samples as well, so that neither clashes with the dataset's own.
    """

    def __init__(self, main: Any, sources: Sequence[Source]):
        self._main, self._sources = main, tuple(sources)

    def index(self, split: str) -> Mapping[str, ItemIndex]:
        found = dict(self._main.index(split))
        if split != "train":
            return found
        for number, source in enumerate(self._sources):
            given = source.dataset.index("train")
            for held, modalities in source.feeds.items():
                for modality in modalities:
                    if modality in given:
                        found[held] = _joined(found.get(held), given[modality], f"{SOURCE}{number}]/{modality}/")
        return found

    def load(self, modality: str, items: Sequence[str]) -> list[Any]:
        """Items in order, each from where it is; one call to every source."""
        places: dict[tuple[int, str], list[int]] = {}
        names = list(items)
        for position, item in enumerate(names):
            source, its_modality, name = _parse(item, modality)
            names[position] = name
            places.setdefault((source, its_modality), []).append(position)
        found: list[Any] = [None] * len(names)
        for (source, its_modality), positions in places.items():
            dataset = self._main if source < 0 else self._sources[source].dataset
            loaded = dataset.load(its_modality, [names[p] for p in positions])
            for position, item in zip(positions, loaded, strict=True):
                found[position] = item
        return found

    def facts(self) -> dict[str, Any]:
        """The dataset's own, and under "unpaired" those of the sources."""
        return {**self._main.facts(), "unpaired": [{"use": s.name, **s.dataset.facts()} for s in self._sources]}


def _parse(item: str, modality: str) -> tuple[int, str, str]:
    """(source, its modality, item) of an id; source −1 is the dataset itself."""
    if not item.startswith(SOURCE):
        return -1, modality, item
    number, its_modality, name = item[len(SOURCE) :].split("/", 2)
    return int(number.removesuffix("]")), its_modality, name


def _joined(own: ItemIndex | None, further: ItemIndex, prefix: str) -> ItemIndex:
    """Both indices end to end; an attribute that one of them lacks is filled up."""
    source = prefix.partition("/")[0]
    items = [f"{prefix}{item}" for item in further.items]
    samples = [f"{source}/{sample}" for sample in further.samples]
    if own is None:
        return ItemIndex(items, samples, dict(further.attributes))
    names = list(dict.fromkeys((*own.attributes, *further.attributes)))
    columns = {name: _column(name, own, further) for name in names}
    return ItemIndex((*own.items, *items), (*own.samples, *samples), columns)


def _column(name: str, own: ItemIndex, further: ItemIndex) -> np.ndarray:
    parts = [index.attributes.get(name) for index in (own, further)]
    known = np.asarray(next(part for part in parts if part is not None))
    filled = [
        np.full((len(index), *known.shape[1:]), _nothing(known)) if part is None else np.asarray(part)
        for index, part in zip((own, further), parts, strict=True)
    ]
    return np.concatenate(filled)


def _nothing(column: np.ndarray) -> Any:
    """What stands for "not known": "" for text, not a number, −1 for a class, 0 for several."""
    if column.dtype.kind in "US":
        return ""
    if column.dtype.kind == "f":
        return np.nan
    return -1 if column.dtype.kind == "i" and column.ndim == 1 else column.dtype.type(0)
