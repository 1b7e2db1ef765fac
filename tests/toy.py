"""A plugin for tests: three modalities of small vectors that describe the same points, with tiny encoders."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from gentle_core.api import (
    AugmentationSpec,
    BuildContext,
    DatasetSpec,
    EncoderSpec,
    ItemIndex,
    ModalitySpec,
    hookimpl,
)

MODALITIES = ("toy-a", "toy-b", "toy-c")


@attrs.frozen
class PointsConfig:
    count: int = 96
    held_out: int = 24
    extra_a: int = 0
    nan_at: int = -1
    missing_on_rank: int = -1
    dies_on_rank: int = -1
    slow: float = 0.0
    seed: int = 0


@attrs.frozen
class MlpConfig:
    width: int = 16
    dropout: float = 0.0
    norm: bool = False
    blocks: int = 0
    uneven: bool = False
    fails_on_rank: int = -1


@attrs.frozen
class NoiseConfig:
    sigma: float = 0.1


class Points:
    """`count` training points seen through three fixed random maps; modality A has `extra_a` points without a mate."""

    def __init__(self, config: PointsConfig):
        self.config = config
        rng = np.random.default_rng(config.seed)
        total = config.count + 2 * config.held_out + config.extra_a
        hidden = rng.normal(size=(total, 5))
        self.values = {
            name: (hidden @ rng.normal(size=(5, 8)) + 0.05 * rng.normal(size=(total, 8))).astype(np.float32)
            for name in MODALITIES
        }
        self.calls = 0
        if config.nan_at >= 0:
            self.values["toy-a"][config.nan_at] = np.nan

    def index(self, split: str) -> Mapping[str, ItemIndex]:
        c = self.config
        start = {"train": 0, "val": c.count, "test": c.count + c.held_out}[split]
        stop = start + (c.count if split == "train" else c.held_out)
        found = {}
        for name in MODALITIES:
            rows = list(range(start, stop))
            if name == "toy-a" and split == "train":
                rows += range(c.count + 2 * c.held_out, c.count + 2 * c.held_out + c.extra_a)
            size = np.array([10 + r % 7 for r in rows])
            found[name] = ItemIndex([f"p{r}" for r in rows], attributes={"length": size})
        return found

    def load(self, modality: str, items: Sequence[str]) -> list[Any]:
        if self.config.slow:
            Path(os.environ["TOY_LOADS"]).touch()
            time.sleep(self.config.slow)
        self.calls += 1
        rank = int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")))
        if self.calls > 4 and rank == self.config.missing_on_rank:
            raise FileNotFoundError(2, "No such file or directory", f"{items[0]}.npy")
        if self.calls > 4 and rank == self.config.dies_on_rank:
            os.kill(os.getpid(), signal.SIGKILL)
        return [self.values[modality][int(item[1:])] for item in items]

    def facts(self) -> Mapping[str, Any]:
        return {"source": "made by the tests", "shortcuts": ["length"]}


def build_points(config: PointsConfig, context: BuildContext) -> Points:
    return Points(config)


def build_mlp(config: MlpConfig, context: BuildContext) -> Any:
    import torch

    from gentle_core.api import EncoderModule

    class Block(torch.nn.Module):
        """A layer of a transformer."""

        def __init__(self) -> None:
            super().__init__()
            self.before, self.between = torch.nn.LayerNorm(32), torch.nn.LayerNorm(32)
            self.qkv, self.out = torch.nn.Linear(32, 96), torch.nn.Linear(32, 32)
            self.wide = torch.nn.Sequential(
                torch.nn.Linear(32, 64), torch.nn.GELU(), torch.nn.Dropout(config.dropout), torch.nn.Linear(64, 32)
            )

        def forward(self, x: Any) -> Any:
            q, k, v = self.qkv(self.before(x)).unflatten(-1, (3, 2, 16)).permute(2, 0, 3, 1, 4)
            seen = torch.nn.functional.scaled_dot_product_attention(q, k, v)
            x = x + self.out(seen.transpose(1, 2).flatten(-2))
            return x + self.wide(self.between(x))

    class Transformer(torch.nn.Module):
        """The eight numbers as a sequence."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = torch.nn.Linear(1, 32), torch.nn.Linear(32, config.width)
            self.place = torch.nn.Parameter(torch.randn(8, 32))
            self.blocks = torch.nn.ModuleList([Block() for _ in range(config.blocks)])

        def forward(self, x: Any) -> Any:
            x = self.first(x.unsqueeze(-1)) + self.place
            for block in self.blocks:
                x = block(x)
            return self.last(x.mean(1))

    class Mlp(EncoderModule):
        width = config.width
        calls_vary = config.uneven

        def __init__(self) -> None:
            super().__init__()
            if config.blocks:
                self.layers: Any = Transformer()
                return
            norm = [torch.nn.BatchNorm1d(32)] if config.norm else []
            self.layers = torch.nn.Sequential(
                torch.nn.Linear(8, 32), *norm, torch.nn.Tanh(), torch.nn.Dropout(config.dropout),
                torch.nn.Linear(32, config.width),
            )  # fmt: skip

        def collate(self, items: Sequence[Any]) -> Any:
            return {"x": torch.from_numpy(np.stack(items))}

        def forward(self, inputs: Any) -> Any:
            if self.training and config.fails_on_rank == int(os.environ.get("RANK", "0")):
                raise RuntimeError("no memory, on purpose")
            x = inputs["x"]
            if config.uneven:  # one to four times, as the batch has it
                kinds = (x[:, 0] > 0).int() + 2 * (x[:, 1] > 0)
                groups = [(kinds == kind).nonzero().flatten() for kind in kinds.unique()]
                out = torch.cat([self.layers(x[rows]) for rows in groups])[torch.cat(groups).argsort()]
            else:
                out = self.layers(x)
            if out.requires_grad and os.environ.get("TOY_NAN_RANK") == os.environ.get("RANK", "none"):
                self.passes = getattr(self, "passes", 0) + 1
                if self.passes == int(os.environ["TOY_NAN_PASS"]):
                    out.register_hook(lambda gradient: gradient * float("nan"))
            return out

    return Mlp()


def build_noise(config: NoiseConfig, context: BuildContext) -> Any:
    return lambda item, rng: item + config.sigma * rng.normal(size=item.shape).astype(np.float32)


@hookimpl
def gentle_modalities() -> list[ModalitySpec]:
    return [ModalitySpec(name=name, summary="Vectors for tests") for name in MODALITIES]


@hookimpl
def gentle_datasets() -> list[DatasetSpec]:
    return [
        DatasetSpec(
            name="points", modalities=MODALITIES, config=PointsConfig, target=f"{__name__}:build_points",
            summary="Points seen three ways",
        )
    ]  # fmt: skip


@hookimpl
def gentle_encoders() -> list[EncoderSpec]:
    return [
        EncoderSpec(
            name=f"mlp-{name[-1]}", modality=name, config=MlpConfig, target=f"{__name__}:build_mlp", summary="Tiny MLP"
        )
        for name in MODALITIES
    ]


@hookimpl
def gentle_augmentations() -> list[AugmentationSpec]:
    return [
        AugmentationSpec(
            name="noise", modalities=MODALITIES, config=NoiseConfig, target=f"{__name__}:build_noise",
            summary="Gaussian noise",
        )
    ]  # fmt: skip
