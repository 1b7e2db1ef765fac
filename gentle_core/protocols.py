"""What a built component must be able to do. Plugins may subclass these or merely look like them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from gentle_core.batch import AlignBatch, ItemIndex, LossContext, LossOut, ParamGroups


@runtime_checkable
class Dataset(Protocol):
    """Items of one or more modalities, addressed by id. It must be picklable for loader workers."""

    def index(self, split: str) -> Mapping[str, ItemIndex]:
        """The items of `split` ("train", "val" or "test") by modality; an absent split is an empty mapping."""

    def load(self, modality: str, items: Sequence[str]) -> list[Any]:
        """The raw items with these ids, in this order."""

    def facts(self) -> Mapping[str, Any]:
        """JSON-ready provenance for the report: source, licence, counts, what was skipped and why.

        The key "shortcuts" may list index attributes that give pairs away without semantics (a chain's length);
        evaluations then show how far the attribute alone would go.
        """


@runtime_checkable
class Augmentation(Protocol):
    """A random change of an item that keeps its meaning. It must not modify its input."""

    def __call__(self, item: Any, rng: np.random.Generator) -> Any:
        """A changed copy of `item`. For stage "batch": the collated inputs and one generator for the batch."""


@runtime_checkable
class Encoder(Protocol):
    """A `torch.nn.Module` from collated items to one feature vector an item; see `EncoderModule` for defaults."""

    width: int

    def collate(self, items: Sequence[Any]) -> Any:
        """Raw items to the tensors (nested dicts, lists, tuples of them) that `forward` reads, on the CPU."""

    def forward(self, inputs: Any) -> Tensor:
        """Features (B, width), in the order of the collated items."""

    def size(self, item: Any) -> int:
        """Relative cost of an item (its length), by which items are bucketed when order is free."""

    def fingerprint(self) -> str:
        """A hash of everything that a frozen encoder's features depend on: weights and preprocessing."""

    def facts(self) -> Mapping[str, Any]:
        """JSON-ready facts for manifest and report: where the weights came from, their hash, whether random."""

    def portable(self) -> Mapping[str, Any] | None:
        """Options that rebuild this encoder, with `BuildContext.load_weights` off, on a machine that lacks the files
        it was made from: they go into a saved model's recipe. None where its own options do."""


@runtime_checkable
class Loss(Protocol):
    """An objective on a batch of embeddings; a `torch.nn.Module`. See `LossModule` for defaults."""

    def forward(self, batch: AlignBatch, ctx: LossContext) -> LossOut:
        """The loss of the global batch."""

    def param_groups(self) -> ParamGroups:
        """Its parameters by the direction in which they are optimised."""

    def post_step(self, ctx: LossContext) -> None:
        """Called after the optimiser has accepted a step (queues, moving averages)."""

    def scorer(self) -> Any:
        """A function (U, V) -> scores (m, n) to rank with, or None for the inner product of unit vectors."""


@runtime_checkable
class EmbeddingModel(Protocol):
    """A trained model as tasks see it."""

    towers: Mapping[str, str]
    """Modality of each tower by its name."""

    def embed(self, tower: str, items: Sequence[Any], space: str = "joint") -> Tensor:
        """Raw items through a tower, in eval mode: (B, d) unit vectors for "joint", encoder features for "feature"."""


@runtime_checkable
class Task(Protocol):
    """A downstream evaluation."""

    def evaluate(self, model: EmbeddingModel) -> Mapping[str, Any]:
        """Flat metric names to numbers (and, under "facts", JSON-ready facts such as retained counts)."""


class TeacherView(Protocol):
    """What a teacher may look at: pairs, pools and validation items of two towers, and the model as it stands.

    `part` is "pairs" (row i of one tower and row i of the other are mates), "matched" (all items of the paired samples,
    five captions of an image for instance; mates have equal numbers in `groups`), "pool" (no mates are known), or "val"
    (mates have equal ids in `samples`). Which pool items are mates in truth is nowhere in it.
    """

    towers: tuple[str, str]
    step: int

    def features(self, tower: str, part: str) -> Tensor:
        """Encoder features (n, W) float32 on the CPU, of the weights as they stand."""

    def joint(self, tower: str, part: str, model: Any = None) -> Tensor:
        """Unit embeddings (n, D) by the model as it stands, or by another one."""

    def items(self, tower: str, part: str) -> list[Any]:
        """Raw items."""

    def samples(self, tower: str) -> Sequence[str]:
        """Sample ids of the validation items."""

    def groups(self, tower: str) -> Sequence[int]:
        """The number of each matched item's sample, from 0."""

    def saved(self, path: Any) -> Any:
        """The model of a finished run, with the components that this run has."""

    @property
    def model(self) -> Any:
        """The model as it stands: an `EmbeddingModel` and a `torch.nn.Module`."""


@runtime_checkable
class Teacher(Protocol):
    """Says how near two pools' items are, by embedding both. See `TeacherModule` for defaults."""

    def embed(self, view: TeacherView) -> Mapping[str, Tensor]:
        """Unit rows (n, k) of both towers' pools, in the order of `view.features(tower, "pool")`."""

    def observe(self, model: Any, step: int) -> None:
        """Called after every step that was taken."""

    def state(self) -> Mapping[str, Tensor]:
        """What a checkpoint must hold of it."""

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take up a checkpoint's state."""
