"""From a step's rows to the tensors that the towers read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from gentle_core.batch import ItemIndex
from gentle_core.data.sampler import BatchSampler, TowerPlan
from gentle_core.data.shares import cut
from gentle_core.data.streams import stream


@attrs.define
class Chunk:
    """Rows that go through an encoder together: of one group ("matched", "unmatched" or "pseudo"), never of two, so
    that leaving the unmatched rows out changes nothing for the matched ones. `number` counts the group's chunks over
    all ranks. A chunk of no rows holds one item that is encoded for company and whose projection is dropped.

    `inputs` are collated items, or features (rows, width) where the encoder is frozen and cached."""

    group: str
    number: int
    rows: int
    inputs: Any


@attrs.define
class TowerInputs:
    """One tower's rows of a step.

    Attributes:
        ids: (B,) of the global batch, matched rows first, those of pseudo-pairs last.
        items: item ids of the global batch.
        matched: how many of its rows are matched.
        parts: for each rank, which rows of the global batch are its own.
        views: for each view the chunks of this rank, rows in the order of `parts[rank]`.
        labels: (B,) or (B, K) of the global batch, for an objective that needs them.
        weight: (P,) weights of the pseudo-pairs.
        reference: (B, k) a teacher's rows of the global batch, for an objective that compares with them.
    """

    ids: Tensor
    items: list[str]
    matched: int
    parts: list[Tensor]
    views: list[list[Chunk]]
    labels: Tensor | None = None
    weight: Tensor = attrs.field(factory=lambda: torch.empty(0))
    reference: Tensor | None = None

    @property
    def plain(self) -> int:
        """How many rows are not those of pseudo-pairs."""
        return len(self.ids) - len(self.weight)


@attrs.define
class TowerSource:
    """Where a tower's inputs come from.

    Attributes:
        modality: its modality in the dataset.
        index: the training items.
        load: item ids to raw items.
        collate: raw items to tensors.
        augment: item-stage augmentations as (name, function).
        features: (n, width) cached features of the training items, or (k, n, width) of k augmented views of them; None
            to encode anew every step.
        labels: (n,) or (n, K) labels of the training items, for an objective that needs them.
        reference: (n, k) a teacher's rows of the training items, once there are any.
    """

    modality: str
    index: ItemIndex
    load: Callable[[str, Sequence[str]], list[Any]]
    collate: Callable[[Sequence[Any]], Any]
    augment: Sequence[tuple[str, Callable[..., Any]]] = ()
    features: Tensor | None = None
    labels: Tensor | None = None
    reference: Tensor | None = None


class StepDataset(TorchDataset[dict[str, TowerInputs]]):
    """Item `step` is the input of that step, so any number of workers gives the same batches.

    Each group of rows is cut into `chunks` chunks, or the next multiple of the number of ranks; each rank takes as
    many in a row. Where the number of chunks is the same, so is what each of them holds, on any number of ranks.
    The cut is by a fixed random order of the items, so that an item mostly comes to the same rank, which has read it
    before, and what that rank keeps of it is of use; where the items have an attribute "length", with equal shares of
    that.
    """

    def __init__(
        self, sources: Mapping[str, TowerSource], sampler: BatchSampler, seed: int, views: int = 1, chunks: int = 1,
        rank: int = 0, ranks: int = 1,
    ):  # fmt: skip
        self.sources, self.sampler, self.seed, self.views = sources, sampler, seed, views
        self.rank, self.ranks, self.each = rank, ranks, -(-chunks // ranks)
        self._order = {
            tower: stream(0, "chunk of an item", tower).permutation(len(source.index.items))
            for tower, source in sources.items()
        }
        self._lengths = {
            tower: lengths.astype(np.float64)
            for tower, source in sources.items()
            if (lengths := source.index.attributes.get("length")) is not None
        }

    def __getitem__(self, step: int) -> dict[str, TowerInputs]:
        plans = self.sampler.batch(step)
        return {tower: self._tower(tower, source, plans[tower], step) for tower, source in self.sources.items()}

    def _pieces(
        self, places: np.ndarray, lengths: np.ndarray | None, start: int, stop: int
    ) -> list[list[tuple[int, list[int]]]]:
        """For each rank, the chunks of the rows start … stop − 1 as (number, rows): as many on each rank, some of no
        rows where there are fewer rows than chunks. `places` and `lengths` (B,) of all rows."""
        sizes = None if lengths is None else lengths[start:stop]
        every = list(enumerate(cut(places[start:stop], sizes, self.each * self.ranks)))
        every = [(number, [start + row for row in rows]) for number, rows in every]
        shares = [every[r * self.each : (r + 1) * self.each] for r in range(self.ranks)]
        most = max(sum(len(part) > 0 for _, part in share) for share in shares)
        return [sorted(sorted(share, key=lambda piece: not piece[1])[:most]) for share in shares]

    def _tower(self, tower: str, source: TowerSource, plan: TowerPlan, step: int) -> TowerInputs:
        places, lengths = self._order[tower][plan.positions], self._lengths.get(tower)
        lengths = None if lengths is None else lengths[plan.positions]
        pseudo = len(plan.positions) - plan.pseudo
        bounds = {"matched": (0, plan.matched), "unmatched": (plan.matched, pseudo)}
        bounds["pseudo"] = pseudo, len(plan.positions)
        groups = {name: self._pieces(places, lengths, start, stop) for name, (start, stop) in bounds.items()}
        parts = [
            torch.tensor([row for shares in groups.values() for _, rows in shares[r] for row in rows], dtype=torch.long)
            for r in range(self.ranks)
        ]
        items = [source.index.items[p] for p in plan.positions]
        mine = [(name, number, rows) for name, shares in groups.items() for number, rows in shares[self.rank]]
        # A chunk of no rows is encoded with the first row of its group.
        chosen = [(name, number, len(rows), rows or [bounds[name][0]]) for name, number, rows in mine]
        wanted = sorted({row for *_, rows in chosen for row in rows})
        drawn = self._views_drawn(tower, source, plan, step)
        raw: dict[int, Any] = {}
        if source.features is None:
            raw = dict(zip(wanted, source.load(source.modality, [items[r] for r in wanted]), strict=True))
        views: list[list[Chunk]] = []
        for view in range(self.views):
            if view and drawn is None and not (source.features is None and source.augment):
                views.append(views[0])  # nothing draws before the tower does: the same tensors
                continue
            chunks = []
            for name, number, count, rows in chosen:
                if source.features is not None and drawn is not None:
                    inputs = source.features[drawn[rows, view], torch.from_numpy(plan.positions[rows])]
                elif source.features is not None:
                    inputs = source.features[torch.from_numpy(plan.positions[rows])]
                else:
                    keys = [self._key(tower, source, plan, items, r) for r in rows]
                    inputs = source.collate(
                        [self._augmented(source, raw[r], k, step, view) for r, k in zip(rows, keys, strict=True)]
                    )
                chunks.append(Chunk(group=name, number=number, rows=count, inputs=inputs))
            views.append(chunks)
        places = torch.from_numpy(plan.positions)
        labels, reference = (None if t is None else t[places] for t in (source.labels, source.reference))
        weight = torch.from_numpy(plan.weight)
        return TowerInputs(torch.from_numpy(plan.ids), items, plan.matched, parts, views, labels, weight, reference)

    def _key(self, tower: str, source: TowerSource, plan: TowerPlan, items: Sequence[str], row: int) -> str:
        """What an augmentation's stream is named after: the sample of a matched row, the item of another."""
        return source.index.samples[plan.positions[row]] if row < plan.matched else f"{tower}/{items[row]}"

    def _views_drawn(self, tower: str, source: TowerSource, plan: TowerPlan, step: int) -> Tensor | None:
        """Which of the cached views (rows, views) each row shows; the views of a row differ as far as there are any."""
        if source.features is None or source.features.ndim < 3:
            return None
        count, parts = len(source.features), []
        for group, rows in (("matched", plan.matched), ("unmatched", len(plan.positions) - plan.matched)):
            order = stream(self.seed, "cached view", tower, step, group).random((rows, count)).argsort(axis=1)
            parts.append(order[:, [view % count for view in range(self.views)]])
        return torch.from_numpy(np.concatenate(parts))

    def _augmented(self, source: TowerSource, item: Any, key: str, step: int, view: int) -> Any:
        """Augmentations draw from streams of their own that depend on sample, step and view but not on the tower:
        the same augmentation on two towers makes the same choices for both sides of a pair."""
        count: dict[str, int] = {}
        for name, function in source.augment:
            ordinal = count.get(name, 0)
            count[name] = ordinal + 1
            item = function(item, stream(self.seed, "augment", name, ordinal, key, step, view))
        return item


def step_batches(dataset: StepDataset, start: int, stop: int, workers: int = 0) -> Iterator[dict[str, TowerInputs]]:
    """The inputs of the steps start … stop − 1, in order."""
    return iter(
        DataLoader(
            dataset,
            sampler=range(start, stop),
            batch_size=None,
            num_workers=workers,
            prefetch_factor=2 if workers else None,
            multiprocessing_context="fork" if workers else None,
        )
    )
