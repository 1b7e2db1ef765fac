"""Chains in memory, and the dataset that serves them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import numpy as np

from gentle_core.api import DataError, ItemIndex
from gentle_protein.chain import SEQUENCE, STRUCTURE, Structure


@attrs.frozen(eq=False)
class Chain:
    """One chain. Without `ca` it is a sequence-only item, without `sequence` a structure-only item.

    Attributes:
        id: unique in its dataset.
        sequence: L one-letter codes.
        ca: (L, 3) float32, Å.
        source: the file or entry it came from.
        entry: what it is a part of; the chains of an entry belong into one split.
    """

    id: str
    sequence: str | None
    ca: np.ndarray | None
    source: str = ""
    entry: str = ""

    def __len__(self) -> int:
        return len(self.ca) if self.ca is not None else len(self.sequence or "")


class ChainDataset:
    """Chains by split. An item's id is its chain's id in both modalities, so a chain with both is a pair."""

    def __init__(self, splits: Mapping[str, Sequence[Chain]], facts: Mapping[str, Any]):
        """Raises DataError where two chains have one id, naming both sources."""
        self._splits = {split: tuple(chains) for split, chains in splits.items()}
        self._facts = dict(facts)
        self._chains: dict[str, Chain] = {}
        for chain in (c for chains in self._splits.values() for c in chains):
            other = self._chains.setdefault(chain.id, chain)
            if other is not chain:
                raise duplicate(chain.id, other.source, chain.source)

    def index(self, split: str) -> dict[str, ItemIndex]:
        chains = self._splits.get(split, ())
        towers = {
            SEQUENCE: [c for c in chains if c.sequence is not None],
            STRUCTURE: [c for c in chains if c.ca is not None],
        }
        return {modality: _item_index(rows) for modality, rows in towers.items() if rows}

    def load(self, modality: str, items: Sequence[str]) -> list[Any]:
        if modality == SEQUENCE:
            return [self._sequence(i) for i in items]
        if modality == STRUCTURE:
            return [self._structure(i) for i in items]
        raise DataError(f"this dataset has no modality {modality!r}; it has {SEQUENCE!r} and {STRUCTURE!r}")

    def facts(self) -> dict[str, Any]:
        """Provenance. Length is a shortcut: it alone finds the mate of many a chain."""
        counts = {split: len(chains) for split, chains in self._splits.items()}
        return {**self._facts, "chains": counts, "shortcuts": ["length"]}

    def _chain(self, item: str) -> Chain:
        try:
            return self._chains[item]
        except KeyError:
            raise DataError(f"no chain has the id {item!r}") from None

    def _sequence(self, item: str) -> str:
        sequence = self._chain(item).sequence
        if sequence is None:
            raise DataError(f"chain {item} has no sequence: it is a structure-only item")
        return sequence

    def _structure(self, item: str) -> Structure:
        ca = self._chain(item).ca
        if ca is None:
            raise DataError(f"chain {item} has no structure: it is a sequence-only item")
        return Structure(item, ca)


NAMED = 100
"""How many skipped items the facts name; the count is always exact."""


@attrs.define
class Skips:
    """What could not be used. Under `strict` the first one stops the run."""

    strict: bool
    reasons: list[str] = attrs.field(factory=list)

    def add(self, where: str, reason: str) -> None:
        """Note that `where` was skipped. Raises DataError under `strict`."""
        if self.strict:
            raise DataError(f"{where}: {reason}; mend or remove it, or set strict = false to skip it")
        self.reasons.append(f"{where}: {reason}")

    def notice(self) -> str:
        """One line for the user; empty where nothing was skipped."""
        if not self.reasons:
            return ""
        if len(self.reasons) == 1:
            return f"skipped {self.reasons[0]}"
        return f"skipped {len(self.reasons)}, the first: {self.reasons[0]} (the manifest names the others)"

    def facts(self) -> dict[str, Any]:
        return {"count": len(self.reasons), "reasons": self.reasons[:NAMED]}


def duplicate(item: str, first: str, second: str, more: int = 0) -> DataError:
    """The error for two chains with one id; `more` is how many further ids occur twice."""
    others = f" (and {more} more like it)" if more else ""
    return DataError(f"two chains have the id {item!r}: {first} and {second}{others}; rename or remove one of them")


def _item_index(chains: Sequence[Chain]) -> ItemIndex:
    lengths = np.array([len(chain) for chain in chains], dtype=np.int64)
    return ItemIndex([chain.id for chain in chains], attributes={"length": lengths})
