"""The components of kit_sound, which those of kit_broken spoil one by one."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gentle_core.api import DataError, EncoderModule, ItemIndex, LossModule, LossOut


class Mean(EncoderModule):
    """Numbers of a strip through two layers, averaged over the strip."""

    def __init__(self, config):
        super().__init__()
        self.width = config.width
        self.first, self.second = nn.Linear(1, 2), nn.Linear(2, config.width, bias=False)
        self.last = nn.Parameter(torch.zeros(config.width - 1))
        self.dropout = config.dropout

    def collate(self, items: Sequence[np.ndarray]) -> dict[str, Tensor]:
        longest = max(len(item) for item in items)
        values, mask = torch.zeros(len(items), longest), torch.zeros(len(items), longest)
        for row, item in enumerate(items):
            values[row, : len(item)] = torch.from_numpy(item)
            mask[row, : len(item)] = 1
        return {"values": values, "mask": mask}

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return self.pool(self.positions(inputs["values"]), inputs["mask"])

    def positions(self, values: Tensor) -> Tensor:
        x = torch.tanh(self.second(torch.tanh(self.first(values.unsqueeze(-1)))))
        x = x + F.pad(self.last, (0, 1))
        return F.dropout(x, self.dropout, self.training)

    def pool(self, x: Tensor, mask: Tensor) -> Tensor:
        return (x * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)


def build_encoder(config, context):
    return Mean(config)


def build_noise(config, context):
    return lambda item, rng: item + rng.normal(size=item.shape).astype(np.float32) * 0.1


def build_scale(config, context):
    return lambda item, rng: item * np.float32(rng.uniform(0.5, 1.5))


def build_hide(config, context):
    def hide(inputs, rng):
        shown = torch.from_numpy(rng.random(inputs["values"].shape) > 0.3)
        return {**inputs, "values": inputs["values"] * shown}

    return hide


class Contrast(LossModule):
    def __init__(self, config):
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(1 / config.temperature).log())
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, batch, ctx):
        terms = {"pairs": self.pairs(batch), "views": self.views(batch, ctx)}
        return LossOut(terms["pairs"] + 0.5 * terms["views"], terms=terms, weights={"views": 0.5})

    def pairs(self, batch) -> Tensor:
        found = []
        for a, b in itertools.combinations(batch.towers, 2):
            i, j = batch.pairs(a, b)
            u, v = batch.towers[a].z, batch.towers[b].z
            logits = u[i] @ v[j].T * self.log_scale.exp()
            target = torch.arange(len(i))
            found.append(F.cross_entropy(logits, target, reduction="sum") / max(len(i), 1))
        return torch.stack(found).mean()

    def views(self, batch, ctx) -> Tensor:
        parts = [
            ((rows.z - rows.views) ** 2).sum() / max(len(rows.z), 1)
            for rows in batch.towers.values()
            if rows.views is not None
        ]
        return torch.stack(parts).sum() if parts else self.log_scale * 0

    def post_step(self, ctx):
        self.steps += 1


class Centroid(LossModule):
    """Squared distances of the towers' mean and spread from those of the first."""

    def forward(self, batch, ctx):
        means, spreads = [], []
        for rows in batch.towers.values():
            count = max(len(rows.raw), 1)
            means.append(rows.raw.sum(0).sum() / count)
            spreads.append(rows.raw.square().sum() / count)
        loss = sum(((a - b) ** 2 for a, b in itertools.combinations(means, 2)), start=means[0] * 0)
        return LossOut(loss + sum(((a - b).tanh() ** 2 for a, b in itertools.combinations(spreads, 2))))


def build_contrast(config, context):
    return Contrast(config)


def build_centroid(config, context):
    return Centroid()


class Folder:
    """Strips in files; a strip's label is its rounded mean, as an array of one number."""

    def __init__(self, path):
        self.path = path
        self.names = sorted(file.stem for file in path.glob("*.txt"))
        if not self.names:
            raise DataError(f"{path}: holds no .txt file")

    def index(self, split: str) -> dict[str, ItemIndex]:
        part = {"train": 0, "val": 1, "test": 2}[split]
        names = [name for number, name in enumerate(self.names) if min(number % 6, 3) % 3 == part]
        lengths = {"length": np.array([len(self.read(name)) for name in names])}
        return {m: ItemIndex(names, attributes=lengths) for m in ("strip", "strip-label")}

    def read(self, name: str) -> np.ndarray:
        file = self.path / f"{name}.txt"
        if name not in self.names:
            raise DataError(f"{self.path} has no strip {name!r}")
        return np.array([float(word) for word in file.read_text().split()], dtype=np.float32)

    def load(self, modality: str, items: Sequence[str]) -> list[Any]:
        if modality not in ("strip", "strip-label"):
            raise DataError(f"there is no modality {modality!r} here, only strip and strip-label")
        strips = [self.read(name) for name in items]
        return strips if modality == "strip" else [strip.mean(keepdims=True) for strip in strips]

    def facts(self) -> dict[str, Any]:
        return {"source": "made by the tests", "shortcuts": ["length"]}


def build_folder(config, context):
    return Folder(config.path)


class Spread:
    def __init__(self, folder):
        self.folder = folder

    def evaluate(self, model):
        items = self.folder.load("strip", self.folder.names)
        tower = next(name for name, modality in model.towers.items() if modality == "strip")
        return {"spread": float(model.embed(tower, items).std()), "facts": {"items": len(items)}}


def build_task(config, context):
    return Spread(Folder(config.path))


class FirstFive:
    def __init__(self):
        self.steps = torch.zeros(1)

    def embed(self, view):
        return {t: torch.nn.functional.normalize(view.features(t, "pool")[:, :5], dim=1) for t in view.towers}

    def observe(self, model, step):
        self.steps = self.steps + 1

    def state(self):
        return {"steps": self.steps}

    def load(self, state):
        self.steps = state["steps"]


def build_teacher(config, context):
    return FirstFive()
