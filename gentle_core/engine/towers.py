"""Towers: an encoder and the projection head that maps its features into the joint space.

Shape suffixes: B rows, W encoder width, D joint dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gentle_core.data.features import ahead, size_buckets
from gentle_core.errors import ComponentError
from gentle_core.recipe.model import HeadTable

EVALUATION_BUDGET = 16384
"""Padded units (residues, tokens, patches: the encoder's own measure) encoded at once without gradients."""

CPU_BUDGET = 1024
"""The same on a processor, which gains nothing from more: activations then stay in its caches, and are small enough
that memory is used again instead of being asked for anew (tests/benchmarks/image_features.py)."""


def to_device(value: Any, device: torch.device) -> Any:
    """Tensors in nested dicts, lists and tuples moved to `device`; anything else as it is."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, Mapping):
        return {key: to_device(part, device) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(to_device(part, device) for part in value)
    return value


def varying(std_W: Tensor) -> Tensor:
    """Which columns vary, by their deviations: beside the widest one, less than a millionth is rounding."""
    return std_W > 1e-6 * std_W.max().clamp(min=1e-30)


class ProjectionHead(nn.Module):
    """Features (B, W) to unnormalised projections (B, D): z-score, dropout, hidden layer with GELU, linear."""

    mean: Tensor
    std: Tensor

    def __init__(self, width: int, table: HeadTable):
        super().__init__()
        self.dimension = table.dimension
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))
        self.dropout_input = nn.Dropout(table.dropout_input)
        if table.hidden:
            self.layers: nn.Module = nn.Sequential(
                nn.Linear(width, table.hidden),
                nn.GELU(),
                nn.Dropout(table.dropout),
                nn.Linear(table.hidden, table.dimension),
            )
        else:
            self.layers = nn.Linear(width, table.dimension)
        if table.init == "identity":
            if width != table.dimension:
                raise ComponentError(f'init = "identity" needs head.dimension = {width}, the encoder\'s width')
            nn.init.eye_(self.layers.weight)  # type: ignore[arg-type]
            nn.init.zeros_(self.layers.bias)  # type: ignore[arg-type]

    def standardize(self, features_BW: Tensor) -> None:
        """Take mean and standard deviation from these features; a constant column keeps a deviation of 1."""
        self.mean.copy_(features_BW.mean(0))
        std = features_BW.std(0, correction=0)
        self.std.copy_(torch.where(varying(std), std, 1.0))

    def forward(self, features_BW: Tensor) -> Tensor:
        return self.layers(self.dropout_input((features_BW - self.mean) / self.std))


class Tower(nn.Module):
    """An encoder with its head. `batch_augment` acts on collated inputs in training, under the step's seed."""

    def __init__(self, encoder: Any, head: ProjectionHead, modality: str, frozen: bool):
        super().__init__()
        self.encoder, self.head, self.modality, self.frozen = encoder, head, modality, frozen
        self.batch_augment: Sequence[Callable[[Any, np.random.Generator], Any]] = ()
        if frozen:
            self.encoder.requires_grad_(False)

    def train(self, mode: bool = True) -> Tower:
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def features(self, inputs: Any) -> Tensor:
        """Collated inputs to features (B, W)."""
        if self.training and self.batch_augment:
            # The step has seeded torch for this chunk: the same seed gives the same changes when the chunk runs again.
            rng = np.random.Generator(np.random.Philox(key=torch.initial_seed()))
            for augment in self.batch_augment:
                inputs = augment(inputs, rng)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return self.encoder(inputs)

    def forward(self, inputs: Any, cached: bool = False) -> Tensor:
        """Collated inputs (or cached features) to projections (B, D), float32 or wider."""
        projections_BD = self.head(inputs if cached else self.features(inputs))
        return projections_BD.float() if projections_BD.element_size() < 4 else projections_BD


class AlignedModel(nn.Module):
    """All towers of a run. What a saved model loads as, and what tasks evaluate (`EmbeddingModel`)."""

    def __init__(self, towers: Mapping[str, Tower], precision: str = "float32"):
        super().__init__()
        self.tower_modules = nn.ModuleDict(towers)
        self.precision = precision

    @property
    def towers(self) -> dict[str, str]:
        """Modality of each tower."""
        return {name: self.tower(name).modality for name in self.tower_modules}

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def tower(self, name: str) -> Tower:
        tower = self.tower_modules[name]
        assert isinstance(tower, Tower)
        return tower

    @property
    def budget(self) -> int:
        """Padded units to encode at once without gradients."""
        return CPU_BUDGET if self.device.type == "cpu" else EVALUATION_BUDGET

    def autocast(self) -> torch.autocast:
        """The towers' precision as a context."""
        dtype = torch.float16 if self.precision == "float16" else torch.bfloat16
        return torch.autocast(self.device.type, dtype=dtype, enabled=self.precision != "float32")

    def project(self, name: str, inputs: Any, cached: bool = False) -> Tensor:
        """Collated inputs, or cached features, to projections (B, D) on the model's device, in the mode it is in."""
        with self.autocast():
            return self.tower(name)(to_device(inputs, self.device), cached)

    def forward(self, name: str, inputs: Any, cached: bool = False) -> Tensor:
        """`project`, under the name by which wrappers of modules call it."""
        return self.project(name, inputs, cached)

    @torch.no_grad()
    def encode_inputs(self, name: str, inputs: Any) -> Tensor:
        """Collated items to encoder features (B, W), in eval mode, float32 on the CPU."""
        tower = self.tower(name)
        was_training, _ = tower.training, tower.eval()
        try:
            with self.autocast():
                return tower.features(to_device(inputs, self.device)).float().cpu()
        finally:
            tower.train(was_training)

    def encode(self, name: str, items: Sequence[Any]) -> Tensor:
        """Raw items to encoder features (B, W), in eval mode, bucketed by size, float32 on the CPU."""
        encoder = self.tower(name).encoder
        features = torch.empty(len(items), encoder.width)
        buckets = list(size_buckets([encoder.size(item) for item in items], self.budget))
        prepared = ahead(lambda rows: encoder.collate([items[r] for r in rows]), buckets)
        for rows, inputs in zip(buckets, prepared, strict=True):
            features[rows] = self.encode_inputs(name, inputs)
        return features

    @torch.no_grad()
    def head(self, name: str, features: Tensor) -> Tensor:
        """Encoder features (B, W) to unit embeddings (B, D), in eval mode, on the CPU."""
        tower = self.tower(name)
        was_training, _ = tower.training, tower.eval()
        try:
            return F.normalize(self.project(name, features, cached=True), dim=-1).cpu()
        finally:
            tower.train(was_training)

    def embed(self, tower: str, items: Sequence[Any], space: str = "joint") -> Tensor:
        """Raw items through a tower: unit vectors (B, D) for "joint", encoder features (B, W) for "feature"."""
        features = self.encode(tower, items)
        return features if space == "feature" else self.joint(tower, items, features)

    def joint(self, tower: str, items: Sequence[Any], features: Tensor) -> Tensor:
        """Raw items, with their encoder features (B, W), to unit embeddings (B, D)."""
        return self.head(tower, features)

    def trained_state(self) -> dict[str, Tensor]:
        """The state that training changes: everything but the encoders that are frozen."""
        frozen = tuple(f"tower_modules.{n}.encoder." for n in self.tower_modules if self.tower(n).frozen)
        return {k: v for k, v in self.state_dict().items() if not (frozen and k.startswith(frozen))}
