"""Compositions of registered losses: a weighted sum, and Gentle (Eqs. 8 and 9 of Gentle-CLIP)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs
import torch
from torch import nn

from gentle_core.batch import AlignBatch, BuildContext, LossContext, LossOut, ParamGroups, Rows
from gentle_core.builtin import Child, GentleConfig, OnlyRowsConfig, SumConfig
from gentle_core.errors import ComponentError, RecipeError
from gentle_core.losses.cells import Cells
from gentle_core.losses.clip import Clip
from gentle_core.losses.common import CellLoss
from gentle_core.losses.precision import nothing
from gentle_core.modules import LossModule
from gentle_core.schedule import weight_at


class Composite(CellLoss):
    """Registered losses, each with a weight that may follow a schedule.

    Parameters, `post_step` and the scorer of the children pass through. Children made of reductions over cells share
    one plan.
    """

    def __init__(self, children: Sequence[Child], context: BuildContext):
        super().__init__()
        if context.loss is None:
            raise ComponentError("a composed loss builds its parts through BuildContext.loss, which is missing here")
        self.plan = tuple(children)
        self._parts = nn.ModuleList([context.loss(child.use, child.options) for child in self.plan])

    @property
    def parts(self) -> list[LossModule]:
        """The losses that are not 0 throughout, in the order of `plan`."""
        return list(self._parts)  # type: ignore[arg-type]

    @property
    def needs(self) -> frozenset[str]:
        """What the children must find in a batch, as far as they say so: see `gentle_core.builtin.needs`."""
        return frozenset().union(*(getattr(part, "needs", ()) for part in self._parts))

    def weights(self, ctx: LossContext) -> list[float]:
        """The weight of each child at this step."""
        return [weight_at(child.weight, ctx.step, ctx.steps) for child in self.plan]

    def ask(self, batch: AlignBatch, ctx: LossContext, cells: Cells) -> Callable[[], LossOut]:
        # One that looks at matched rows only asks last: it then sees whether their cells are computed anyhow.
        order = sorted(range(len(self.parts)), key=lambda i: isinstance(self.parts[i], Clip))
        asked = {i: part.ask(batch, ctx, cells) for i in order if isinstance(part := self.parts[i], CellLoss)}

        def finish() -> LossOut:
            outs = [asked[i]() if i in asked else part(batch, ctx) for i, part in enumerate(self.parts)]
            return self._sum(batch, outs, self.weights(ctx))

        return finish

    def _sum(self, batch: AlignBatch, outs: Sequence[LossOut], weights: Sequence[float]) -> LossOut:
        total = LossOut(nothing(*(rows.z for rows in batch.towers.values())))
        objective, exact = total.loss.detach(), True
        for i, (out, weight) in enumerate(zip(outs, weights, strict=True)):
            total.loss = total.loss + weight * out.loss
            objective = objective + weight * (out.loss if out.objective is None else out.objective).detach()
            exact = exact and out.objective is None
            # A child may name no terms; and two children of one kind must not overwrite each other's.
            terms = out.terms or {self.plan[i].use.rpartition("/")[2]: out.loss}
            renamed = {name: f"{name}.{i}" if name in total.terms else name for name in terms}
            total.terms |= {renamed[name]: value for name, value in terms.items()}
            total.weights |= {renamed[name]: weight * out.weights.get(name, 1.0) for name in terms}
            total.counts |= {renamed.get(name, name): count for name, count in out.counts.items()}
            total.logs |= {f"{name}.{i}" if name in total.logs else name: value for name, value in out.logs.items()}
        total.objective = None if exact else objective
        return total

    def param_groups(self) -> ParamGroups:
        groups = ParamGroups()
        for part in self.parts:
            of_part = part.param_groups()
            groups.min += of_part.min
            groups.max += of_part.max
            groups.own += of_part.own
        return groups

    def post_step(self, ctx: LossContext) -> None:
        for part in self.parts:
            part.post_step(ctx)

    def scorer(self) -> Any:
        return next((scorer for part in self.parts if (scorer := part.scorer()) is not None), None)


class Gentle(Composite):
    """`core/gentle`: α(L_CL + μ Σ L_SSL) + δ L_MK-MMD + η L_SDD."""

    def __init__(self, config: GentleConfig, context: BuildContext):
        self.config = config
        super().__init__(config.children(), context)

    @property
    def needs(self) -> frozenset[str]:
        # Without a single pair the contrastive part is 0 and the rest goes on: pairs are wanted, not needed.
        return super().needs - {"pairs"}

    def weights(self, ctx: LossContext) -> list[float]:
        alpha = weight_at(self.config.alpha, ctx.step, ctx.steps)
        weights = super().weights(ctx)
        return [alpha * w if child.key == "ssl" else w for child, w in zip(self.plan, weights, strict=True)]


class OnlyRows(Composite):
    """`core/only-rows`: a loss that sees a part of each tower's rows: paired texts against unlabelled images, say."""

    def __init__(self, config: OnlyRowsConfig, context: BuildContext):
        super().__init__(config.children(), context)
        self.keep = dict(config.keep)

    def ask(self, batch: AlignBatch, ctx: LossContext, cells: Cells) -> Callable[[], LossOut]:
        unknown = set(self.keep) - set(batch.towers)
        if unknown:
            raise RecipeError(
                f"core/only-rows: keep names no tower {', '.join(sorted(unknown))}; there are {', '.join(batch.towers)}"
            )
        return super().ask(AlignBatch({name: self._kept(name, batch) for name in batch.towers}), ctx, cells)

    def _kept(self, name: str, batch: AlignBatch) -> Rows:
        wanted, rows = self.keep.get(name, "all"), batch.towers[name]
        if wanted == "all":
            return rows
        others = [other.ids for key, other in batch.towers.items() if key != name]
        matched = torch.isin(rows.ids, torch.cat(others)) if others else torch.zeros_like(rows.ids, dtype=torch.bool)
        keep = matched if wanted == "matched" else ~matched
        fields = {f.name: getattr(rows, f.name) for f in attrs.fields(Rows) if f.name != "extras"}
        parts = {key: None if value is None else value[keep] for key, value in fields.items()}
        return Rows(**parts, extras={key: value[keep] for key, value in rows.extras.items()})  # type: ignore[arg-type]


def build_only_rows(config: OnlyRowsConfig, context: BuildContext) -> OnlyRows:
    return OnlyRows(config, context)


def build_sum(config: SumConfig, context: BuildContext) -> Composite:
    return Composite(config.children(), context)


def build_gentle(config: GentleConfig, context: BuildContext) -> Gentle:
    return Gentle(config, context)
