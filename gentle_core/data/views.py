"""Augmented views of items whose features are computed once: a frozen encoder behind augmentations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs

from gentle_core.data.streams import stream
from gentle_core.errors import ComponentError


@attrs.frozen
class Augmentations:
    """A tower's augmentations, applied with randomness that belongs to the item.

    Attributes:
        name: all that the views depend on: names and options of the augmentations.
        items: (full name, function) of stage "item".
        batch: (full name, object) of stage "batch"; each has `by_row`.
    """

    name: str
    items: Sequence[tuple[str, Callable[..., Any]]] = ()
    batch: Sequence[tuple[str, Any]] = ()

    def __attrs_post_init__(self) -> None:
        for name, augmentation in self.batch:
            if not callable(getattr(augmentation, "by_row", None)):
                raise ComponentError(
                    f"{name} changes whole batches at once, so that views of single items cannot be kept: leave "
                    "encoder.views out, or augment by something that treats each row by itself"
                )

    def __call__(self, collate: Callable[[list[Any]], Any], items: Sequence[Any], keys: Sequence[bytes]) -> Any:
        """The collated inputs of one view of each item; `keys` differ from view to view."""
        changed = []
        for item, key in zip(items, keys, strict=True):
            for place, (name, function) in enumerate(self.items):
                item = function(item, stream(0, "view", name, place, key.hex()))
            changed.append(item)
        inputs = collate(changed)
        for place, (name, augmentation) in enumerate(self.batch):
            inputs = augmentation.by_row(inputs, [stream(0, "view of a row", name, place, key.hex()) for key in keys])
        return inputs
