"""Base classes with the defaults of the `Encoder` and `Loss` protocols, for whoever likes to subclass."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gentle_core.batch import AlignBatch, LossContext, LossOut, ParamGroups
from gentle_core.errors import ComponentError

if TYPE_CHECKING:
    from gentle_core.protocols import TeacherView


def hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of `tensors`, in name order."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class EncoderModule(nn.Module):
    """Subclass it, set `width`, write `collate` and `forward`.

    Attributes:
        calls_vary: whether `forward` calls parts of it more or less often from batch to batch, as one that takes rows
            in groups of similar length does. ZeRO 3, under which ranks put weights together layer by layer, gathers
            those of such an encoder all at once; without it the ranks would wait for one another in unlike layers.
    """

    width: int
    calls_vary: bool = False

    def collate(self, items: Sequence[Any]) -> Any:
        raise TypeError(f"{type(self).__name__} must define collate(items)")

    def forward(self, inputs: Any) -> Tensor:
        raise TypeError(f"{type(self).__name__} must define forward(inputs)")

    def size(self, item: Any) -> int:
        return len(item)

    def cut(self, items: Sequence[Any]) -> Sequence[int]:
        """Positions of items of which the encoder sees a part alone (texts beyond its longest)."""
        return ()

    def fingerprint(self) -> str:
        return hash_tensors(self.state_dict())

    def facts(self) -> Mapping[str, Any]:
        return {}

    def portable(self) -> Mapping[str, Any] | None:
        return None


class LossModule(nn.Module):
    """Subclass it and write `forward`. All parameters descend with the model unless `param_groups` says otherwise."""

    def forward(self, batch: AlignBatch, ctx: LossContext) -> LossOut:
        raise TypeError(f"{type(self).__name__} must define forward(batch, ctx)")

    def param_groups(self) -> ParamGroups:
        return ParamGroups(min=list(self.parameters()))

    def post_step(self, ctx: LossContext) -> None:
        """Nothing to do by default."""

    def scorer(self) -> Any:
        return None


class TeacherModule:
    """Subclass it and write `embed`. It has no state unless it says so."""

    def embed(self, view: TeacherView) -> Mapping[str, Tensor]:
        raise TypeError(f"{type(self).__name__} must define embed(view)")

    def embed_matched(self, view: TeacherView) -> Mapping[str, Tensor]:
        """Unit rows of both towers' matched items, in the space of its last answer, for objectives that compare a batch
        with the teacher's view of it."""
        raise ComponentError(f"{type(self).__name__} gives no reference rows: it has no embed_matched(view)")

    def says(self) -> str:
        """A sentence about its last answer, for people; none by default."""
        return ""

    def observe(self, model: Any, step: int) -> None:
        """Nothing to do by default."""

    def state(self) -> Mapping[str, Tensor]:
        return {}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Nothing to take up by default."""
