"""What CDConv sees of a chain: local frames, displacements, and the edges of every stage with their features.

Shapes: N residues of a batch (chains one after another), E edges. Vectors keep their components first, (3, N), and
sums over components are written out: every value is then the same bits in any batch, with or without a cache.
Coordinates are data; nothing here carries a gradient.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

import attrs
import torch
from torch import Tensor

CHAIN_BREAK = 4.5
"""Consecutive Cα further apart than this (Å) are not bonded; bonded ones are 3.8 Å apart, 2.9 Å at a cis bond."""

EDGE_FEATURES = 8
"""Direction (3), agreement of the frames' axes (3), distance (1), constant (1); all times the smoothing weight."""

_DEGENERATE = 1e-4
_PAIRS_AT_ONCE = 1 << 22


def _as_tuple(values: Iterable[int]) -> tuple[int, ...]:
    return tuple(values)


@attrs.frozen
class Chains:
    """How N residues divide into B chains."""

    lengths: tuple[int, ...] = attrs.field(converter=_as_tuple)

    @property
    def starts(self) -> tuple[int, ...]:
        return tuple(itertools.accumulate(self.lengths, initial=0))[:-1]

    def ranks(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Chain number and place within the chain of every residue, (N,) each."""
        lengths = torch.tensor(self.lengths, device=device)
        starts = lengths.cumsum(0) - lengths
        chain = torch.repeat_interleave(torch.arange(len(self.lengths), device=device), lengths)
        return chain, torch.arange(len(chain), device=device) - starts[chain]

    def pooled(self) -> Chains:
        """Residues 2k and 2k + 1 of each chain become one."""
        return Chains((length + 1) // 2 for length in self.lengths)


@attrs.frozen
class Edges:
    """The directed edges source → target of one stage, ordered by (target, source).

    Attributes:
        target, source: (E,) residue numbers. Every edge has its mirror image, and every residue an edge to itself.
        mirror: (E,) place of the mirror image among the edges that end in `source`.
        tap: (E,) sequence offset source - target, clamped to ±s, plus s.
        features: (E, 8), see `EDGE_FEATURES`.
    """

    target: Tensor
    source: Tensor
    mirror: Tensor
    tap: Tensor
    features: Tensor


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product over the first dimension, which has size 3."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def unit(a: Tensor) -> Tensor:
    """`a` (3, …) scaled to length one; vectors that are practically zero become zero."""
    length = dot(a, a).sqrt()
    return torch.where(length > _DEGENERATE, a / length.clamp_min(_DEGENERATE), 0)


def cross(a: Tensor, b: Tensor) -> Tensor:
    """Cross product over the first dimension."""
    return a[[1, 2, 0]] * b[[2, 0, 1]] - a[[2, 0, 1]] * b[[1, 2, 0]]


def bonds(positions: Tensor, chain: Tensor) -> Tensor:
    """Whether residues i and i + 1 are bonded, (N - 1,): of one chain and within `CHAIN_BREAK`."""
    step = positions[:, 1:] - positions[:, :-1]
    return (chain[1:] == chain[:-1]) & (dot(step, step) <= CHAIN_BREAK**2)


def local_frames(positions: Tensor, chains: Chains) -> Tensor:
    """Frame O_i of each residue, (3 rows, 3 components, N), from positions (3, N).

    Rows b = unit(u_{i-1} - u_i), n = unit(u_{i-1} x u_i), o = b x n with u_i = unit(p_{i+1} - p_i), where residue i
    is bonded on both sides and its neighbours are not on a line. Elsewhere, at chain ends and breaks, the frame is
    that of the nearest such residue of the chain; it is zero in a chain that has none.
    """
    chain, _ = chains.ranks(positions.device)
    u = unit(positions[:, 1:] - positions[:, :-1])
    b, n = unit(u[:, :-1] - u[:, 1:]), unit(cross(u[:, :-1], u[:, 1:]))
    bonded = bonds(positions, chain)
    inner = torch.stack([b, n, unit(cross(b, n))])
    sound = bonded[:-1] & bonded[1:] & (dot(n, n) > 0.5) & (dot(b, b) > 0.5)

    frames = torch.nn.functional.pad(inner, (1, 1))
    sound = torch.nn.functional.pad(sound, (1, 1))
    nearest = _nearest(sound, chain)
    return torch.where(nearest >= 0, frames[:, :, nearest.clamp_min(0)], 0)


def _nearest(sound: Tensor, chain: Tensor) -> Tensor:
    """Number of the nearest sound residue of the same chain, the earlier of two, or -1; (N,)."""
    count = len(sound)
    place = torch.arange(count, device=sound.device)
    before = torch.where(sound, place, -1).cummax(0).values
    after = torch.where(sound, place, count).flip(0).cummin(0).values.flip(0)
    has_before = (before >= 0) & (chain[before.clamp_min(0)] == chain)
    has_after = (after < count) & (chain[after.clamp_max(count - 1)] == chain)
    take_before = has_before & (~has_after | (place - before <= after - place))
    return torch.where(take_before, before, torch.where(has_after, after, -1))


def displacements(positions: Tensor, bonded: Tensor, frames: Tensor | None) -> Tensor:
    """Eq. 12 of Gentle-CLIP: S_i = [p_{i-1} - p_i, p_{i+1} - p_i], (N, 6), Å.

    A side without a bonded neighbour is zero. With `frames`, both vectors are written in O_i, which takes their
    dependence on the chain's pose away.
    """
    step = torch.where(bonded, positions[:, 1:] - positions[:, :-1], 0)
    forward, backward = torch.nn.functional.pad(step, (0, 1)), torch.nn.functional.pad(-step, (1, 0))
    if frames is None:
        return torch.cat([backward, forward]).T.contiguous()
    return torch.stack([dot(row, side) for side in (backward, forward) for row in frames], 1)


def pool(positions: Tensor, frames: Tensor, chains: Chains) -> tuple[Tensor, Tensor]:
    """Positions (3, N') and frames (3, 3, N') of `chains.pooled()`: means, with the frames' rows made unit again."""
    first, second = pool_members(chains, positions.device)
    mean = 0.5 * (positions[:, first] + positions[:, second])
    rows = 0.5 * (frames[:, :, first] + frames[:, :, second])
    return mean, torch.stack([unit(row) for row in rows])


def pool_members(chains: Chains, device: torch.device) -> tuple[Tensor, Tensor]:
    """The two residues behind each pooled one, (N',) each; the same one twice at the end of an odd chain."""
    _, rank = chains.ranks(device)
    first = (rank % 2 == 0).nonzero().squeeze(1)
    last = torch.tensor(chains.lengths, device=device).cumsum(0) - 1
    chain, _ = chains.pooled().ranks(device)
    return first, torch.minimum(first + 1, last[chain])


def edges(positions: Tensor, frames: Tensor, chains: Chains, radius: float, taps: int, window: bool) -> Edges:
    """All edges of a stage and their features.

    `taps` is l, the sequential kernel size; `window` drops pairs that lie more than s = l // 2 apart in sequence.
    """
    reach = taps // 2
    target, source, mirror = _neighbours(positions, chains, radius, reach if window else None)
    way = positions.index_select(1, source) - positions.index_select(1, target)
    distance = dot(way, way).sqrt()
    # Divided by the distance, not by `unit`: residues of a clashing model may lie very close together.
    way = torch.where(distance > 0, way / distance, 0)
    at_target = frames.flatten(0, 1).index_select(1, target).unflatten(0, (3, 3))
    at_source = frames.flatten(0, 1).index_select(1, source).unflatten(0, (3, 3))
    offset = (source - target).clamp(-reach, reach)

    smooth = 0.5 - 0.5 * torch.tanh(distance * (16.0 / radius) * (offset.abs().to(distance.dtype) / reach) - 14.0)
    direction = [dot(row, way) for row in at_target]
    agreement = [dot(a, b) for a, b in zip(at_target, at_source, strict=True)]
    features = torch.stack([*direction, *agreement, distance, torch.ones_like(distance)]) * smooth
    return Edges(target, source, mirror, offset + reach, features.T.contiguous())


def _neighbours(positions: Tensor, chains: Chains, radius: float, reach: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """Targets, sources and mirror places of all pairs of a chain within `radius`, ordered by (target, source)."""
    found = [_neighbours_dense(positions, lengths, start, radius, reach) for lengths, start in _groups(chains)]
    target, source, mirror = (torch.cat(parts) for parts in zip(*found, strict=True))
    return target, source, mirror


def _groups(chains: Chains) -> Iterator[tuple[Sequence[int], int]]:
    """Runs of consecutive chains, as (lengths, first residue), whose padded distance matrices fit into memory."""
    run: list[int] = []
    start = 0
    for length in chains.lengths:
        longest = max([*run, length])
        if run and (len(run) + 1) * longest**2 > _PAIRS_AT_ONCE:
            yield run, start
            start += sum(run)
            run = []
        run.append(length)
    yield run, start


def _neighbours_dense(
    positions: Tensor, lengths: Sequence[int], start: int, radius: float, reach: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    device, longest = positions.device, max(lengths)
    chain, rank = Chains(lengths).ranks(device)
    padded = positions.new_full((3, len(lengths), longest), torch.nan)  # NaN is near to nothing
    padded[:, chain, rank] = positions[:, start : start + len(chain)]
    square = _squared_differences(padded[0])
    for component in padded[1:]:
        square += _squared_differences(component)
    near = square <= radius**2
    if reach is not None:
        place = torch.arange(longest, device=device)
        near &= (place[:, None] - place[None, :]).abs() <= reach

    which, left, right = (column.contiguous() for column in near.nonzero().T)
    row = which * longest + left
    # Sources are in order within a row, so an edge's slot is its distance from the row's first edge.
    degree = torch.bincount(row, minlength=len(lengths) * longest)
    slot = torch.arange(len(row), device=device) - (degree.cumsum(0) - degree).gather(0, row)
    slots = torch.empty(near.numel(), dtype=torch.long, device=device).scatter_(0, row * longest + right, slot)
    mirror = slots.gather(0, (which * longest + right) * longest + left)

    first = start + torch.tensor(Chains(lengths).starts, device=device)
    first = first.gather(0, which)
    return first + left, first + right, mirror


def _squared_differences(values: Tensor) -> Tensor:
    """(values_i - values_j)² for values (B, L): (B, L, L)."""
    return (values[:, :, None] - values[:, None, :]).square_()
