"""The typed recipe: what a TOML file becomes. Every table is frozen; every default is stated here and nowhere else.

Component tables (`dataset`, an encoder, an augmentation, the objective) hold Gentle's own keys beside the options of
the component that `use` names; the latter are parsed into the component's config class when the name is resolved.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import attrs
from attrs.validators import optional

from gentle_core.form_names import FormName
from gentle_core.pseudo import ProposalSettings
from gentle_core.split_lists import SPLITS


@attrs.frozen
class _Least:
    """A finite number, not below `bound` (or above it, for `operator.gt`)."""

    bound: float
    compare_func: Callable[[float, float], bool] = operator.ge

    def __call__(self, _: Any, __: attrs.Attribute[Any], value: float) -> None:
        if not (math.isfinite(value) and self.compare_func(value, self.bound)):
            wanted = f"{self.bound} or more" if self.compare_func is operator.ge else f"above {self.bound}"
            raise ValueError(f"must be {wanted}{'' if math.isfinite(value) else ' and finite'}, not {value}")


_above_0 = _Least(0, operator.gt)


def _below_1(_: Any, __: attrs.Attribute[Any], value: float) -> None:
    if not 0 <= value < 1:
        raise ValueError(f"must be from 0 to below 1, not {value}")


def _share_or_count(_: Any, __: attrs.Attribute[Any], value: float) -> None:
    if isinstance(value, float) and not 0 <= value <= 1:
        raise ValueError(f"must be a share from 0.0 to 1.0, or an integer for a count, not {value}")
    if value < 0:
        raise ValueError(f"must be 0 or more, not {value}")


def _device(_: Any, __: attrs.Attribute[str], value: str) -> None:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", value):
        raise ValueError(f"must be 'auto', 'cpu', 'cuda', 'cuda:N' or 'mps', not {value!r}")


def _distinct(_: Any, __: attrs.Attribute[Any], value: Sequence[str]) -> None:
    if len(set(value)) < len(value):
        raise ValueError(f"must name each at most once, not {list(value)}")


def _tile(_: Any, __: attrs.Attribute[Any], value: int | str) -> None:
    if isinstance(value, int) and value < 0:
        raise ValueError(f"must be 'auto', a number of rows, or 0 for no tiles, not {value}")


def _splits(_: Any, __: attrs.Attribute[Any], value: Sequence[str]) -> None:
    for split in value:
        if split not in SPLITS or list(value).count(split) > 1:
            raise ValueError(f"must name 'train', 'val' or 'test', each at most once, not {list(value)}")


@attrs.frozen(kw_only=True)
class Component:
    """A named component and its options (`config` is the parsed form, set when the recipe is resolved)."""

    use: str
    options: Mapping[str, Any] = attrs.field(factory=dict)
    config: Any = attrs.field(default=None, eq=False)


def _pool_sources(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    """A share or count; or further sources, with one share or count among them at most."""
    if not isinstance(value, tuple):
        return _share_or_count(_, attribute, value)
    numbers = [part for part in value if not isinstance(part, Component)]
    if len(numbers) > 1:
        raise ValueError(f"may hold one number, the share of the remaining samples, not {numbers}")
    for number in numbers:
        _share_or_count(_, attribute, number)


@attrs.frozen(kw_only=True)
class DatasetTable(Component):
    """`[dataset]`

    Attributes:
        paired: share (0.0–1.0) or count (an integer) of the training pairs whose pairing is used; the other items
            become unmatched pools.
        pool: "shuffled" (an item's mate is somewhere in the other pool) or "disjoint" (it is nowhere).
        unpaired: share or count of the remaining samples that go into the pools. Or a list of further sources:
            tables { use = …, … } of datasets whose training items all go into the pools; a number among them is the
            share or count of the remaining samples (all of them where there is no number).
    """

    paired: float | int = attrs.field(default=1.0, validator=_share_or_count)
    pool: Literal["shuffled", "disjoint"] = "shuffled"
    unpaired: float | int | tuple[float | int | Component, ...] = attrs.field(default=1.0, validator=_pool_sources)

    @property
    def remaining(self) -> float | int:
        """Share or count of the dataset's own remaining samples that go into the pools."""
        if not isinstance(self.unpaired, tuple):
            return self.unpaired
        return next((part for part in self.unpaired if not isinstance(part, Component)), 1.0)

    @property
    def sources(self) -> tuple[Component, ...]:
        """Further sources of unmatched items."""
        given = self.unpaired if isinstance(self.unpaired, tuple) else ()
        return tuple(part for part in given if isinstance(part, Component))


@attrs.frozen(kw_only=True)
class EncoderTable(Component):
    """`encoder = { use = …, freeze = … }`

    Attributes:
        freeze: no gradients, evaluation mode; features are computed once per item and cached on disk.
        views: of a frozen encoder behind augmentations: how many augmented views of each training item are computed
            once and cached on disk; each time a row is seen, it is one of them. 0 augments and encodes anew at every
            step.
        learning_rate: overrides `train.encoder_learning_rate` for this encoder.
    """

    freeze: bool = False
    views: int = attrs.field(default=0, validator=_Least(0))
    learning_rate: float | None = attrs.field(default=None, validator=optional(_above_0))


@attrs.frozen(kw_only=True)
class HeadTable:
    """`head = { … }`: the projection from encoder features to the joint space.

    Attributes:
        dimension: of the joint space; the same in all towers.
        hidden: width of the hidden layer; 0 for a single linear map.
        dropout: on the hidden layer; with it, two passes are two views.
        standardize: z-score the features that enter, with statistics of the training items, those of the pools
            among them: of all of them for a frozen encoder; for one that trains, of 512 of them before training.
        dropout_input: dropout on the features that enter the head.
        init: "identity" lets a single linear map (`hidden = 0`) start as the identity, so that the towers begin where
            their encoders were aligned before (both towers of a pretrained CLIP). `dimension` is then the encoder's.
            "cca" lets it start as the map of a regularised CCA on the pairs' encoder features, its settings chosen on
            validation: of both towers of the objective's first pair.
    """

    dimension: int = attrs.field(default=128, validator=_Least(1))
    hidden: int = attrs.field(default=256, validator=_Least(0))
    dropout: float = attrs.field(default=0.1, validator=_below_1)
    dropout_input: float = attrs.field(default=0.0, validator=_below_1)
    standardize: bool = True
    init: Literal["random", "identity", "cca"] = "random"

    def __attrs_post_init__(self) -> None:
        if self.init == "identity" and (self.hidden or self.standardize):
            raise ValueError('init = "identity" needs hidden = 0 and standardize = false')
        if self.init == "cca" and self.hidden:
            raise ValueError('init = "cca" needs hidden = 0: CCA is one linear map')


@attrs.frozen(kw_only=True)
class TowerTable:
    """`[towers.NAME]`

    Attributes:
        unpaired_rows: rows from this tower's own unmatched pool, instead of `train.unpaired_rows`. 0: the tower sees
            matched rows alone.
        descriptors: further encoders of the same modality, never trained, whose features the closed forms see beside
            the tower's own (see `[baseline]`).
    """

    modality: str
    encoder: EncoderTable
    head: HeadTable = HeadTable()
    augment: tuple[Component, ...] = ()
    unpaired_rows: int | None = attrs.field(default=None, validator=optional(_Least(0)))
    descriptors: tuple[Component, ...] = ()


@attrs.frozen(kw_only=True)
class PseudoTable(ProposalSettings):
    """`[pseudo]`: pseudo-pairs from a teacher, for objectives with `core/pseudo-pairs`.

    Attributes:
        teacher: who embeds the pools.
        towers: between which towers; the first pair of the objective by default.
        rows: pseudo-pairs of a global batch.
        start: the first step (a share of the run below 1) at which the teacher is asked.
        refresh: ask again after so many steps (a share of the run below 1); 0 for once.
    """

    teacher: Component
    towers: tuple[str, str] | None = None
    rows: int = attrs.field(default=64, validator=_Least(2))
    start: float = attrs.field(default=0.0, validator=_Least(0))
    refresh: float = attrs.field(default=0.0, validator=_Least(0))


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
        clip: largest norm of the towers' gradient; 0 for none. A loss's own parameters take no part in it.
        accumulate: into how many chunks the encoders' work on a global batch is cut (a multiple of the number of ranks,
            which share them out). The objective still sees the whole batch: embeddings first, then the objective
            once, then the chunks again with the same randomness.
        tile: how the objective is computed: in tiles of so many rows, with memory linear in the rows of a batch; 0 for
            whole tables of rows by rows; "auto" for tables only where a batch is so small that tiles gain nothing.
        precision: "float32", "bfloat16" or "float16" (in the towers; losses stay in float32). With "float16" the loss
            is scaled (`engine.loss_scale`).
        adversary_rate: learning rate of parameters that ascend (MK-MMD's kernel weights).
        evaluate_every, checkpoint_every, log_every: in steps; 0 for only at the end.
        keep_last, keep_best: how many checkpoints stay: of the newest, and of those with the best `select`.
        select: a validation metric ("retrieval/mean/R@10", "retrieval/sequence->structure/R@10", "sdd") whose best
            checkpoint becomes the model; empty for the last. What towers start from is a candidate too where two or
            more have a `head.init` other than "random".
        on_nonfinite: "stop", or "skip": a step whose loss or gradient is not finite is left out, on all ranks.
        max_skipped: how many steps a run may skip; one more stops it.
        workers: loader processes; 0 loads in the training process. Results do not depend on it.
    """

    steps: int | None = attrs.field(default=None, validator=optional(_Least(1)))
    epochs: float | None = attrs.field(default=None, validator=optional(_above_0))
    batch_size: int = attrs.field(default=64, validator=_Least(2))
    paired_rows: int | None = attrs.field(default=None, validator=optional(_Least(0)))
    unpaired_rows: int | None = attrs.field(default=None, validator=optional(_Least(0)))
    proportional: int | None = attrs.field(default=None, validator=optional(_Least(2)))
    seed: int = attrs.field(default=0, validator=_Least(0))
    learning_rate: float = attrs.field(default=1e-3, validator=_above_0)
    encoder_learning_rate: float = attrs.field(default=1e-4, validator=_above_0)
    weight_decay: float = attrs.field(default=0.01, validator=_Least(0))
    warmup: float = attrs.field(default=0.1, validator=_Least(0))
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    clip: float = attrs.field(default=1.0, validator=_Least(0))
    accumulate: int = attrs.field(default=1, validator=_Least(1))
    tile: int | Literal["auto"] = attrs.field(default="auto", validator=_tile)
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    adversary_rate: float = attrs.field(default=1e-2, validator=_above_0)
    evaluate_every: int = attrs.field(default=0, validator=_Least(0))
    checkpoint_every: int = attrs.field(default=0, validator=_Least(0))
    log_every: int = attrs.field(default=10, validator=_Least(0))
    keep_last: int = attrs.field(default=2, validator=_Least(1))
    keep_best: int = attrs.field(default=1, validator=_Least(1))
    on_nonfinite: Literal["stop", "skip"] = "stop"
    max_skipped: int = attrs.field(default=10, validator=_Least(0))
    select: str = ""
    workers: int = attrs.field(default=0, validator=_Least(0))


@attrs.frozen(kw_only=True)
class EngineTable:
    """`[engine]`

    Attributes:
        use: the back end: plain torch, or DeepSpeed (which `pip install 'gentle-core[deepspeed]'` brings).
        zero_stage: what DeepSpeed divides among the ranks: 0 nothing, 1 the optimiser's state, 2 gradients as well,
            3 weights as well.
        offload: what DeepSpeed keeps in the host's memory: "optimizer" (from stage 1), "parameters" as well (stage 3).
        loss_scale: for precision "float16"; 0 for one that follows the gradients.
        activation_checkpointing: compute the encoders' inner activations again in the backward pass, block by block,
            instead of keeping them.
        peak_tflops: of a rank's device, for the share that is achieved; 0 for what is known of it.
        device: "auto" takes CUDA, then MPS, then the CPU. Of several CUDA devices each rank of a machine takes one.
        threads: of a process on the CPU; 0 leaves torch's choice.
        timeout: seconds that a rank waits for the others before it gives up.
        deepspeed: settings of DeepSpeed in its own words, merged into what follows from the recipe.
    """

    use: Literal["local", "deepspeed"] = "local"
    zero_stage: Literal[0, 1, 2, 3] = 1
    offload: Literal["none", "optimizer", "parameters"] = "none"
    loss_scale: float = attrs.field(default=0.0, validator=_Least(0))
    activation_checkpointing: bool = False
    peak_tflops: float = attrs.field(default=0.0, validator=_Least(0))
    device: str = attrs.field(default="auto", validator=_device)
    threads: int = attrs.field(default=0, validator=_Least(0))
    timeout: float = attrs.field(default=1800.0, validator=_above_0)
    deepspeed: Mapping[str, Any] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class EvaluateTable:
    """`[evaluate]`

    Attributes:
        splits: evaluated at the end; training-time evaluation uses the first ("val" as a rule).
        limit: largest retrieval pool (a seeded draw); 0 for all items.
        hubness: correction of the ranking, shown beside the plain figures: "auto" chooses method and settings on
            validation data, "none" among them; a method leaves only its settings to choose.
        bank: the rows that the correction looks at: training pairs, unmatched pools, or what validation favours.
        bank_rows: largest number of rows of a bank, each tower's drawn on its own.
    """

    splits: tuple[str, ...] = attrs.field(default=("val", "test"), validator=_splits)
    limit: int = attrs.field(default=0, validator=_Least(0))
    hubness: Literal["none", "auto", "csls", "inverted-softmax", "qb-norm"] = "none"
    bank: Literal["auto", "pairs", "unpaired"] = "auto"
    bank_rows: int = attrs.field(default=2048, validator=_Least(2))


@attrs.frozen(kw_only=True)
class BaselineTable:
    """`[baseline]`

    Attributes:
        pairs_only: also train CLIP on the same pairs for the same steps, and show it beside the run.
        cca: also fit the closed forms; without it, none of `forms`.
        forms: the closed forms shown beside a run. `gentle baseline` tries all of them by default.
        features: what the closed forms see of a tower: its encoder's features, its joint embeddings, both side by
            side, or neither; the tower's `descriptors` always come on top.
    """

    pairs_only: bool = False
    cca: bool = True
    forms: tuple[FormName, ...] = attrs.field(default=("cca", "ridge", "procrustes"), validator=_distinct)
    features: Literal["feature", "joint", "both", "none"] = "feature"


@attrs.frozen(kw_only=True)
class ReportTable:
    """`[report]`: `map` is the method of the 2-D map, `examples` how many nearest-neighbour examples are shown."""

    map: Literal["pca", "tsne", "none"] = "pca"
    examples: int = attrs.field(default=6, validator=_Least(0))


@attrs.frozen(kw_only=True)
class Recipe:
    """A whole recipe."""

    dataset: DatasetTable
    towers: Mapping[str, TowerTable]
    objective: ObjectiveTable = ObjectiveTable()
    pseudo: PseudoTable | None = None
    train: TrainTable = TrainTable()
    engine: EngineTable = EngineTable()
    evaluate: EvaluateTable = EvaluateTable()
    baseline: BaselineTable = BaselineTable()
    report: ReportTable = ReportTable()
    name: str = ""
    description: str = ""
    plugins: tuple[str, ...] = ()
    """Plugin distributions the recipe needs; a missing one is an error that says what to install."""
