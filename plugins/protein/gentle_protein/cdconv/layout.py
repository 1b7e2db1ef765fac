"""From edges to the tensors that the layers read: sums over neighbours become padded batches of small matrices.

Within a stage, residues are numbered by how many neighbours they have. Groups of consecutive residues are then padded
to nearly what they need. Layers between two sums treat residues alike, so that the order costs nothing.
"""

from __future__ import annotations

from typing import TypedDict

import attrs
import torch
from torch import Tensor

from gentle_protein.cdconv.geometry import EDGE_FEATURES, Chains, Edges, pool_members

GROUPS = 6


class Neighbourhood(TypedDict):
    """Who is summed over whom: targets, in groups of N_g with up to M_g sources each, among sources.

    Slots are numbered through all groups; S is their number.

    Attributes:
        sources: (N_g, M_g) of each group, source numbers. Free slots hold a source of the same chain and must have
            weight zero.
        mirror: (N'_g, M'_g) of each group of sources, the slots that read it; S where there are no more.
    """

    sources: list[Tensor]
    mirror: list[Tensor]


class Stage(TypedDict):
    """The edges of one stage.

    Attributes:
        features: (l, C, 8), edges grouped by tap, so that l small matrix products give all kernels. At least one row
            of every tap is free, and free rows are zero.
        row_of_slot: (S,) row of `features`, counted over all taps, of the edge in each slot of `around`; a zero row
            for free slots.
        slot_of_row: (l * C,) the reverse; any slot for free rows.
        around: the neighbourhood of every residue.
    """

    features: Tensor
    row_of_slot: Tensor
    slot_of_row: Tensor
    around: Neighbourhood


@attrs.frozen
class Numbering:
    """The order of a stage's N residues: `order[k]` was residue k's number, and `rank` is the reverse; (N,) each."""

    order: Tensor
    rank: Tensor


def stage(edges: Edges, count: int, taps: int) -> tuple[Stage, Numbering]:
    """The padded form of `edges` between `count` residues with `taps` taps, and the numbering that it uses."""
    device = edges.target.device
    degree = torch.bincount(edges.target, minlength=count)
    sorted_degree, order = torch.sort(degree, stable=True)
    rank = torch.empty_like(order).scatter_(0, order, torch.arange(count, device=device))

    sizes = [len(group) for group in sorted_degree.tensor_split(min(GROUPS, count))]
    ends = torch.tensor(sizes, device=device).cumsum(0) - 1
    widths = sorted_degree.gather(0, ends)
    width = widths.repeat_interleave(torch.tensor(sizes, device=device))
    slots = int(width.sum())
    base = (width.cumsum(0) - width).gather(0, rank)  # first slot of every residue, by its old number

    place = torch.arange(len(edges.target), device=device)
    slot = place + (base - degree.cumsum(0) + degree).gather(0, edges.target)
    own = torch.arange(count, device=device).repeat_interleave(width, output_size=slots)
    sources = own.scatter_(0, slot, rank.gather(0, edges.source))
    mirror = torch.full_like(sources, slots).scatter_(0, slot, base.gather(0, edges.source) + edges.mirror)

    tap, by_tap = torch.sort(edges.tap.to(torch.uint8), stable=True)
    tap = tap.long()
    population = torch.bincount(tap, minlength=taps)
    height = int(population.max()) + 1
    row = place + (torch.arange(taps, device=device) * height - population.cumsum(0) + population).gather(0, tap)
    slot = slot.gather(0, by_tap)
    features = edges.features.new_zeros(taps * height, EDGE_FEATURES)
    features.index_copy_(0, row, edges.features.index_select(0, by_tap))

    shapes = list(zip(sizes, widths.tolist(), strict=True))
    padded = Stage(
        features=features.view(taps, height, EDGE_FEATURES),
        row_of_slot=torch.full_like(sources, height - 1).scatter_(0, slot, row),
        slot_of_row=torch.zeros(taps * height, dtype=torch.long, device=device).scatter_(0, row, slot),
        around=Neighbourhood(sources=_grouped(sources, shapes), mirror=_grouped(mirror, shapes)),
    )
    return padded, Numbering(order, rank)


def _grouped(slots: Tensor, shapes: list[tuple[int, int]]) -> list[Tensor]:
    parts = slots.split([rows * width for rows, width in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


def whole_chains(chains: Chains, numbering: Numbering) -> Neighbourhood:
    """Each chain as a target with all its residues as sources, for the mean over a chain."""
    device = numbering.order.device
    lengths = torch.tensor(chains.lengths, device=device)
    longest = max(chains.lengths)
    first = (lengths.cumsum(0) - lengths)[:, None]
    place = torch.arange(longest, device=device)[None]
    chain, place_in_chain = chains.ranks(device)
    return Neighbourhood(
        sources=[numbering.rank[first + torch.where(place < lengths[:, None], place, 0)]],
        mirror=[(chain * longest + place_in_chain)[numbering.order][:, None]],
    )


def pairs(chains: Chains, here: Numbering, there: Numbering) -> Tensor:
    """(N', 2): the residues of a stage whose mean each residue of the next one is."""
    members = torch.stack(pool_members(chains, here.order.device), 1)
    return here.rank[members[there.order]]
