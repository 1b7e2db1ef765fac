"""From edges to the tensors that the layers read: sums over neighbours become padded batches of small matrices."""

from __future__ import annotations

from typing import TypedDict

import torch
from torch import Tensor

from gentle_protein.cdconv.geometry import EDGE_FEATURES, Chains, Edges, pool_members


class Neighbourhood(TypedDict):
    """Who is summed over whom: N targets with up to M sources each, among N' sources.

    Attributes:
        sources: (N, M) source numbers; free slots hold any source of the same chain and must have weight zero.
        mirror: (N', M') flat slots (target * M + slot) that read a source; N * M where there are no more.
    """

    sources: Tensor
    mirror: Tensor


class Stage(TypedDict):
    """The edges of one stage.

    Attributes:
        features: (l, C, 8), edges grouped by tap, so that l small matrix products give all kernels. At least one row
            of every group is free, and free rows are zero.
        row_of_slot: (N, M) row of `features`, counted over all groups, of the edge in each slot of `around`; a zero
            row for free slots.
        slot_of_row: (l, C) the reverse; any slot for free rows.
        around: the neighbourhood of every residue.
    """

    features: Tensor
    row_of_slot: Tensor
    slot_of_row: Tensor
    around: Neighbourhood


def stage(edges: Edges, count: int, taps: int) -> Stage:
    """The padded form of `edges` between `count` residues, with `taps` taps."""
    device = edges.target.device
    degree = torch.bincount(edges.target, minlength=count)
    width = int(degree.max())
    place = torch.arange(len(edges.target), device=device)
    slot = edges.target * width + place - (degree.cumsum(0) - degree).gather(0, edges.target)

    sources = torch.arange(count, device=device).repeat_interleave(width).scatter_(0, slot, edges.source)
    mirror = torch.full_like(sources, count * width).scatter_(0, slot, edges.source * width + edges.mirror)

    tap, order = torch.sort(edges.tap.to(torch.uint8), stable=True)
    tap = tap.long()
    population = torch.bincount(tap, minlength=taps)
    height = int(population.max()) + 1
    row = tap * height + place - (population.cumsum(0) - population).gather(0, tap)
    slot = slot.gather(0, order)

    features = edges.features.new_zeros(taps * height, EDGE_FEATURES)
    features.index_copy_(0, row, edges.features.index_select(0, order))
    row_of_slot = torch.full_like(sources, height - 1).scatter_(0, slot, row)
    slot_of_row = torch.zeros(taps * height, dtype=torch.long, device=device).scatter_(0, row, slot)
    return Stage(
        features=features.view(taps, height, EDGE_FEATURES),
        row_of_slot=row_of_slot.view(count, width),
        slot_of_row=slot_of_row.view(taps, height),
        around=Neighbourhood(sources=sources.view(count, width), mirror=mirror.view(count, width)),
    )


def whole_chains(chains: Chains, device: torch.device) -> Neighbourhood:
    """Each chain as a target with all its residues as sources, for the mean over a chain."""
    lengths = torch.tensor(chains.lengths, device=device)
    longest = max(chains.lengths)
    start = (lengths.cumsum(0) - lengths)[:, None]
    place = torch.arange(longest, device=device)[None]
    chain, rank = chains.ranks(device)
    return Neighbourhood(
        sources=start + torch.where(place < lengths[:, None], place, 0),
        mirror=(chain * longest + rank)[:, None],
    )


def pairs(chains: Chains, device: torch.device) -> Tensor:
    """(N', 2): the residues whose mean each pooled residue is."""
    return torch.stack(pool_members(chains, device), 1)
