"""From a step's rows to the tensors that the towers read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from gentle_core.batch import ItemIndex
from gentle_core.data.sampler import BatchSampler, TowerPlan
from gentle_core.data.streams import stream


@attrs.define
class Chunk:
    """Rows that go through an encoder together: of one group ("matched" or "unmatched"), never of both, so that
    leaving the unmatched rows out changes nothing for the matched ones.

    `inputs` are collated items, or features (rows, width) where the encoder is frozen and cached."""

    group: str
    number: int
    rows: int
    inputs: Any


@attrs.define
class TowerInputs:
    """One tower's rows of a step; `views[v]` holds the chunks of view v, rows (and `labels`) in the order of `ids`."""

    ids: Tensor
    items: list[str]
    matched: int
    views: list[list[Chunk]]
    labels: Tensor | None = None


@attrs.define
class TowerSource:
    """Where a tower's inputs come from.

    Attributes:
        modality: its modality in the dataset.
        index: the training items.
        load: item ids to raw items.
        collate: raw items to tensors.
        augment: item-stage augmentations as (name, function).
        features: (n, width) cached features of the training items, or None to encode anew every step.
        labels: (n,) or (n, K) labels of the training items, for an objective that needs them.
    """

    modality: str
    index: ItemIndex
    load: Callable[[str, Sequence[str]], list[Any]]
    collate: Callable[[Sequence[Any]], Any]
    augment: Sequence[tuple[str, Callable[..., Any]]] = ()
    features: Tensor | None = None
    labels: Tensor | None = None


class StepDataset(TorchDataset[dict[str, TowerInputs]]):
    """Item `step` is the whole input of that step, so any number of workers gives the same batches."""

    def __init__(
        self, sources: Mapping[str, TowerSource], sampler: BatchSampler, seed: int, views: int = 1, chunks: int = 1
    ):
        self.sources, self.sampler, self.seed = sources, sampler, seed
        self.views, self.chunks = views, chunks

    def __getitem__(self, step: int) -> dict[str, TowerInputs]:
        plans = self.sampler.batch(step)
        return {tower: self._tower(tower, source, plans[tower], step) for tower, source in self.sources.items()}

    def _tower(self, tower: str, source: TowerSource, plan: TowerPlan, step: int) -> TowerInputs:
        items = [source.index.items[p] for p in plan.positions]
        keys = [source.index.samples[p] for p in plan.positions[: plan.matched]]
        keys += [f"{tower}/{item}" for item in items[plan.matched :]]
        raw = source.load(source.modality, items) if source.features is None else []
        views = []
        for view in range(self.views):
            chunks = []
            for group, start, stop in (("matched", 0, plan.matched), ("unmatched", plan.matched, len(items))):
                for number, part in enumerate(torch.arange(start, stop).chunk(self.chunks) if stop > start else ()):
                    rows = part.tolist()
                    if source.features is not None:
                        inputs = source.features[torch.from_numpy(plan.positions[rows])]
                    else:
                        inputs = source.collate([self._augmented(source, raw[r], keys[r], step, view) for r in rows])
                    chunks.append(Chunk(group=group, number=number, rows=len(rows), inputs=inputs))
            views.append(chunks)
        labels = None if source.labels is None else source.labels[torch.from_numpy(plan.positions)]
        return TowerInputs(torch.from_numpy(plan.ids), items, plan.matched, views, labels)

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
