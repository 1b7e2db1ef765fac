"""From raw chains to the nested dict of tensors that the encoder's `forward` reads, and that dict's geometry."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TypedDict

import attrs
import numpy as np
import torch
from torch import Tensor

from gentle_protein.cdconv import geometry, layout
from gentle_protein.cdconv.cache import ChainGeometry, GeometryCache, key
from gentle_protein.cdconv.config import CDConvConfig
from gentle_protein.cdconv.geometry import Chains, Edges
from gentle_protein.cdconv.layout import Neighbourhood, Stage


class Geometry(TypedDict):
    """All that depends on positions.

    Attributes:
        displacement: (N, 6), Eq. 12.
        order: (N,) the residues in the order of the first stage.
        stages: the edges of each stage.
        pairs: for each stage but the last, the residues (N', 2) whose mean is a residue of the next.
        chains: the residues of each chain at the last stage.
        lengths: (B,) their numbers.
    """

    displacement: Tensor
    order: Tensor
    stages: list[Stage]
    pairs: list[Tensor]
    chains: Neighbourhood
    lengths: Tensor


def stage_chains(chains: Chains, stages: int) -> list[Chains]:
    """How residues divide into chains at each of `stages` stages."""
    return list(itertools.accumulate(range(stages - 1), lambda c, _: c.pooled(), initial=chains))


@torch.no_grad()
def flat_geometry(positions: Tensor, chains: Chains, config: CDConvConfig, noise: Tensor | None) -> ChainGeometry:
    """Displacements and edges of a whole batch from positions (N, 3) in Å, numbered through the batch.

    `noise` (N, 3) moves the residues but not their frames.
    """
    places = positions.T.contiguous()
    frames = geometry.local_frames(places, chains)
    bonded = geometry.bonds(places, chains.ranks(places.device)[0])
    if noise is not None:
        places = places + noise.T
    displacement = geometry.displacements(places, bonded, frames if config.frame == "local" else None)
    stages = []
    for level, radius in enumerate(config.radii):
        if level:
            places, frames = geometry.pool(places, frames, chains)
            chains = chains.pooled()
        window = config.neighborhood == "window"
        stages.append(geometry.edges(places, frames, chains, radius, config.kernel_size, window))
    return ChainGeometry(displacement, tuple(stages))


def padded_geometry(flat: ChainGeometry, chains: Chains, config: CDConvConfig) -> Geometry:
    """The form that the layers read."""
    levels = stage_chains(chains, len(config.radii))
    padded = [
        layout.stage(edges, sum(level.lengths), config.kernel_size)
        for edges, level in zip(flat.stages, levels, strict=True)
    ]
    numberings = [numbering for _, numbering in padded]
    return Geometry(
        displacement=flat.displacement,
        order=numberings[0].order,
        stages=[stage for stage, _ in padded],
        pairs=[layout.pairs(*args) for args in zip(levels, numberings, numberings[1:], strict=False)],
        chains=layout.whole_chains(levels[-1], numberings[-1]),
        lengths=torch.tensor(levels[-1].lengths, device=flat.displacement.device),
    )


def cached_geometry(
    names: Sequence[str],
    coordinates: Sequence[np.ndarray],
    config: CDConvConfig,
    cache: GeometryCache,
    dtype: torch.dtype,
) -> ChainGeometry:
    """What `flat_geometry` returns for these chains without noise, computing only what the cache does not hold."""
    keys = [key(name, array, dtype) for name, array in zip(names, coordinates, strict=True)]
    chains = [cache.get(k) for k in keys]
    missing = [index for index, chain in enumerate(chains) if chain is None]
    if missing:
        new = Chains(len(coordinates[index]) for index in missing)
        positions = torch.from_numpy(np.concatenate([coordinates[index] for index in missing])).to(dtype)
        flat = flat_geometry(positions, new, config, noise=None)
        if len(missing) == len(chains) and cache.limit_bytes == 0:
            return flat
        for index, part in zip(missing, split(flat, new), strict=True):
            cache.offer(keys[index], part)
            chains[index] = part
        if len(missing) == len(chains):
            return flat
    return join([chain for chain in chains if chain is not None], Chains(len(c) for c in coordinates))


def split(flat: ChainGeometry, chains: Chains) -> list[ChainGeometry]:
    """The geometry of each chain of a batch (views)."""
    levels = stage_chains(chains, len(flat.stages))
    by_stage = [_split_edges(edges, level) for edges, level in zip(flat.stages, levels, strict=True)]
    displacements = flat.displacement.split(list(chains.lengths))
    return [ChainGeometry(d, tuple(stages)) for d, *stages in zip(displacements, *by_stage, strict=True)]


def _split_edges(edges: Edges, chains: Chains) -> list[Edges]:
    bounds = torch.searchsorted(edges.target, torch.tensor([*chains.starts, sum(chains.lengths)]))
    counts = bounds.diff().tolist()
    fields = [getattr(edges, field.name).split(counts) for field in attrs.fields(Edges)]
    return [
        Edges(target - start, source - start, *others)
        for start, target, source, *others in zip(chains.starts, *fields, strict=True)
    ]


def join(parts: Sequence[ChainGeometry], chains: Chains) -> ChainGeometry:
    """The geometry of a batch from that of its chains."""
    levels = stage_chains(chains, len(parts[0].stages))
    stages = tuple(_join_edges([p.stages[i] for p in parts], level) for i, level in enumerate(levels))
    return ChainGeometry(torch.cat([p.displacement for p in parts]), stages)


def _join_edges(parts: Sequence[Edges], chains: Chains) -> Edges:
    counts = torch.tensor([len(p.target) for p in parts])
    start = torch.repeat_interleave(torch.tensor(chains.starts), counts)
    fields = [torch.cat([getattr(p, field.name) for p in parts]) for field in attrs.fields(Edges)]
    target, source, mirror, tap, features = fields
    return Edges(target + start, source + start, mirror.long(), tap, features)
