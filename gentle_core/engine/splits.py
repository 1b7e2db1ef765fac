"""The items of one split as the towers see them, with the features of frozen towers kept on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor

from gentle_core.batch import ItemIndex
from gentle_core.data.features import FeatureStore, encode_all
from gentle_core.data.streams import stream
from gentle_core.data.views import Augmentations
from gentle_core.engine.progress import Display
from gentle_core.engine.ranks import ALONE, Ranks
from gentle_core.engine.towers import AlignedModel
from gentle_core.errors import DataError
from gentle_core.evaluate.retrieval import Ranks as Standing
from gentle_core.evaluate.summary import all_ranks
from gentle_core.factory import cache_folder


@attrs.frozen(eq=False)
class Embedded:
    """A split's embeddings by tower, rows in the order of `items`."""

    z: Mapping[str, Tensor]
    items: Mapping[str, tuple[str, ...]]
    samples: Mapping[str, tuple[str, ...]]
    attributes: Mapping[str, Mapping[str, np.ndarray]]
    _ranks: dict[tuple[str, str], dict[str, Standing]] = attrs.field(init=False, factory=dict)

    def ranks(self, pairs: Sequence[tuple[str, str]]) -> dict[str, Standing]:
        """Ranks by inner product of both directions of these tower pairs, by "a->b"; each pair's are found once."""
        for pair in pairs:
            if pair not in self._ranks:
                self._ranks[pair] = all_ranks(self.z, self.samples, [pair])
        return {name: found for pair in pairs for name, found in self._ranks[pair].items()}

    def arrays(self) -> dict[str, np.ndarray]:
        """Flat arrays for `embeddings/<split>.npz`."""
        found: dict[str, np.ndarray] = {}
        for tower, z in self.z.items():
            found[f"{tower}.z"] = z.numpy().astype(np.float32)
            found[f"{tower}.items"] = np.array(self.items[tower], dtype=str)
            found[f"{tower}.samples"] = np.array(self.samples[tower], dtype=str)
            found |= {f"{tower}.attr.{name}": np.asarray(v) for name, v in self.attributes[tower].items()}
        return found


def limited(index: Mapping[str, ItemIndex], limit: int, seed: int) -> dict[str, ItemIndex]:
    """At most `limit` samples (0: all), a seeded draw that is the same for every modality."""
    samples = sorted({sample for part in index.values() for sample in part.samples})
    if not limit or len(samples) <= limit:
        return dict(index)
    chosen = {samples[i] for i in stream(seed, "evaluate").permutation(len(samples))[:limit]}
    kept = {}
    for modality, part in index.items():
        rows = [i for i, sample in enumerate(part.samples) if sample in chosen]
        kept[modality] = ItemIndex(
            [part.items[i] for i in rows],
            [part.samples[i] for i in rows],
            {name: np.asarray(column)[rows] for name, column in part.attributes.items()},
        )
    return kept


class Split:
    """One split of a dataset for a given model. Features of frozen towers are computed once and held.

    On several ranks each encodes its share of the items, and all end with all features.
    """

    def __init__(
        self, dataset: Any, index: Mapping[str, ItemIndex], towers: Mapping[str, str], name: str, display: Display,
        ranks: Ranks = ALONE, stores: dict[str, FeatureStore] | None = None,
    ):  # fmt: skip
        """`stores` is what several splits share, so that each store is read once."""
        self.dataset, self.name, self.display, self.ranks = dataset, name, display, ranks
        self._stores = {} if stores is None else stores
        self.towers = dict(towers)
        self.index = {tower: index.get(modality, ItemIndex(())) for tower, modality in towers.items()}
        self._features: dict[str, tuple[Tensor, set[int]]] = {}
        """Of frozen towers, with the positions that are known so far."""

    def load(self, tower: str, positions: Sequence[int]) -> list[Any]:
        """Raw items at these positions of the tower's index."""
        items = self.index[tower].items
        return self.dataset.load(self.towers[tower], [items[p] for p in positions])

    def features(self, model: AlignedModel, tower: str, positions: Sequence[int] | None = None) -> Tensor:
        """Encoder features (n, W) in index order, by way of the disk cache where the tower is frozen.

        With `positions` only these rows are computed where they are not known yet; others may be zero.
        """
        encoder, frozen = model.tower(tower).encoder, model.tower(tower).frozen
        everything = range(len(self.index[tower]))
        held, known = self._features.get(tower, (None, set()))
        wanted = sorted({int(p) for p in (everything if positions is None else positions)} - known)
        if held is not None and not wanted:
            return held
        store = self._store(model, tower) if frozen else None
        found = self._across_ranks(
            model,
            tower,
            wanted,
            lambda items, _: encoder.collate(items),
            store=store,
            progress=self._progress(f"features of {self.name}/{tower}") if frozen else None,
        )
        if frozen:
            found = found if held is None else found.index_copy_(0, torch.tensor(sorted(known)), held[sorted(known)])
            self._features[tower] = found, known.union(wanted)
        return found

    def views(
        self, model: AlignedModel, tower: str, positions: Sequence[int], augment: Augmentations, count: int
    ) -> Tensor:
        """Features (count, n, W) of `count` augmented views of a frozen tower's items, by way of the disk cache.

        A view's random choices depend on the item's content, the augmentations and the view's number alone: neither
        on the run's seed nor on the other items. Rows that are not in `positions` are zero.
        """
        encoder, store = model.tower(tower).encoder, self._store(model, tower)
        found = [
            self._across_ranks(
                model,
                tower,
                positions,
                lambda items, keys: augment(encoder.collate, items, keys),
                store=store,
                variant=f"{augment.name}/view {view}",
                progress=self._progress(f"features of {self.name}/{tower}, view {view + 1} of {count}"),
            )
            for view in range(count)
        ]
        return torch.stack(found)

    def _store(self, model: AlignedModel, tower: str) -> FeatureStore:
        key = f"{model.tower(tower).encoder.fingerprint()[:32]}-{model.precision}"
        if key not in self._stores:
            self._stores[key] = FeatureStore(cache_folder(), key)
        return self._stores[key]

    def _across_ranks(
        self,
        model: AlignedModel,
        tower: str,
        wanted: Sequence[int],
        prepare: Callable[[list[Any], list[bytes]], Any],
        *,
        store: FeatureStore | None,
        variant: str = "",
        progress: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """Features (n, W) in index order, zero where a row is not wanted; each rank encodes its share of the rows."""
        encoder = model.tower(tower).encoder
        shares = [wanted[rank :: self.ranks.size] for rank in range(self.ranks.size)]
        mine = shares[self.ranks.rank]
        with self.ranks.together():
            share = encode_all(
                prepare,
                lambda inputs: model.encode_inputs(tower, inputs),
                encoder.size,
                lambda rows: self.load(tower, [mine[r] for r in rows]),
                len(mine),
                store=store,
                variant=variant,
                budget=model.budget,
                progress=progress,
            )
        self.display.stop()
        found = torch.zeros(len(self.index[tower]), encoder.width)
        if wanted:
            parts = self.ranks.gather_rows(share.reshape(-1, encoder.width), [len(rows) for rows in shares])
            for rows, part in zip(shares, parts, strict=True):
                found[rows] = part
        return found

    def _progress(self, name: str) -> Callable[[int, int], None]:
        started = False

        def tell(done: int, total: int) -> None:
            nonlocal started
            if not started:
                self.display.start(name, total)
                started = True
            self.display.advance(done)

        return tell

    def embed(self, model: AlignedModel) -> Embedded:
        """All items of the split through all towers."""
        empty = [tower for tower, index in self.index.items() if not len(index)]
        if empty:
            raise DataError(f"split {self.name!r} has no items for tower {empty[0]!r}; leave it out of evaluate.splits")
        return Embedded(
            z={tower: model.head(tower, self.features(model, tower)) for tower in self.towers},
            items={tower: index.items for tower, index in self.index.items()},
            samples={tower: index.samples for tower, index in self.index.items()},
            attributes={tower: index.attributes for tower, index in self.index.items()},
        )
