"""Multi-kernel maximum mean discrepancy: L_MK-MMD, Eq. 2 of Gentle-CLIP (Gretton et al. 2012, eq. 5: the biased form).

Shapes: m and n rows of two sets, d dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gentle_core.batch import AlignBatch, BuildContext, LossContext, LossOut, ParamGroups
from gentle_core.builtin import MmdConfig
from gentle_core.losses.common import mean_over_pairs, tower_pairs
from gentle_core.losses.distances import median_bandwidth, squared_distances
from gentle_core.losses.precision import full_precision, nothing
from gentle_core.modules import LossModule


@full_precision
def mk_mmd(
    u: Tensor,
    v: Tensor,
    beta: Tensor | Sequence[float] = (0.5, 0.5),
    *,
    bandwidth: Tensor | float | None = None,
    degree: int = 2,
    offset: float = 1.0,
) -> Tensor:
    """‖E φ(u) − E φ(v)‖² under k = β₀·Gaussian + β₁·polynomial; a V-statistic, so never negative.

    Args:
        u, v: rows (m, d) and (n, d).
        beta: weights of exp(−‖x−y‖²/(2h²)) and of ((x·y+c)/(1+c))^p; a tensor (2,) may carry a graph.
        bandwidth: h; None for the median distance of the pooled rows, detached.
        degree: p.
        offset: c. On unit rows both kernels have k(x,x) = 1.

    Returns:
        A scalar; exactly 0 where a set is empty.
    """
    beta = torch.as_tensor(beta, dtype=u.dtype, device=u.device)
    if len(u) == 0 or len(v) == 0:
        return nothing(u, v, beta)
    h = median_bandwidth(u, v) if bandwidth is None else torch.as_tensor(bandwidth, dtype=u.dtype, device=u.device)
    return beta @ torch.stack([gaussian_mmd(u, v, h), polynomial_mmd(u, v, degree, offset)])


def gaussian_mmd(u: Tensor, v: Tensor, bandwidth: Tensor) -> Tensor:
    """The Gaussian kernel's share."""
    rate = -0.5 / bandwidth.square()

    def mean(x: Tensor, y: Tensor | None = None) -> Tensor:
        return (squared_distances(x, y) * rate).exp().mean()

    return mean(u) + mean(v) - 2 * mean(u, v)


def polynomial_mmd(u: Tensor, v: Tensor, degree: int, offset: float) -> Tensor:
    """The polynomial kernel's share. Degree 2 has features of d² + d dimensions: their means say it in O(B·d²)."""
    if degree == 2:
        second = u.T @ u / len(u) - v.T @ v / len(v)
        first = u.mean(0) - v.mean(0)
        return (second.square().sum() + 2 * offset * first.square().sum()) / (1 + offset) ** 2

    def mean(x: Tensor, y: Tensor) -> Tensor:
        return ((x @ y.T + offset) / (1 + offset)).pow(degree).mean()

    return mean(u, u) + mean(v, v) - 2 * mean(u, v)


class Mmd(LossModule):
    """`core/mmd`: `mk_mmd` averaged over tower pairs.

    Minimised together with the encoders, β would slide to the kernel that sees least. So it either stays fixed or is an
    adversary: a softmax with a floor, whose logits ascend.
    """

    fixed: Tensor

    def __init__(self, config: MmdConfig):
        super().__init__()
        self.config = config
        start = torch.tensor(config.weights, dtype=torch.float32)
        start = start / start.sum()
        if config.beta == "adversarial":
            share = (start - config.floor) / (1 - len(start) * config.floor)
            self.beta_logits = nn.Parameter(share.clamp_min(1e-6).log())
        else:
            self.register_buffer("fixed", start)

    @property
    def beta(self) -> Tensor:
        """The kernel weights (2,), on the simplex."""
        if self.config.beta == "fixed":
            return self.fixed
        floor, share = self.config.floor, self.beta_logits.softmax(0)
        return floor + (1 - len(share) * floor) * share

    def forward(self, batch: AlignBatch, ctx: LossContext) -> LossOut:
        beta, h = self.beta, self.config.bandwidth
        values, widths = {}, []
        for a, b in tower_pairs(batch, ctx):
            u, v = batch.towers[a].z, batch.towers[b].z
            width = median_bandwidth(u, v) if h is None else torch.tensor(h)
            values[a, b] = mk_mmd(u, v, beta, bandwidth=width, degree=self.config.degree, offset=self.config.offset)
            widths.append(width)
        loss, logs = mean_over_pairs("mmd", values)
        logs |= {"bandwidth": torch.stack(widths).mean().item()}
        logs |= {f"beta/{name}": w for name, w in zip(("gaussian", "polynomial"), beta.tolist(), strict=True)}
        counts = sum(len(rows.z) for rows in batch.towers.values())
        return LossOut(loss, terms={"mmd": loss}, counts={"mmd": counts}, logs=logs)

    def param_groups(self) -> ParamGroups:
        return ParamGroups(max=list(self.parameters()))


def build(config: MmdConfig, context: BuildContext) -> Mmd:
    return Mmd(config)
