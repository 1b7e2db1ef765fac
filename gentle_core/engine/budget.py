"""What a training step needs of a rank's memory and of the network: arithmetic alone, without torch.

All sizes are bytes. n ranks hold the same towers. What each holds of weights (W parameters, T of them trained),
gradients and optimiser state follows the ZeRO stage (Rajbhandari et al. 2020, https://arxiv.org/abs/1910.02054):

| stage | divided by n                             |
|-------|------------------------------------------|
| 0     | nothing                                  |
| 1     | optimiser state (and the master weights) |
| 2     | gradients too                            |
| 3     | weights too                              |
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import attrs

STAGES = (0, 1, 2, 3)

BUCKET = 500_000_000
"""Largest number of elements that DeepSpeed reduces at once, its own default."""
LIVE = 1_000_000_000
"""Parameters that stage 3 holds whole at once before it gives any up, DeepSpeed's own default."""


@attrs.frozen(kw_only=True)
class TowerCost:
    """A tower, as it was counted and measured.

    Attributes:
        parameters, trainable: how many numbers it has, and how many of them train.
        largest: numbers in its largest layer, which ZeRO 3 gathers whole.
        matched, unmatched: rows of a global batch.
        dimension: of its projections.
        inputs: bytes of a row's input.
        fixed, row: what a chunk's forward pass keeps for the backward pass: bytes whatever the rows, and bytes a row.
        largest_activation: bytes a row of the largest single tensor among them.
        block: bytes a row of what is there only while a part of the tower is computed again.
        cached: its features are computed beforehand, and only its head works in a step.
    """

    parameters: int
    trainable: int
    largest: int
    matched: int
    unmatched: int
    dimension: int
    inputs: float = 0.0
    fixed: float = 0.0
    row: float = 0.0
    largest_activation: float = 0.0
    block: float = 0.0
    cached: bool = False


@attrs.frozen(kw_only=True)
class ObjectiveCost:
    """Peak memory of objective and its gradient above the embeddings: fixed + row·B + square·B², for B rows of all
    towers together; `tile` is the part of it that tiles take."""

    fixed: float
    row: float
    square: float
    tile: float = 0.0

    def peak(self, rows: int) -> float:
        return max(self.fixed + self.row * rows + self.square * rows * rows, 0.0)


@attrs.frozen(kw_only=True)
class Setting:
    """How a run is spread out.

    Attributes:
        ranks: how many.
        stage: of ZeRO; None for the local back end, where every rank holds all.
        chunks: `train.accumulate`.
        views: how often each row passes its tower (2 with self-supervision).
        weight: bytes of a weight that is worked with; below 4 there is a master copy of 4 beside.
        offload: optimiser state lies in the host's memory.
    """

    ranks: int = 1
    stage: int | None = None
    chunks: int = 1
    views: int = 1
    weight: int = 4
    offload: bool = False

    @property
    def each(self) -> int:
        """Chunks of each group of rows on a rank; with more than one, towers run twice and keep one chunk at a time."""
        return -(-self.chunks // self.ranks)


@attrs.frozen(kw_only=True)
class Need:
    """Bytes on one rank. `peak` is what is there together at the worst moment, `moment` names it."""

    weights: float
    copy: float
    optimiser: float
    gradients: float
    inputs: float
    activations: float
    embeddings: float
    objective: float
    tiles: float
    gathered: float
    buckets: float
    peak: float
    moment: str


@attrs.frozen(kw_only=True)
class Traffic:
    """Bytes that one rank sends in a step (as many as it receives)."""

    gradients: float
    weights: float
    embeddings: float

    @property
    def total(self) -> float:
        return self.gradients + self.weights + self.embeddings


def memory(towers: Mapping[str, TowerCost], objective: ObjectiveCost, setting: Setting) -> Need:
    """What a rank needs."""
    n, stage = setting.ranks, setting.stage or 0
    share = [1 / n if stage >= level else 1.0 for level in (1, 2, 3)]
    parameters = sum(t.parameters for t in towers.values())
    trainable = sum(t.trainable for t in towers.values())
    master = 4 if setting.stage and (setting.weight < 4 or stage >= 1) else 4 if setting.weight < 4 else 0
    optimiser = (8 + master) * trainable * share[0]
    weights = setting.weight * parameters * share[2]
    gradients = setting.weight * trainable * share[1]
    deepspeed = setting.stage is not None
    # DeepSpeed holds the towers that train; an ordinary copy, for evaluation and checkpoints, shares frozen encoders
    # with them where DeepSpeed neither casts nor divides them.
    shared = setting.weight == 4 and stage < 3
    copy = 4.0 * (trainable if shared else parameters) if deepspeed else 0.0
    # A bucket of gradients on its way to the other ranks; at stage 3 also the buffer from which it is scattered, and
    # that of the exchange itself. Stage 0 fills it when the backward pass is over.
    buckets = setting.weight * min(BUCKET, trainable) * (3 if stage == 3 else 1) if deepspeed else 0.0
    # Stage 3 keeps as many parameters whole as it may, beside the layer that is on its way.
    largest = max((t.largest for t in towers.values()), default=0)
    gathered = setting.weight * (min(LIVE, parameters) + largest) if stage == 3 and n > 1 else 0.0

    cut = n * setting.each
    inputs = sum(t.inputs * _rows(t, n) * setting.views for t in towers.values())
    if setting.each == 1:
        groups = {name: [math.ceil(r / cut) for r in (t.matched, t.unmatched) if r] for name, t in towers.items()}
        activations = sum(setting.views * sum(t.fixed + t.row * r for r in groups[name]) for name, t in towers.items())
    else:
        activations = max((t.fixed + t.row * _chunk(t, cut) for t in towers.values()), default=0.0)
    workspace = max(((2 * t.largest_activation + t.block) * _chunk(t, cut) for t in towers.values()), default=0.0)
    embedding = {name: 4.0 * (t.matched + t.unmatched) * t.dimension * setting.views for name, t in towers.items()}
    # raw projections, unit vectors, and the gradients of both: each rank has those of the whole batch
    embeddings = 4 * sum(embedding.values())
    rows = sum(t.matched + t.unmatched for t in towers.values())
    extra = objective.peak(rows)

    static = weights + copy + (0.0 if setting.offload else optimiser) + inputs + gathered
    kept = activations if setting.each == 1 else 0.0
    moments = {
        "objective": static + kept + embeddings + extra,
        "backward pass": static + activations + workspace + embeddings / 2 + gradients + (buckets if stage else 0.0),
        "reduction": static + gradients + buckets,
        "optimiser's step": static + gradients + 4 * trainable * share[0],
    }
    moment = max(moments, key=lambda name: moments[name])
    return Need(
        weights=weights, copy=copy, optimiser=optimiser, gradients=gradients, inputs=inputs,
        activations=activations + workspace, embeddings=embeddings, objective=extra - objective.tile,
        tiles=objective.tile, gathered=gathered, buckets=buckets, peak=moments[moment], moment=moment,
    )  # fmt: skip


def traffic(towers: Mapping[str, TowerCost], setting: Setting) -> Traffic:
    """What a rank sends in a step, with collectives in rings: (n − 1)/n of a vector for a gather or a scatter."""
    n, stage = setting.ranks, setting.stage or 0
    once = (n - 1) / n
    trainable = setting.weight * sum(t.trainable for t in towers.values())
    everything = setting.weight * sum(t.parameters for t in towers.values())
    # An all-reduce is a scatter and a gather. Where weights or masters are divided, gradients are scattered and
    # weights gathered: once after the step, or at stage 3 for each pass through a tower.
    passes = 2 if setting.each == 1 else 2 * setting.each + setting.each
    weights = {0: 0.0, 1: trainable, 2: trainable}.get(stage, passes * setting.views * everything) * once
    gradients = trainable * once * (2 if stage == 0 else 1)
    embedding = sum(4.0 * (t.matched + t.unmatched) * t.dimension * setting.views for t in towers.values())
    # Projections are gathered; the gradient of each set, of which every rank has its tiles' part, is summed.
    return Traffic(gradients=gradients, weights=weights, embeddings=3 * once * embedding)


def smallest_chunks(
    towers: Mapping[str, TowerCost], objective: ObjectiveCost, setting: Setting, limit: float
) -> int | None:
    """The smallest `train.accumulate` (a multiple of the ranks) with which a rank stays below `limit`; None where
    no number of chunks is enough."""
    most = max((max(t.matched, t.unmatched) for t in towers.values()), default=1)
    each = 1
    while True:
        chunks = each * setting.ranks
        if memory(towers, objective, attrs.evolve(setting, chunks=chunks)).peak <= limit:
            return chunks
        if chunks >= most:
            return None
        each *= 2


def _rows(tower: TowerCost, ranks: int) -> int:
    return math.ceil(tower.matched / ranks) + math.ceil(tower.unmatched / ranks)


def _chunk(tower: TowerCost, cut: int) -> int:
    return max(math.ceil(tower.matched / cut), math.ceil(tower.unmatched / cut))
