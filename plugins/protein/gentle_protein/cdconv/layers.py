"""The convolution and the residual block.

Shapes: N residues, S slots for neighbours, l taps, K kernels, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from gentle_protein.cdconv.config import CDConvConfig
from gentle_protein.cdconv.layout import Neighbourhood, Stage


class _WeightedSums(torch.autograd.Function):
    """out[n, k] = Σ over slots of target n: weights[slot, k] · x[source of slot], of shape (N, K, C).

    The backward pass reads neighbours again instead of keeping them, and sums gradients over `mirror` instead of
    scattering them: less memory, no atomics, the same bits every time on every device.
    """

    @staticmethod
    def forward(ctx: Any, weights: Tensor, x: Tensor, around: Neighbourhood) -> Tensor:
        sources, mirror = around["sources"], around["mirror"]
        ctx.save_for_backward(weights, x, *sources, *mirror)
        out = x.new_empty(sum(map(len, sources)), weights.shape[1], x.shape[1])
        for own_weights, group, sums in zip(_slots(weights, sources), sources, _targets(out, sources), strict=True):
            torch.bmm(own_weights.mT, _rows(x, group), out=sums)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        weights, x, *groups = ctx.saved_tensors
        sources, mirror = groups[: len(groups) // 2], groups[len(groups) // 2 :]
        d_weights, d_x = torch.empty_like(weights), torch.empty_like(x)
        d_rows = x.new_empty(len(weights) + 1, x.shape[1])
        d_rows[-1] = 0  # stands for "no further slot"
        by_group = (_slots(weights, sources), _slots(d_weights, sources), _slots(d_rows[:-1], sources))
        for d_sums, group, own, d_own, d_gathered in zip(_targets(grad, sources), sources, *by_group, strict=True):
            torch.bmm(_rows(x, group), d_sums.mT, out=d_own)
            torch.bmm(own, d_sums, out=d_gathered)
        for group, d_sources in zip(mirror, _targets(d_x, mirror), strict=True):
            torch.sum(_rows(d_rows, group), 1, out=d_sources)
        return d_weights, d_x, None


def _targets(rows: Tensor, groups: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Views of the rows (N, …) of each group."""
    return rows.split([len(group) for group in groups])


def _slots(slots: Tensor, groups: Sequence[Tensor]) -> list[Tensor]:
    """Views (N_g, M_g, …) of the slots (S, …) of each group."""
    parts = slots.split([group.numel() for group in groups])
    return [part.view(*group.shape, -1) for part, group in zip(parts, groups, strict=True)]


def _rows(x: Tensor, index: Tensor) -> Tensor:
    return x.index_select(0, index.view(-1)).view(*index.shape, x.shape[-1])


class _Rearrange(torch.autograd.Function):
    """Rows of x picked by `places`, where `back` says from which place each row's gradient comes.

    Rows that are picked by several places must not need a gradient from more than the one in `back`.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, places: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(back)
        return x.index_select(0, places)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (back,) = ctx.saved_tensors
        return grad.index_select(0, back), None, None


def weighted_sums(weights: Tensor, x: Tensor, around: Neighbourhood) -> Tensor:
    """Sums of rows of x (N', C) over the slots of `around`, weighted by (S, K): (N, K, C), in the weights' dtype."""
    with torch.autocast(x.device.type, enabled=False):
        return _WeightedSums.apply(weights, x.to(weights.dtype), around)


def chain_means(x: Tensor, chains: Neighbourhood, lengths: Tensor) -> Tensor:
    """Mean of x (N, C) over each of B chains of `lengths` residues: (B, C), never below float32."""
    inside = torch.arange(chains["sources"][0].shape[1], device=x.device) < lengths[:, None]
    weights = inside.to(torch.promote_types(x.dtype, torch.float32)) / lengths[:, None]
    return weighted_sums(weights.view(-1, 1), x, chains).squeeze(1)


class CDConv(nn.Module):
    """out_i = vec(Σ_j g_ij LeakyReLU(δ_ij A_t + a_t) ⊗ x_j) W, with t the tap of edge j → i.

    The smoothing g_ij is not negative, so it moves through the LeakyReLU into the features of `Stage`. A kernel is
    then one product of eight features with the table [A_t; a_t].
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_channels: int, taps: int) -> None:
        super().__init__()
        self.directions = nn.Parameter(torch.empty(taps, 7, kernel_channels))
        self.offsets = nn.Parameter(torch.zeros(taps, 1, kernel_channels))
        self.weight = nn.Parameter(torch.empty(kernel_channels * in_channels, out_channels))
        bound = (7 * kernel_channels) ** -0.5
        nn.init.uniform_(self.directions, -bound, bound)
        nn.init.uniform_(self.weight, -(out_channels**-0.5), out_channels**-0.5)

    def forward(self, x: Tensor, stage: Stage) -> Tensor:
        """x (N, in_channels) to (N, out_channels)."""
        device = x.device.type
        messages = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        with torch.autocast(device, enabled=False):  # distances in Å lose too much in half precision
            table = torch.cat([self.directions, self.offsets], 1).to(stage["features"].dtype)
            kernels = F.leaky_relu(torch.bmm(stage["features"], table), 0.2).flatten(0, 1).to(messages)
        kernels = _Rearrange.apply(kernels, stage["row_of_slot"], stage["slot_of_row"])
        return weighted_sums(kernels, x, stage["around"]).flatten(1) @ self.weight


class Block(nn.Module):
    """Pre-activation residual block: linear to a narrower width, convolution there, linear to `out_channels`."""

    def __init__(self, in_channels: int, out_channels: int, config: CDConvConfig) -> None:
        super().__init__()
        width = config.width(out_channels)
        self.enter = nn.Sequential(
            *_activate(in_channels, config),
            nn.Linear(in_channels, width, bias=False),
            *_activate(width, config),
        )
        self.convolution = CDConv(width, width, config.kernel_channels, config.kernel_size)
        self.leave = nn.Sequential(*_activate(width, config), nn.Linear(width, out_channels, bias=False))
        self.skip: nn.Module = nn.Identity()
        if in_channels != out_channels:
            self.skip = nn.Sequential(*_activate(in_channels, config), nn.Linear(in_channels, out_channels, bias=False))

    def forward(self, x: Tensor, stage: Stage) -> Tensor:
        """x (N, in_channels) to (N, out_channels)."""
        return self.leave(self.convolution(self.enter(x), stage)) + self.skip(x)


class Blocks(nn.ModuleList):
    """The blocks of one stage."""

    def __init__(self, in_channels: int, out_channels: int, config: CDConvConfig) -> None:
        sources = [in_channels] + [out_channels] * (config.blocks - 1)
        super().__init__(Block(source, out_channels, config) for source in sources)

    def forward(self, x: Tensor, stage: Stage) -> Tensor:
        """x (N, in_channels) to (N, out_channels)."""
        for block in self:
            x = block(x, stage)
        return x


def _activate(channels: int, config: CDConvConfig) -> list[nn.Module]:
    """Normalisation ("layer": over a residue's channels, "batch": over all residues), LeakyReLU and dropout."""
    norm = nn.LayerNorm(channels) if config.norm == "layer" else nn.BatchNorm1d(channels, momentum=0.2)
    return [norm, nn.LeakyReLU(0.1), nn.Dropout(config.dropout)]
