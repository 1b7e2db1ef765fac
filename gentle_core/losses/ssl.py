"""Self-supervised contrastive loss of one tower: L_SSL, Eq. 7 of Gentle-CLIP, in three forms.

`ntxent`: SimCLR (Chen et al. 2020, eq. 1). `simcse`: SimCSE (Gao et al. 2021, eq. 1).
Shapes: B rows, d dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gentle_core.batch import AlignBatch, BuildContext, LossContext, LossOut
from gentle_core.builtin import SslConfig
from gentle_core.errors import ComponentError
from gentle_core.losses.cells import Cells
from gentle_core.losses.common import CellLoss
from gentle_core.losses.precision import full_precision, nothing


@full_precision
def ssl_loss(
    z: Tensor,
    z_pos: Tensor,
    temperature: float = 0.05,
    form: str = "ntxent",
    *,
    tile: int | str = "auto",
    group: Any = None,
) -> Tensor:
    """Each row against its own second view, among the other rows.

    Args:
        z, z_pos: unit rows (B, d) of two views of the same samples, in the same order.
        temperature: τ; fixed, and not that of L_CL.
        form: which candidates the denominator runs over.
            "ntxent": both views are anchors, each against the 2B−1 rows other than itself.
            "simcse": the first views are anchors, each against all second views.
            "eq7": as the paper prints it: the first views are anchors, each against all first views *including
            itself*, the positive left out. Then a single row gives (1 − cosine)/τ, not 0.
        tile, group: see `Cells`.

    Returns:
        Mean over the anchors; 0 for no rows.

    Raises:
        ValueError: unknown form, or views of different shapes.
    """
    if form not in ("ntxent", "simcse", "eq7"):
        raise ValueError(f"form={form!r}: choose 'ntxent', 'simcse' or 'eq7'")
    if z.shape != z_pos.shape:
        raise ValueError(f"two views of the same rows differ in shape: {tuple(z.shape)} and {tuple(z_pos.shape)}")
    cells = Cells(tile, group)
    finish = ask_ssl(cells, z, z_pos, temperature, form)
    cells.run()
    return finish()


def ask_ssl(cells: Cells, z: Tensor, z_pos: Tensor, temperature: float, form: str) -> Callable[[], Tensor]:
    """`ssl_loss` as wishes to a plan, and what to do with the answers."""
    if len(z) == 0:
        return lambda: nothing(z, z_pos)
    rate = z.new_tensor(1 / temperature)
    if form == "eq7":
        own = cells.within(z).kernel(rate, product=True).ask("rows")
        return lambda: own.rows.minus((z * z_pos).sum(1) / temperature).mean().to(z.dtype)
    i = torch.arange(len(z), device=z.device)
    across = cells.between(z, z_pos).kernel(rate, product=True).ask("rows").pick(i, i)
    if form == "simcse":
        return lambda: across.rows.cross_entropy(across.picked).mean().to(z.dtype)
    across.ask("columns")
    first = cells.within(z).kernel(rate, product=True, diagonal=False).ask("rows")
    second = cells.within(z_pos).kernel(rate, product=True, diagonal=False).ask("rows")

    def ntxent() -> Tensor:
        anchors = ((first.rows, across.rows), (second.rows, across.columns))
        return torch.cat([a.plus(b).cross_entropy(across.picked) for a, b in anchors]).mean().to(z.dtype)

    return ntxent


class Ssl(CellLoss):
    """`core/ssl`: the sum over towers of `ssl_loss` (Eq. 8), on all their rows."""

    needs = frozenset({"views", "unpaired"})

    def __init__(self, config: SslConfig):
        super().__init__()
        self.config = config

    def ask(self, batch: AlignBatch, ctx: LossContext, cells: Cells) -> Callable[[], LossOut]:
        asked, counts = {}, {}
        for name, rows in batch.towers.items():
            if rows.views is None:
                if ctx.training:
                    raise ComponentError(f"core/ssl needs a second view of tower {name!r}, and the batch has none")
                continue
            z, views = cells.rows(rows.z), cells.rows(rows.views)
            asked[f"ssl/{name}"] = ask_ssl(cells, z, views, self.config.temperature, self.config.form)
            counts[f"ssl/{name}"] = len(z)

        def finish() -> LossOut:
            terms = {name: value() for name, value in asked.items()}
            loss = torch.stack(list(terms.values())).sum() if terms else nothing(*(r.z for r in batch.towers.values()))
            return LossOut(loss, terms=terms, counts=counts)

        return finish


def build(config: SslConfig, context: BuildContext) -> Ssl:
    return Ssl(config)
