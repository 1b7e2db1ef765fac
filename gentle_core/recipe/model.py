"""The typed recipe: what a TOML file becomes. Every table is frozen; every default is stated here and nowhere else.

Component tables (`dataset`, an encoder, an augmentation, the objective) hold Gentle's own keys beside the options of
the component that `use` names; the latter are parsed into the component's config class when the name is resolved.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import attrs


@attrs.frozen(kw_only=True)
class Component:
    """A named component and its options (`config` is the parsed form, set when the recipe is resolved)."""

    use: str
    options: Mapping[str, Any] = attrs.field(factory=dict)
    config: Any = attrs.field(default=None, eq=False)


@attrs.frozen(kw_only=True)
class DatasetTable(Component):
    """`[dataset]`

    Attributes:
        paired: share (0.0–1.0) or count (an integer) of the training pairs whose pairing is used; the other items
            become unmatched pools.
        pool: "shuffled" (an item's mate is somewhere in the other pool) or "disjoint" (it is nowhere).
        unpaired: share or count of the remaining samples that go into the pools.
    """

    paired: float | int = 1.0
    pool: Literal["shuffled", "disjoint"] = "shuffled"
    unpaired: float | int = 1.0


@attrs.frozen(kw_only=True)
class EncoderTable(Component):
    """`encoder = { use = …, freeze = … }`

    Attributes:
        freeze: no gradients, evaluation mode; features are computed once per item and cached on disk.
        learning_rate: overrides `train.encoder_learning_rate` for this encoder.
    """

    freeze: bool = False
    learning_rate: float | None = None


@attrs.frozen(kw_only=True)
class HeadTable:
    """`head = { … }`: the projection from encoder features to the joint space.

    Attributes:
        dimension: of the joint space; the same in all towers.
        hidden: width of the hidden layer; 0 for a single linear map.
        dropout: on the features that enter and on the hidden layer; with it, two passes are two views.
        standardize: z-score the features with statistics of the training items (frozen encoders only).
        dropout_input: dropout on the features that enter the head.
    """

    dimension: int = 128
    hidden: int = 256
    dropout: float = 0.1
    dropout_input: float = 0.0
    standardize: bool = True


@attrs.frozen(kw_only=True)
class TowerTable:
    """`[towers.NAME]`"""

    modality: str
    encoder: EncoderTable
    head: HeadTable = HeadTable()
    augment: tuple[Component, ...] = ()


@attrs.frozen(kw_only=True)
class ObjectiveTable(Component):
    """`[objective]`

    Attributes:
        pairs: tower pairs whose pairwise terms are averaged; empty for all unordered pairs.
    """

    use: str = "core/gentle"
    pairs: tuple[tuple[str, str], ...] = ()


@attrs.frozen(kw_only=True)
class TrainTable:
    """`[train]`

    Attributes:
        steps: optimiser steps; or give `epochs` (passes over the longest of pairs and pools) instead.
        batch_size: matched rows, and unmatched rows a tower, of a global batch, where the next two are not given.
        paired_rows: matched rows of a global batch.
        unpaired_rows: rows from each tower's own unmatched pool. 0 for pairs only.
        proportional: the paper's rule instead: B rows, of which n = floor(N / (M + N) * B) are matched.
        seed: of everything random.
        learning_rate, encoder_learning_rate: of heads and losses, and of encoders that train.
        weight_decay: AdamW's, on matrices only.
        warmup: share of the steps (< 1) or number of steps (>= 1) over which the rate rises.
        schedule: what follows the warm-up.
        clip: largest gradient norm; 0 for none.
        accumulate: into how many chunks the encoders' work on a batch is cut. The objective still sees the whole
            batch: embeddings first, then the objective once, then the chunks again with the same randomness.
        precision: "float32" or "bfloat16" (autocast in the towers; losses stay in float32).
        adversary_rate: learning rate of parameters that ascend (MK-MMD's kernel weights).
        evaluate_every, save_every, log_every: in steps; 0 for only at the end.
        keep_last: how many checkpoints stay.
        select: a validation metric ("retrieval/mean/R@10", "loss", "retrieval/sequence->structure/R@10") whose best
            checkpoint becomes the model; empty for the last.
        workers: loader processes; 0 loads in the training process. Results do not depend on it.
    """

    steps: int | None = None
    epochs: float | None = None
    batch_size: int = 64
    paired_rows: int | None = None
    unpaired_rows: int | None = None
    proportional: int | None = None
    seed: int = 0
    learning_rate: float = 1e-3
    encoder_learning_rate: float = 1e-4
    weight_decay: float = 0.01
    warmup: float = 0.1
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    clip: float = 1.0
    accumulate: int = 1
    precision: Literal["float32", "bfloat16"] = "float32"
    adversary_rate: float = 1e-2
    evaluate_every: int = 0
    save_every: int = 0
    log_every: int = 10
    keep_last: int = 2
    select: str = ""
    workers: int = 0


@attrs.frozen(kw_only=True)
class EngineTable:
    """`[engine]`: the back end and the device ("auto": CUDA, then MPS, then CPU). `threads` 0 leaves torch's choice."""

    use: Literal["local"] = "local"
    device: str = "auto"
    threads: int = 0


@attrs.frozen(kw_only=True)
class EvaluateTable:
    """`[evaluate]`

    Attributes:
        splits: evaluated at the end; training-time evaluation uses the first ("val" as a rule).
        limit: largest retrieval pool (a seeded draw); 0 for all items.
    """

    splits: tuple[str, ...] = ("val", "test")
    limit: int = 0


@attrs.frozen(kw_only=True)
class BaselineTable:
    """`[baseline]`

    Attributes:
        pairs_only: also train CLIP on the same pairs for the same steps, and show it beside the run.
        cca: also fit regularised CCA on frozen features of the same pairs.
    """

    pairs_only: bool = False
    cca: bool = True


@attrs.frozen(kw_only=True)
class ReportTable:
    """`[report]`: `map` is the method of the 2-D map, `examples` how many nearest-neighbour examples are shown."""

    map: Literal["pca", "tsne", "none"] = "pca"
    examples: int = 6


@attrs.frozen(kw_only=True)
class Recipe:
    """A whole recipe."""

    dataset: DatasetTable
    towers: Mapping[str, TowerTable]
    objective: ObjectiveTable = ObjectiveTable()
    train: TrainTable = TrainTable()
    engine: EngineTable = EngineTable()
    evaluate: EvaluateTable = EvaluateTable()
    baseline: BaselineTable = BaselineTable()
    report: ReportTable = ReportTable()
    name: str = ""
    description: str = ""
    plugins: tuple[str, ...] = ()
    """Plugin distributions the recipe needs; a missing one is an error that says what to install."""
