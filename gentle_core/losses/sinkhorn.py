"""Sinkhorn divergence between the modalities (Feydy et al. 2019, arXiv:1810.08278), by geomloss.

Entropic transport with the bias taken off: 0 for identical sets, ½‖δ‖² for a shift by δ at any blur. It sees the whole
distribution as MMD does, with a gradient that moves mass over large distances too. Every rank computes it whole.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from gentle_core.batch import AlignBatch, BuildContext, LossContext, LossOut
from gentle_core.builtin import SinkhornConfig
from gentle_core.errors import ComponentError
from gentle_core.losses.common import mean_over_pairs, tower_pairs
from gentle_core.losses.precision import exact, full_precision, nothing
from gentle_core.modules import LossModule


@full_precision
def sinkhorn_divergence(u: Tensor, v: Tensor, blur: float = 0.05, scaling: float = 0.5) -> Tensor:
    """S(u, v) under the cost ½‖x − y‖², uniform masses; 0 where a set is empty.

    Args:
        u, v: rows (m, d) and (n, d).
        blur: √ε, a distance: detail below it is not seen.
        scaling: how fast geomloss goes from the coarse to the fine, 0 to below 1: nearer to 1 is slower and more exact.

    Raises:
        ComponentError: geomloss is not installed.
    """
    if len(u) == 0 or len(v) == 0:
        return nothing(u, v)
    try:
        geomloss: Any = importlib.import_module("geomloss")
    except ImportError as error:
        raise ComponentError(f"the Sinkhorn divergence needs geomloss: pip install geomloss ({error})") from error
    pooled = torch.cat([u, v]).detach()
    # geomloss starts from the diameter, and cannot where all rows are one.
    diameter = max(float((pooled.amax(0) - pooled.amin(0)).norm()), blur)
    loss = geomloss.SamplesLoss("sinkhorn", p=2, blur=blur, scaling=scaling, diameter=diameter, backend="tensorized")
    return loss(u, v)


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
                values[a, b] = sinkhorn_divergence(u, v, self.config.blur, self.config.scaling)
        loss, logs = mean_over_pairs("sinkhorn", values)
        count = sum(len(rows.z) for rows in batch.towers.values())
        return LossOut(loss, terms={"sinkhorn": loss}, counts={"sinkhorn": count}, logs=logs)


def build(config: SinkhornConfig, context: BuildContext) -> Sinkhorn:
    return Sinkhorn(config)
