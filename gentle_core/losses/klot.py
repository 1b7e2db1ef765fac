"""KLOT: the divergence of two optimal-transport plans (Roschmann et al. 2026, SOTAlign, arXiv:2602.23353).

A target geometry says softly which row of one set belongs to which row of another, by its entropic transport plan P*;
the embeddings' own plan P shall say the same: KL(P* ‖ P). Because both plans have the same masses, the gradient with
respect to the similarities is (P − P*)/ε exactly: nothing is differentiated through Sinkhorn's alternations.

Shapes: m and n rows of two sets, d dimensions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gentle_core.batch import AlignBatch, BuildContext, LossContext, LossOut
from gentle_core.builtin import KlotConfig
from gentle_core.losses.clip import shared_groups
from gentle_core.losses.common import mean_over_pairs, tower_pairs
from gentle_core.losses.plans import plan_averages, potentials
from gentle_core.losses.precision import exact, full_precision, nothing
from gentle_core.modules import LossModule


@full_precision
def klot_loss(
    u: Tensor,
    v: Tensor,
    target_u: Tensor,
    target_v: Tensor,
    epsilon: float = 0.05,
    target_epsilon: float | None = None,
    steps: int = 50,
    *,
    tile: int | str = "auto",
    group: Any = None,
) -> Tensor:
    """KL(P* ‖ P) of the plan of the targets and that of the rows; masses uniform.

    Args:
        u, v: unit rows (m, d) and (n, d).
        target_u, target_v: unit rows (m, e) and (n, e) of the target geometry, constants.
        epsilon: ε of the plans, in units of cosines.
        target_epsilon: of P*, where it is to be sharper or softer.
        steps: alternations for each plan; the gradient is exact as far as they have converged.
        tile, group: see `Cells`.

    Returns:
        A scalar; 0 where a set is empty.
    """
    if len(u) == 0 or len(v) == 0:
        return nothing(u, v)
    sharp = epsilon if target_epsilon is None else target_epsilon
    own = potentials(u, v, epsilon, steps, tile, group)
    wanted = potentials(target_u, target_v, sharp, steps, tile, group)
    own_u, own_v = plan_averages(u, v, *own, epsilon, (u, v), tile, group)
    wanted_u, wanted_v = plan_averages(target_u, target_v, *wanted, sharp, (u, v), tile, group)
    targets, _ = plan_averages(target_u, target_v, *wanted, sharp, (target_u, target_v), tile, group)
    with torch.no_grad():
        # ⟨P*, log P* − log P⟩; potentials meet the masses of P*, which are uniform.
        value = (targets * target_u).sum(dtype=torch.float64) / sharp - (wanted_u * u).sum(
            dtype=torch.float64
        ) / epsilon
        for (f, g), sign in ((wanted, 1.0), (own, -1.0)):
            value = value + sign * (f.double().mean() + g.double().mean())
    slope = ((own_u - wanted_u) * u).sum() + ((own_v - wanted_v) * v).sum()
    slope = slope / epsilon
    return value.to(u.dtype) + slope - slope.detach()


class Klot(LossModule):
    """`core/klot`: `klot_loss` averaged over tower pairs."""

    def __init__(self, config: KlotConfig):
        super().__init__()
        self.config = config
        self.needs = config.needs()

    def forward(self, batch: AlignBatch, ctx: LossContext) -> LossOut:
        c, values, count = self.config, {}, 0
        options: dict[str, Any] = {"epsilon": c.epsilon, "target_epsilon": c.target_epsilon, "steps": c.steps}
        options |= {"tile": ctx.tile, "group": ctx.group}
        with exact(next(iter(batch.towers.values())).z.device):
            for a, b in tower_pairs(batch, ctx):
                rows = batch.towers[a], batch.towers[b]
                u, v = (r.z.float() if r.z.element_size() < 4 else r.z for r in rows)
                if c.target == "reference":
                    targets = [r.extras.get("reference") for r in rows]
                    if targets[0] is None or targets[1] is None:  # the teacher has not been asked yet
                        values[a, b] = nothing(u, v)
                        continue
                    values[a, b] = klot_loss(u, v, targets[0].to(u.dtype), targets[1].to(v.dtype), **options)
                    count += len(u) + len(v)
                    continue
                group_u, group_v, groups = shared_groups(rows[0].ids, rows[1].ids)
                i, j = first_of_each(group_u, groups), first_of_each(group_v, groups)
                x, y = u[i], v[j]
                # Each modality's own plan over the matched samples is the target of the other's.
                halves = [
                    klot_loss(own, own, other.detach(), other.detach(), **options) for own, other in ((x, y), (y, x))
                ]
                values[a, b] = torch.stack(halves).mean()
                count += groups
        loss, logs = mean_over_pairs("klot", values)
        return LossOut(loss, terms={"klot": loss}, counts={"klot": count}, logs=logs)


def first_of_each(group: Tensor, count: int) -> Tensor:
    """The first row (G,) of each of `count` groups."""
    first = torch.full((count,), len(group), device=group.device)
    rows = torch.arange(len(group), device=group.device)
    known = group >= 0
    return first.scatter_reduce(0, group[known], rows[known], "amin")


def build(config: KlotConfig, context: BuildContext) -> Klot:
    return Klot(config)
