"""CDConv (Fan et al., "Continuous-Discrete Convolution for Geometry-Sequence Modeling in Proteins", ICLR 2023), with
the neighbour-displacement input of Gentle-CLIP (Eq. 12) in place of residue types.

The arithmetic is that of the published model; the form is another: geometry once a stage instead of once a block,
kernels from l small matrix products, and sums over neighbours as a batch of small matrix products.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict

import attrs
import numpy as np
import torch
from torch import Tensor, nn

from gentle_core.api import BuildContext, DataError, EncoderModule, hash_tensors
from gentle_protein.cdconv.batches import Geometry, cached_geometry, flat_geometry, padded_geometry
from gentle_protein.cdconv.cache import GeometryCache
from gentle_protein.cdconv.config import CDConvConfig
from gentle_protein.cdconv.geometry import Chains
from gentle_protein.cdconv.layers import Blocks, chain_means
from gentle_protein.chain import MIN_RESIDUES

RESIDUE_TYPES = 21


class Inputs(TypedDict):
    """What `forward` reads: N residues of B chains, one chain after another.

    Attributes:
        positions: (N, 3) Å.
        lengths: (B,) residues of each chain.
        geometry: what follows from the positions; absent where training noise will move them.
        noise: (N, noise_channels), the fixed noise of evaluation, where it is not zero.
        residues: (N,) types 0–20, for `input = "residue"` alone.
    """

    positions: Tensor
    lengths: Tensor
    geometry: NotRequired[Geometry]
    noise: NotRequired[Tensor]
    residues: NotRequired[Tensor]


class CDConvEncoder(EncoderModule):
    """Features (B, channels[-1]) of protein chains from their Cα coordinates."""

    def __init__(self, config: CDConvConfig) -> None:
        super().__init__()
        self.config = config
        self.width = config.channels[-1]
        if config.input == "displacement":
            self.embedding: nn.Linear | nn.Embedding = nn.Linear(6, config.input_channels)
        else:
            self.embedding = nn.Embedding(RESIDUE_TYPES, config.input_channels)
        widths = (config.embedding_channels, *config.channels)
        self.stages = nn.ModuleList(Blocks(a, b, config) for a, b in itertools.pairwise(widths))
        self.cache = GeometryCache(config.cache_mib << 20)

    def collate(self, items: Sequence[Any]) -> Inputs:
        """Structures to tensors on the CPU, with the geometry of chains seen before taken from the cache.

        Raises:
            DataError: a chain of fewer than three residues, or with coordinates that are not numbers.
        """
        names, coordinates = [item.id for item in items], [item.ca for item in items]
        lengths = [len(ca) for ca in coordinates]
        for name, ca in zip(names, coordinates, strict=True):
            _check_length(name, len(ca))
            if not np.isfinite(ca).all():
                raise DataError(f"chain {name!r} has coordinates that are not finite numbers")
        positions = torch.from_numpy(np.concatenate(coordinates)).to(self._dtype)
        inputs = Inputs(positions=positions, lengths=torch.tensor(lengths))
        if not self._moves_residues:
            flat = cached_geometry(names, coordinates, self.config, self.cache, self._dtype)
            inputs["geometry"] = padded_geometry(flat, Chains(lengths), self.config)
        if self._seeds_noise:
            inputs["noise"] = self._seeded_noise(names, lengths)
        if self.config.input == "residue":
            inputs["residues"] = torch.cat([_residues(item) for item in items])
        return inputs

    def forward(self, inputs: Inputs) -> Tensor:
        """Features (B, width) in the order of the collated chains."""
        positions = inputs["positions"]
        if self._moves_residues or "geometry" not in inputs:
            noise = self.config.position_noise * torch.randn_like(positions) if self._moves_residues else None
            chains = Chains(inputs["lengths"].tolist())
            geometry = padded_geometry(flat_geometry(positions, chains, self.config, noise), chains, self.config)
        else:
            geometry = inputs["geometry"]

        x = self._embed(inputs, geometry).index_select(0, geometry["order"])
        for level, blocks in enumerate(self.stages):
            if level:
                pairs = geometry["pairs"][level - 1]
                x = x.index_select(0, pairs.view(-1)).view(*pairs.shape, -1).mean(1)
            x = blocks(x, geometry["stages"][level])
        return chain_means(x, geometry["chains"], geometry["lengths"])

    def encode_pyg(self, batch: Any) -> Tensor:
        """Features (B, width) of a torch-geometric `Batch` with `pos` (N, 3) in Å and `batch` (N,).

        Geometry is computed on the batch's device. `x` (N,), residue types 0–20, is read for `input = "residue"` alone.
        A graph is known by its `id`, where it has one.

        Raises:
            DataError: the graphs' residues are interleaved, or a chain has fewer than three of them.
        """
        which = batch.batch
        if (which.diff() < 0).any():
            raise DataError("batch.batch must be in ascending order, as torch_geometric.data.Batch makes it")
        lengths = torch.bincount(which, minlength=int(getattr(batch, "num_graphs", 0) or 0))
        names = [str(name) for name in getattr(batch, "id", None) or [f"graph {k}" for k in range(len(lengths))]]
        for name, length in zip(names, lengths.tolist(), strict=True):
            _check_length(name, length)
        inputs = Inputs(positions=batch.pos.to(self._dtype), lengths=lengths)
        if self._seeds_noise:
            inputs["noise"] = self._seeded_noise(names, lengths.tolist()).to(which.device)
        if self.config.input == "residue":
            inputs["residues"] = batch.x.view(-1).long()
        return self(inputs)

    def fingerprint(self) -> str:
        options = attrs.evolve(self.config, cache_mib=0)
        return hashlib.sha256(f"{hash_tensors(self.state_dict())}|{options}".encode()).hexdigest()

    def facts(self) -> Mapping[str, Any]:
        return {
            "weights": "trained from scratch",
            "parameters": sum(p.numel() for p in self.parameters()),
            "neighborhood": self.config.neighborhood,
            "input": f"{self.config.input}, {self.config.frame} frame"
            if self.config.input == "displacement"
            else self.config.input,
        }

    @property
    def _dtype(self) -> torch.dtype:
        """Of the geometry: float64 in a float64 model, float32 in any other."""
        own = next(self.parameters()).dtype
        return own if own == torch.float64 else torch.float32

    @property
    def _moves_residues(self) -> bool:
        return self.training and self.config.position_noise > 0

    def _embed(self, inputs: Inputs, geometry: Geometry) -> Tensor:
        """What the first block reads, (N, embedding_channels)."""
        if self.config.input == "displacement":
            x = self.embedding(geometry["displacement"].to(self.embedding.weight.dtype))
        else:
            x = self.embedding(inputs["residues"])
        if self.config.noise_channels == 0:
            return x
        shape = (len(x), self.config.noise_channels)
        if self.training:
            noise = torch.randn(shape, dtype=x.dtype, device=x.device)
        else:
            noise = inputs["noise"].to(x.dtype) if "noise" in inputs else x.new_zeros(shape)
        return torch.cat([x, noise], 1)

    @property
    def _seeds_noise(self) -> bool:
        return self.config.noise_channels > 0 and self.config.evaluation_noise == "seeded"

    def _seeded_noise(self, names: Sequence[str], lengths: Sequence[int]) -> Tensor:
        """(N, noise_channels): of each chain, by its name alone."""
        noise = []
        for name, length in zip(names, lengths, strict=True):
            seed = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=7).digest(), "big")
            generator = torch.Generator().manual_seed(seed)
            noise.append(torch.randn(length, self.config.noise_channels, generator=generator, dtype=self._dtype))
        return torch.cat(noise)


def _check_length(name: str, length: int) -> None:
    if length < MIN_RESIDUES:
        raise DataError(f"chain {name!r} has {length} residues; CDConv needs {MIN_RESIDUES} for a local frame")


def _residues(item: Any) -> Tensor:
    if not hasattr(item, "residues"):
        raise DataError(
            f'chain {item.id!r} brings no residue types; with input = "residue" items need an array `residues` '
            'of types 0–20. input = "displacement" reads coordinates alone'
        )
    return torch.as_tensor(np.asarray(item.residues), dtype=torch.long)


def build(config: CDConvConfig, context: BuildContext) -> CDConvEncoder:
    """The encoder, initialised from `context.seed` without touching the global random state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(context.seed)
        return CDConvEncoder(config)
