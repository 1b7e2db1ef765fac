"""Multi-kernel maximum mean discrepancy: L_MK-MMD, Eq. 2 of Gentle-CLIP (Gretton et al. 2012, eq. 5: the biased form).

Shapes: m and n rows of two sets, d dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gentle_core.batch import AlignBatch, BuildContext, LossContext, LossOut, ParamGroups
from gentle_core.builtin import MmdConfig
from gentle_core.losses.cells import Cells
from gentle_core.losses.common import CellLoss, mean_over_pairs, tower_pairs
from gentle_core.losses.distances import median_bandwidth
from gentle_core.losses.precision import full_precision, nothing


@full_precision
def mk_mmd(
    u: Tensor,
    v: Tensor,
    beta: Tensor | Sequence[float] = (0.5, 0.5),
    *,
    bandwidth: Tensor | float | None = None,
    degree: int = 2,
    offset: float = 1.0,
    tile: int | str = "auto",
    group: Any = None,
) -> Tensor:
    """‖E φ(u) − E φ(v)‖² under k = β₀·Gaussian + β₁·polynomial; a V-statistic, so never negative.

    Args:
        u, v: rows (m, d) and (n, d).
        beta: weights of exp(−‖x−y‖²/(2h²)) and of ((x·y+c)/(1+c))^p; a tensor (2,) may carry a graph.
        bandwidth: h; None for the median distance of the pooled rows, detached.
        degree: p.
        offset: c. On unit rows both kernels have k(x,x) = 1.
        tile, group: see `Cells`.

    Returns:
        A scalar; exactly 0 where a set is empty.
    """
    cells = Cells(tile, group)
    finish = ask_mmd(cells, u, v, torch.as_tensor(beta, dtype=u.dtype, device=u.device), bandwidth, degree, offset)
    cells.run()
    return finish()


def ask_mmd(
    cells: Cells,
    u: Tensor,
    v: Tensor,
    beta: Tensor,
    bandwidth: Tensor | float | None = None,
    degree: int = 2,
    offset: float = 1.0,
) -> Callable[[], Tensor]:
    """`mk_mmd` as wishes to a plan, and what to do with the answers."""
    if len(u) == 0 or len(v) == 0:
        return lambda: nothing(u, v, beta)
    h = median_bandwidth(u, v) if bandwidth is None else torch.as_tensor(bandwidth, dtype=u.dtype, device=u.device)
    gaussian = _ask_means(cells, u, v, 0.5 / h.square())
    if degree == 2 and u.shape[1] <= max(len(u), len(v)):
        polynomial = _ask_moments(cells, u, v, offset)
    else:
        rate = u.new_tensor(1 / (1 + offset))
        polynomial = _ask_means(cells, u, v, rate, product=True, shift=offset / (1 + offset), power=degree)
    return lambda: beta @ torch.stack([gaussian(), polynomial()])


def _ask_means(cells: Cells, u: Tensor, v: Tensor, rate: Tensor, **kernel: Any) -> Callable[[], Tensor]:
    """Mean of a kernel within u, plus within v, minus twice across."""
    own_u = cells.within(u).kernel(rate, **kernel).ask("total")
    own_v = cells.within(v).kernel(rate, **kernel).ask("total")
    across = cells.between(u, v).kernel(rate, **kernel).ask("total")
    m, n = len(u), len(v)
    return lambda: (own_u.total / m**2 + own_v.total / n**2 - across.total * (2 / (m * n))).to(u.dtype)


def _ask_moments(cells: Cells, u: Tensor, v: Tensor, offset: float) -> Callable[[], Tensor]:
    """The polynomial kernel of degree 2 has features of d² + d dimensions; their means tell all, in O(B·d²)."""
    moment_u, moment_v = cells.second_moment(u), cells.second_moment(v)

    def finish() -> Tensor:
        second = moment_u[0] / len(u) - moment_v[0] / len(v)
        first = u.mean(0) - v.mean(0)
        return (second.square().sum() + 2 * offset * first.square().sum()) / (1 + offset) ** 2

    return finish


class Mmd(CellLoss):
    """`core/mmd`: `mk_mmd` averaged over tower pairs.

    Minimised together with the encoders, β would slide to the kernel that sees least. So it either stays fixed or is an
    adversary: a softmax with a floor, whose logits ascend.
    """

    needs = frozenset({"unpaired"})
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

    def ask(self, batch: AlignBatch, ctx: LossContext, cells: Cells) -> Callable[[], LossOut]:
        beta, given = self.beta, self.config.bandwidth
        asked, widths = {}, []
        for a, b in tower_pairs(batch, ctx):
            u, v = (cells.rows(batch.towers[name].z) for name in (a, b))
            widths.append(median_bandwidth(u, v) if given is None else u.new_tensor(given))
            degree, offset = self.config.degree, self.config.offset
            asked[a, b] = ask_mmd(cells, u, v, beta.to(u.dtype), widths[-1], degree, offset)

        def finish() -> LossOut:
            loss, logs = mean_over_pairs("mmd", {pair: value() for pair, value in asked.items()})
            logs |= {"bandwidth": torch.stack(widths).mean().item()}
            logs |= {f"beta/{name}": w for name, w in zip(("gaussian", "polynomial"), beta.tolist(), strict=True)}
            counts = sum(len(rows.z) for rows in batch.towers.values())
            return LossOut(loss, terms={"mmd": loss}, counts={"mmd": counts}, logs=logs)

        return finish

    def param_groups(self) -> ParamGroups:
        return ParamGroups(max=list(self.parameters()))


def build(config: MmdConfig, context: BuildContext) -> Mmd:
    return Mmd(config)
