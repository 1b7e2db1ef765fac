"""Small tasks in CDConv's layout, and a model whose features are known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from gentle_protein.chain import SEQUENCE, STRUCTURE, Structure

LETTERS = "ACDEFGHIKLMNPQRSTVWY"
KINDS = 4
"""Classes of made-up chains: class k is rich in the k-th letter, and its coordinates spread by k + 1."""


class KnownModel:
    """Sequences to their letter counts, structures to their extent: both tell the class."""

    def __init__(self) -> None:
        self.towers: Mapping[str, str] = {"sequence": SEQUENCE, "structure": STRUCTURE}
        self.asked: set[str] = set()

    def embed(self, tower: str, items: Sequence[object], space: str = "joint") -> torch.Tensor:
        self.asked.add(space)
        rows = [self._counts(i) if isinstance(i, str) else self._extent(i) for i in items]
        features = torch.tensor(np.array(rows), dtype=torch.float32)
        return features if space == "feature" else torch.nn.functional.normalize(features - features.mean(0), dim=1)

    def _counts(self, sequence: str) -> list[float]:
        return [sequence.count(letter) / len(sequence) for letter in LETTERS]

    def _extent(self, structure: object) -> list[float]:
        assert isinstance(structure, Structure)
        spread = float(structure.ca.std())
        return [np.exp(-((spread - kind - 1) ** 2) * 4) for kind in range(KINDS)]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The problems are tiny: threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def model() -> KnownModel:
    return KnownModel()


def _chain(kind: int, seed: int) -> tuple[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    weights = np.ones(len(LETTERS))
    weights[kind] = 60
    sequence = "".join(rng.choice(list(LETTERS), 40, p=weights / weights.sum()))
    return sequence, (rng.standard_normal((40, 3)) * (kind + 1)).astype(np.float32)


@pytest.fixture
def write_split():
    """write_split(fasta, folder of coordinates, names, kinds): chains of these classes."""

    def write(fasta: Path, coordinates: Path, names: Sequence[str], kinds: Sequence[int]) -> None:
        coordinates.mkdir(parents=True, exist_ok=True)
        with fasta.open("w") as out:
            for name, kind in zip(names, kinds, strict=True):
                sequence, ca = _chain(kind, sum(map(ord, name)))
                out.write(f">{name}\n{sequence}\n")
                np.save(coordinates / f"{name}.npy", ca)

    return write
