"""Self-supervised contrastive loss of one tower: L_SSL, Eq. 7 of Gentle-CLIP, in three forms.

`ntxent`: SimCLR (Chen et al. 2020, eq. 1). `simcse`: SimCSE (Gao et al. 2021, eq. 1).
Shapes: B rows, d dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gentle_core.batch import AlignBatch, BuildContext, LossContext, LossOut
from gentle_core.builtin import SslConfig
from gentle_core.errors import ComponentError
from gentle_core.losses.precision import full_precision, nothing
from gentle_core.modules import LossModule


@full_precision
def ssl_loss(z: Tensor, z_pos: Tensor, temperature: float = 0.05, form: str = "ntxent") -> Tensor:
    """Each row against its own second view, among the other rows.

    Args:
        z, z_pos: unit rows (B, d) of two views of the same samples, in the same order.
        temperature: τ; fixed, and not that of L_CL.
        form: which candidates the denominator runs over.
            "ntxent": both views are anchors, each against the 2B−1 rows other than itself.
            "simcse": the first views are anchors, each against all second views.
            "eq7": as the paper prints it: the first views are anchors, each against all first views *including
            itself*, the positive left out. Then a single row gives (1 − cosine)/τ, not 0.

    Returns:
        Mean over the anchors; 0 for no rows.

    Raises:
        ValueError: unknown form, or views of different shapes.
    """
    if form not in ("ntxent", "simcse", "eq7"):
        raise ValueError(f"form={form!r}: choose 'ntxent', 'simcse' or 'eq7'")
    if z.shape != z_pos.shape:
        raise ValueError(f"two views of the same rows differ in shape: {tuple(z.shape)} and {tuple(z_pos.shape)}")
    if len(z) == 0:
        return nothing(z, z_pos)
    if form == "simcse":
        logits = z @ z_pos.T / temperature
        return (logits.logsumexp(1) - logits.diagonal()).mean()
    if form == "eq7":
        return ((z @ z.T / temperature).logsumexp(1) - (z * z_pos).sum(1) / temperature).mean()
    both = torch.cat([z, z_pos])
    logits = both @ both.T / temperature
    positive = torch.cat([logits.diagonal(len(z)), logits.diagonal(-len(z))])
    itself = torch.eye(len(both), dtype=torch.bool, device=z.device)
    return (logits.masked_fill(itself, -torch.inf).logsumexp(1) - positive).mean()


class Ssl(LossModule):
    """`core/ssl`: the sum over towers of `ssl_loss` (Eq. 8), on all their rows."""

    def __init__(self, config: SslConfig):
        super().__init__()
        self.config = config

    def forward(self, batch: AlignBatch, ctx: LossContext) -> LossOut:
        terms, counts = {}, {}
        for name, rows in batch.towers.items():
            if rows.views is None:
                if ctx.training:
                    raise ComponentError(f"core/ssl needs a second view of tower {name!r}, and the batch has none")
                continue
            terms[f"ssl/{name}"] = ssl_loss(rows.z, rows.views, self.config.temperature, self.config.form)
            counts[f"ssl/{name}"] = len(rows.z)
        loss = torch.stack(list(terms.values())).sum() if terms else nothing(*(r.z for r in batch.towers.values()))
        return LossOut(loss, terms=terms, counts=counts)


def build(config: SslConfig, context: BuildContext) -> Ssl:
    return Ssl(config)
