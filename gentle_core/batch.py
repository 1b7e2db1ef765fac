"""What passes between data, towers and losses. Nothing here imports torch when it is loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


def _names(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(values)


@attrs.frozen
class ItemIndex:
    """The items that one modality has in one split.

    Attributes:
        items: unique item ids within the modality.
        samples: for each item, the thing that it describes. Items of two modalities with one sample id are a pair;
            several items may describe one sample (five captions of a photograph). Defaults to `items`.
        attributes: per-item columns of the same length: "length" (residues), "label" (a class name, for evaluations),
            "labels" (numbers (n,), or 0 and 1 (n, K), for objectives that need them), … .
    """

    items: tuple[str, ...] = attrs.field(converter=_names)
    samples: tuple[str, ...] = attrs.field(
        converter=_names, default=attrs.Factory(lambda self: self.items, takes_self=True)
    )
    attributes: Mapping[str, np.ndarray] = attrs.field(factory=dict)

    def __attrs_post_init__(self) -> None:
        if len(self.samples) != len(self.items):
            raise ValueError(f"{len(self.items)} items but {len(self.samples)} sample ids")
        for name, column in self.attributes.items():
            if len(column) != len(self.items):
                raise ValueError(f"attribute {name!r} has {len(column)} values for {len(self.items)} items")
        if len(set(self.items)) != len(self.items):
            seen: set[str] = set()
            twice = next(i for i in self.items if i in seen or seen.add(i))  # type: ignore[func-returns-value]
            raise ValueError(f"item id {twice!r} occurs twice; ids must be unique within a modality")

    def __len__(self) -> int:
        return len(self.items)


@attrs.define
class Rows:
    """One tower's rows of a global batch.

    Attributes:
        z: (B, d) L2-normalised embeddings.
        ids: (B,) int64. Equal ids in two towers mark a matched pair; rows from the unmatched pools carry ids that
            occur nowhere else, so that no loss can see a mate it must not see.
        raw: (B, d) projections before normalisation, for losses that declare `unit=False`.
        views: (B, d) normalised embeddings of a second, independently augmented view of each row, or None.
        raw_views: (B, d) the same before normalisation, or None.
        extras: further per-row tensors by name. "labels": the dataset's attribute of that name, (B,) or (B, K), in the
            towers whose items have it, where the objective needs labels. "reference": a teacher's unit rows (B, k),
            where the objective needs them and once the teacher has been asked.
    """

    z: Tensor
    ids: Tensor
    raw: Tensor | None = None
    views: Tensor | None = None
    raw_views: Tensor | None = None
    extras: dict[str, Tensor] = attrs.field(factory=dict)


@attrs.define
class AlignBatch:
    """The embeddings of one global batch by tower name. Row counts may differ between towers.

    Attributes:
        towers: the matched and unmatched rows.
        pseudo: rows of the unmatched pools that a teacher takes for mates, where the objective needs "pseudo": equal
            ids mark a pseudo-pair, `extras["weight"]` (P,) is how sure the teacher is. These rows are no others' rows:
            no other loss sees them.
    """

    towers: dict[str, Rows]
    pseudo: dict[str, Rows] = attrs.field(factory=dict)

    def pairs(self, a: str, b: str) -> tuple[Tensor, Tensor]:
        """Row indices (n,), (n,) of the matched pairs of towers `a` and `b`, ordered by their row in `a`.

        An id that occurs several times in a tower (two captions of one photograph) pairs in every combination.
        """
        import torch

        ids, other = self.towers[a].ids, self.towers[b].ids
        ordered, order = other.sort(stable=True)
        first, last = torch.searchsorted(ordered, ids), torch.searchsorted(ordered, ids, right=True)
        count = last - first
        left = torch.arange(len(ids), device=ids.device).repeat_interleave(count)
        within = torch.arange(len(left), device=ids.device) - (count.cumsum(0) - count)[left]
        return left, order[first[left] + within]


@attrs.frozen
class LossContext:
    """Where in the run a loss is evaluated.

    Attributes:
        step, steps: the current step and the planned number of steps.
        pairs: the unordered tower pairs over which pairwise terms are averaged.
        training: False during evaluation.
        group: the process group whose ranks share the work on the global batch, which each of them has been given
            whole (`gentle_core.losses.ranks.gather_batch`); None for one process.
        tile: rows of a tile for streamed losses; "auto" chooses, 0 keeps everything dense.
        logs: whether anyone reads `LossOut.logs`: where not, what is computed for them alone may be left out.
    """

    step: int = 0
    steps: int = 1
    pairs: tuple[tuple[str, str], ...] = ()
    training: bool = True
    group: Any = None
    tile: int | str = "auto"
    logs: bool = True


@attrs.define
class LossOut:
    """What a loss returns.

    Attributes:
        loss: the scalar to back-propagate.
        terms: named scalars with their graph, before weighting ("clip", "ssl/sequence", "mmd", "sdd", …).
        weights: the weight with which each term enters `loss` (1 where absent).
        counts: how many rows (or pairs) each term saw.
        logs: further named scalars without a graph (temperature, kernel weights, bandwidths, …).
        objective: the true objective where it differs from `loss`.
    """

    loss: Tensor
    terms: dict[str, Tensor] = attrs.field(factory=dict)
    weights: dict[str, float] = attrs.field(factory=dict)
    counts: dict[str, int] = attrs.field(factory=dict)
    logs: dict[str, Any] = attrs.field(factory=dict)
    objective: Tensor | None = None


@attrs.define
class ParamGroups:
    """A loss's parameters: `min` descend with the model, `max` ascend (adversaries), `own` are left to the loss."""

    min: list[Any] = attrs.field(factory=list)
    max: list[Any] = attrs.field(factory=list)
    own: list[Any] = attrs.field(factory=list)


def _quiet(message: str) -> None:
    """Drop a notice: the default where nobody listens."""


@attrs.frozen(kw_only=True)
class BuildContext:
    """What a factory may use beside its own options.

    Attributes:
        cache_dir: folder for downloads and derived files that may be deleted at any time.
        seed: seed of whatever the factory initialises at random.
        notify: report a fact the user must know (random weights, skipped files). It is printed, kept in the
            manifest and shown in the report.
        progress: report what will take a while, and happens once. It is printed and not kept.
        loss: build another registered loss by name, for compositions.
        dimensions: embedding dimension of each tower, for losses.
        pairs: tower pairs the recipe names, for losses.
        load_weights: False when a saved model will fill in the weights: build the architecture, look for nothing.
        dataset: for tasks: `dataset(name, options, modality)` builds a registered dataset whose items a tower of this
            modality reads, as (full name, dataset, the modality it yields). Without a name, the one that is `labelled`.
        trained_on: for tasks: `trained_on(tower, items)` says of each item whether one of equal content was among the
            tower's training items; None where the training data cannot be read any more.
    """

    cache_dir: Any
    seed: int = 0
    notify: Callable[[str], None] = _quiet
    progress: Callable[[str], None] = _quiet
    loss: Callable[[str, Mapping[str, Any]], Any] | None = None
    dimensions: Mapping[str, int] = attrs.field(factory=dict)
    pairs: Sequence[tuple[str, str]] = ()
    load_weights: bool = True
    dataset: Callable[[str, Mapping[str, Any], str], tuple[str, Any, str]] | None = None
    trained_on: Callable[[str, Sequence[Any]], Sequence[bool] | None] | None = None
