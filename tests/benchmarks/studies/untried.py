"""Objectives that were tried for few pairs and are in no plugin: docs/explanation/what-did-not-help.md has results.

    gentle study tests/benchmarks/studies/few-pairs-untried.toml --plugin tests/benchmarks/studies/untried.py

Written for batches of some hundred rows: whole tables, one process.
"""

from __future__ import annotations

from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gentle_core.api import AlignBatch, BuildContext, LossContext, LossModule, LossOut, LossSpec, hookimpl


@attrs.frozen(kw_only=True)
class NoOptions:
    pass


@attrs.frozen(kw_only=True)
class PrototypeConfig:
    """`count` prototypes, shared by both towers; `temperature` of the assignments, `epsilon` of their balance."""

    count: int = 64
    temperature: float = 0.1
    epsilon: float = 0.05


@attrs.frozen(kw_only=True)
class GromovConfig:
    """`epsilon` of the plan; `alpha`: how much distances within the modalities count in it, beside those across."""

    epsilon: float = 0.05
    alpha: float = 0.5


def pair_of(batch: AlignBatch, ctx: LossContext) -> tuple[Any, Any]:
    a, b = ctx.pairs[0] if ctx.pairs else tuple(batch.towers)[:2]
    return batch.towers[a], batch.towers[b]


def mates(left: Any, right: Any) -> tuple[Tensor, Tensor]:
    """Rows (n,), (n,) of the matched pairs."""
    equal = left.ids[:, None] == right.ids[None]
    i, j = equal.nonzero(as_tuple=True)
    return i, j


def log_density(points: Tensor, rows: Tensor) -> Tensor:
    """log κ (m,) of the points under the rows, normalised over the points, as SDD has it with b = 1."""
    sigma = rows.var(0).sum().clamp_min(1e-12)
    return (-torch.cdist(points, rows).square() / sigma).logsumexp(1).log_softmax(0)


class TeacherDensity(LossModule):
    """KL of the teacher's densities, within and across the modalities, and those of the embeddings, over all rows."""

    needs = frozenset({"unpaired", "reference"})

    def forward(self, batch: AlignBatch, ctx: LossContext) -> LossOut:
        sides = pair_of(batch, ctx)
        told = [side.extras.get("reference") for side in sides]
        if told[0] is None or told[1] is None:
            loss = sum(side.z.sum() for side in sides) * 0.0
        else:
            parts = []
            for k in (0, 1):
                for other in (k, 1 - k):
                    wanted = log_density(told[k], told[other])
                    found = log_density(sides[k].z, sides[other].z)
                    parts.append((wanted.exp() * (wanted - found)).sum())
            loss = torch.stack(parts).mean()
        return LossOut(loss, terms={"teacher_density": loss})


class Prototypes(LossModule):
    """Prototypes that both modalities share: each row is to be sure of one, all are used equally often by each
    modality, and mates choose the same (balanced assignments as in SwAV, Caron et al. 2020)."""

    def __init__(self, config: PrototypeConfig, dimension: int):
        super().__init__()
        self.config = config
        self.centres = nn.Parameter(torch.randn(config.count, dimension))

    @torch.no_grad()
    def balanced(self, scores: Tensor) -> Tensor:
        q = (scores / self.config.epsilon).softmax(1)
        for _ in range(3):
            q = q / q.sum(0, keepdim=True) / q.shape[1]
            q = q / q.sum(1, keepdim=True) / q.shape[0]
        return q * q.shape[0]

    def forward(self, batch: AlignBatch, ctx: LossContext) -> LossOut:
        left, right = pair_of(batch, ctx)
        centres = F.normalize(self.centres, dim=1)
        scores = [side.z @ centres.T for side in (left, right)]
        targets = [self.balanced(score) for score in scores]
        said = [(score / self.config.temperature).log_softmax(1) for score in scores]
        i, j = mates(left, right)
        parts = [-(q * p).sum(1).mean() for q, p in zip(targets, said, strict=True)]
        if len(i):
            parts += [-(targets[0][i] * said[1][j]).sum(1).mean(), -(targets[1][j] * said[0][i]).sum(1).mean()]
        loss = torch.stack(parts).mean()
        return LossOut(loss, terms={"prototypes": loss})


class Gromov(LossModule):
    """The fused Gromov–Wasserstein energy between all rows of the two modalities at its plan, a constant: what the plan
    matches shall lie at like distances within both modalities (Peyré et al. 2016; Vayer et al. 2020)."""

    def __init__(self, config: GromovConfig):
        super().__init__()
        self.config = config

    def forward(self, batch: AlignBatch, ctx: LossContext) -> LossOut:
        import ot

        u, v = (side.z for side in pair_of(batch, ctx))
        within = [1 - z @ z.T for z in (u, v)]
        mass = [torch.full((len(z),), 1 / len(z), dtype=torch.float64) for z in (u, v)]
        with torch.no_grad():
            cost, left, right = ((1 - u @ v.T).double(), *(d.double() for d in within))
            plan = ot.gromov.entropic_fused_gromov_wasserstein(
                cost.numpy(), left.numpy(), right.numpy(), mass[0].numpy(), mass[1].numpy(), alpha=self.config.alpha,
                epsilon=self.config.epsilon, max_iter=10, solver="PPA",
            )  # fmt: skip
            plan = torch.from_numpy(plan).to(u.dtype)
        p, q = plan.sum(1), plan.sum(0)
        loss = p @ within[0].square() @ p + q @ within[1].square() @ q
        loss = loss - 2 * (plan * (within[0] @ plan @ within[1].T)).sum()
        return LossOut(loss, terms={"gromov": loss})


class Relations(LossModule):
    """Every row is to be as near to a pair's item of its own modality as to that of the other: the squared difference
    of these cosines, anchors being the batch's pairs (the cross-modal consistency of CyCLIP, Goel et al. 2022)."""

    def forward(self, batch: AlignBatch, ctx: LossContext) -> LossOut:
        left, right = pair_of(batch, ctx)
        i, j = mates(left, right)
        x, y = left.z[i], right.z[j]
        if not len(i):
            loss = left.z.sum() * 0.0
        else:
            loss = torch.stack([(z @ x.T - z @ y.T).square().mean() for z in (left.z, right.z)]).mean()
        return LossOut(loss, terms={"relations": loss})


def teacher_density(config: NoOptions, context: BuildContext) -> TeacherDensity:
    return TeacherDensity()


def prototypes(config: PrototypeConfig, context: BuildContext) -> Prototypes:
    return Prototypes(config, next(iter(context.dimensions.values())))


def gromov(config: GromovConfig, context: BuildContext) -> Gromov:
    return Gromov(config)


def relations(config: NoOptions, context: BuildContext) -> Relations:
    return Relations()


@hookimpl
def gentle_losses() -> list[LossSpec]:
    rows = {"scope": "global"}
    return [
        LossSpec(
            name="teacher-density", config=NoOptions, target=f"{__name__}:teacher_density",
            needs={"unpaired", "reference"}, summary="The densities of a teacher's rows as a target", **rows,
        ),
        LossSpec(
            name="prototypes", config=PrototypeConfig, target=f"{__name__}:prototypes", needs={"pairs", "unpaired"},
            summary="Prototypes shared by the modalities", **rows,
        ),
        LossSpec(
            name="gromov", config=GromovConfig, target=f"{__name__}:gromov", needs={"unpaired"},
            summary="Fused Gromov–Wasserstein energy", **rows,
        ),
        LossSpec(
            name="relations", config=NoOptions, target=f"{__name__}:relations", needs={"pairs", "unpaired"},
            summary="Equal relations to the pairs within and across modalities", **rows,
        ),
    ]  # fmt: skip
