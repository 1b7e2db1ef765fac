"""Sinkhorn divergence between the modalities (Feydy et al. 2019, arXiv:1810.08278).

Entropic transport with the bias taken off: 0 for identical sets, ½‖δ‖² for a shift by δ at any blur. It sees the whole
distribution as MMD does, with a gradient that moves mass over large distances too.

geomloss computes it with whole tables of distances. Where there are many rows, or several ranks, the same alternations
run over `cells` instead: same numbers, O(B·d + tile²) memory, tiles shared out among ranks.

Shapes: m and n rows of two sets, d dimensions.
"""

from __future__ import annotations

import importlib
import math
from typing import Any

import torch
from torch import Tensor

from gentle_core.batch import AlignBatch, BuildContext, LossContext, LossOut
from gentle_core.builtin import SinkhornConfig
from gentle_core.errors import ComponentError
from gentle_core.losses.cells import Cells
from gentle_core.losses.common import mean_over_pairs, tower_pairs
from gentle_core.losses.precision import exact, full_precision, nothing
from gentle_core.modules import LossModule

WHOLE_ROWS = 2048
"""Up to so many rows `tile="auto"` leaves a single process to geomloss; one table then takes 16 MiB."""


@full_precision
def sinkhorn_divergence(
    u: Tensor, v: Tensor, blur: float = 0.05, scaling: float = 0.5, *, tile: int | str = "auto", group: Any = None
) -> Tensor:
    """S(u, v) under the cost ½‖x − y‖², uniform masses; 0 where a set is empty.

    Args:
        u, v: rows (m, d) and (n, d).
        blur: √ε, a distance: detail below it is not seen.
        scaling: how fast ε falls from the squared diameter to blur², 0 to below 1: nearer to 1 is slower and more
            exact.
        tile: rows of a tile; 0 for geomloss, "auto" for geomloss up to `WHOLE_ROWS` rows.
        group: process group among which the tiles are shared out; see `Cells`.

    Raises:
        ComponentError: geomloss is wanted and not installed.
    """
    if len(u) == 0 or len(v) == 0:
        return nothing(u, v)
    pooled = torch.cat([u, v]).detach()
    # The range of ε starts from the diameter, and cannot where all rows are one.
    diameter = max(float((pooled.amax(0) - pooled.amin(0)).norm()), blur)
    if group is None and (tile == 0 or (tile == "auto" and max(len(u), len(v)) <= WHOLE_ROWS)):
        return _by_geomloss(u, v, blur, scaling, diameter)
    centre = pooled.mean(0)
    return _by_cells(u - centre, v - centre, epsilons(diameter, blur, scaling), tile, group)


def _by_geomloss(u: Tensor, v: Tensor, blur: float, scaling: float, diameter: float) -> Tensor:
    try:
        geomloss: Any = importlib.import_module("geomloss")
    except ImportError as error:
        raise ComponentError(
            f"the Sinkhorn divergence of up to {WHOLE_ROWS} rows needs geomloss: pip install geomloss, or give "
            f"train.tile a number of rows ({error})"
        ) from error
    loss = geomloss.SamplesLoss("sinkhorn", p=2, blur=blur, scaling=scaling, diameter=diameter, backend="tensorized")
    return loss(u, v)


def epsilons(diameter: float, blur: float, scaling: float) -> list[float]:
    """ε of each alternation: the squared diameter, a geometric series down from there, and blur² at last."""
    steps = max(0, math.ceil((math.log(blur) - math.log(diameter)) / math.log(scaling) - 1e-12)) if scaling else 1
    return [diameter**2, *((diameter * scaling**k) ** 2 for k in range(steps)), blur**2]


def _by_cells(u: Tensor, v: Tensor, series: list[float], tile: int | str, group: Any) -> Tensor:
    """Symmetric alternations, all potentials at once from the last ones; the last step carries the gradient."""

    def soft_minima(x: Tensor, y: Tensor, f: Tensor, g: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        """−ε log of the mean of exp((g_j − ½‖x_i−y_j‖²)/ε) over j, (m,), and likewise of f over i, (n,).

        The exponents are x_i·y_j/ε plus a term of each row and of each column: one product serves both.
        """
        of_x, of_y = (z.square().sum(1) / 2 for z in (x, y))
        row, column = (f - of_x)[:, None] / epsilon, (g - of_y)[:, None] / epsilon
        cells = Cells(tile, group)
        left = torch.cat([x / epsilon, row, torch.ones_like(row)], 1)
        right = torch.cat([y, torch.ones_like(column), column], 1)
        kernel = cells.between(left, right).kernel(x.new_tensor(1.0), product=True).ask("rows", "columns")
        cells.run()
        by_x = -epsilon * (kernel.rows.value - math.log(len(y)))
        by_y = -epsilon * (kernel.columns.value - math.log(len(x)))
        return (by_x + f).to(x.dtype), (by_y + g).to(y.dtype)

    x, y = u.detach(), v.detach()
    zero_x, zero_y = x.new_zeros(len(x)), y.new_zeros(len(y))
    with torch.no_grad():
        f, g = soft_minima(x, y, zero_x, zero_y, series[0])
        own_x, own_y = (soft_minima(z, z, zero, zero, series[0])[0] for z, zero in ((x, zero_x), (y, zero_y)))
        for epsilon in series:
            f_next, g_next = soft_minima(x, y, f, g, epsilon)
            f, g = (f + f_next) / 2, (g + g_next) / 2
            own_x, own_y = ((p + soft_minima(z, z, p, p, epsilon)[0]) / 2 for z, p in ((x, own_x), (y, own_y)))
    # At the optimum only the distances' own gradient is left, one side at a time.
    last = series[-1]
    to_x = soft_minima(u, y, f, g, last)[0] - soft_minima(u, x, own_x, own_x, last)[0]
    to_y = soft_minima(x, v, f, g, last)[1] - soft_minima(y, v, own_y, own_y, last)[1]
    return to_x.mean() + to_y.mean()


class Sinkhorn(LossModule):
    """`core/sinkhorn`: `sinkhorn_divergence` averaged over tower pairs."""

    needs = frozenset({"unpaired"})

    def __init__(self, config: SinkhornConfig):
        super().__init__()
        self.config = config

    def forward(self, batch: AlignBatch, ctx: LossContext) -> LossOut:
        values = {}
        with exact(next(iter(batch.towers.values())).z.device):
            for a, b in tower_pairs(batch, ctx):
                u, v = batch.towers[a].z, batch.towers[b].z
                values[a, b] = sinkhorn_divergence(
                    u, v, self.config.blur, self.config.scaling, tile=ctx.tile, group=ctx.group
                )
        loss, logs = mean_over_pairs("sinkhorn", values)
        count = sum(len(rows.z) for rows in batch.towers.values())
        return LossOut(loss, terms={"sinkhorn": loss}, counts={"sinkhorn": count}, logs=logs)


def build(config: SinkhornConfig, context: BuildContext) -> Sinkhorn:
    return Sinkhorn(config)
