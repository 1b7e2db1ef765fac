"""The raw items: a `protein-sequence` item is a plain string of one-letter codes, a `protein-structure` a `Structure`.

One item is one chain, and position i of the string is row i of the coordinates.
"""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np

SEQUENCE = "protein-sequence"
STRUCTURE = "protein-structure"

MIN_RESIDUES = 3
"""A local frame needs both neighbours, so a shorter chain has no geometry."""


def _as_coordinates(value: Any) -> np.ndarray:
    return np.ascontiguousarray(value, dtype=np.float32)


def _check_coordinates(_: Any, attribute: attrs.Attribute[np.ndarray], value: np.ndarray) -> None:
    if value.ndim != 2 or value.shape[1] != 3:
        raise ValueError(f"{attribute.name} has shape {value.shape}; Cα coordinates have shape (residues, 3)")


@attrs.frozen
class Structure:
    """The Cα trace of one chain.

    Attributes:
        id: of the chain. Whatever is random at evaluation is seeded by it, so that it never depends on batch mates.
        ca: (L, 3) float32, Å, in residue order.
    """

    id: str
    ca: np.ndarray = attrs.field(
        converter=_as_coordinates, validator=_check_coordinates, eq=attrs.cmp_using(eq=np.array_equal)
    )

    def __len__(self) -> int:
        return len(self.ca)
