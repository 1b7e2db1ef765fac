"""Labelled chains in the folders that CDConv's authors (Fan et al., ICLR 2023) distribute.

All tasks have FASTA files beside `coordinates/…/<id>.npy` (Cα positions in Å, one row a letter). A record without
coordinates, or with another number of rows than letters, is left out and counted: partial copies are usual.

* fold (SCOP 1.75; Hou et al. 2018): `<split>.fasta`, `<split>.txt` (id and, in the LAST column, the fold),
  `class_map.txt`, `coordinates/<split>/`. The test splits differ by how far they are from training.
* reaction (Hermosilla et al. 2021): `chain_<split>.fasta`, `chain_functions.txt`, `coordinates/<split>/`.
* EC and GO (DeepFRI; Gligorijević et al. 2021): `<split>.fasta`, `nrPDB-<EC|GO>_annot.tsv`, `coordinates/`, and
  `nrPDB-<EC|GO>_test.csv` with the identity of each test chain to training.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import attrs
import numpy as np

from gentle_core.api import DataError
from gentle_protein.chain import MIN_RESIDUES
from gentle_protein.datasets.chains import Chain
from gentle_protein.datasets.fasta import read_fasta

FOLD_SPLITS = {
    "train": "training",
    "val": "validation",
    "test_fold": "test_fold",
    "test_superfamily": "test_superfamily",
    "test_family": "test_family",
}
REACTION_SPLITS = {"train": "training", "val": "validation", "test": "testing"}
FUNCTION_SPLITS = {"train": "train", "val": "valid", "test": "test"}

_ONTOLOGIES = {"mf": "molecular_function", "bp": "biological_process", "cc": "cellular_component"}


@attrs.frozen(eq=False)
class Labelled:
    """The chains of one split and their labels.

    Attributes:
        chains: n chains with sequence and structure.
        labels: (n,) int64 classes, or (n, terms) bool.
        dropped: how many records were left out, by reason.
    """

    chains: tuple[Chain, ...]
    labels: np.ndarray
    dropped: Mapping[str, int] = attrs.field(factory=dict)

    def __len__(self) -> int:
        return len(self.chains)


@attrs.frozen(eq=False)
class Benchmark:
    """A labelled task: its splits ("train", "val", and what test splits are there), and the names of its classes."""

    splits: Mapping[str, Labelled]
    classes: tuple[str, ...]


def read_fold(folder: Path) -> Benchmark:
    """Raises DataError where the folder has no training split, or a label that `class_map.txt` does not list."""
    rows = [line.split("\t") for line in _lines(folder / "class_map.txt")]
    number = {row[0]: int(row[-1]) for row in rows}
    splits = {}
    for split, name in _present(folder, FOLD_SPLITS, "{}.fasta").items():
        listed = [line.split("\t") for line in _lines(folder / f"{name}.txt")]
        label = {row[0]: _class(number, row[-1], folder / f"{name}.txt") for row in listed}
        splits[split] = _single(folder / f"{name}.fasta", folder / "coordinates" / name, label)
    return Benchmark(splits, tuple(sorted(number, key=number.__getitem__)))


def read_reaction(folder: Path) -> Benchmark:
    """Raises DataError where the folder has no training split or no list of classes."""
    path = folder / "chain_functions.txt"
    try:
        label = {name: int(number) for name, number in (line.split(",") for line in _lines(path))}
    except ValueError:
        raise DataError(f"{path}: expected lines of an id, a comma and a class number") from None
    splits = {
        split: _single(folder / f"chain_{name}.fasta", folder / "coordinates" / name, label)
        for split, name in _present(folder, REACTION_SPLITS, "chain_{}.fasta").items()
    }
    return Benchmark(splits, tuple(map(str, range(1 + max(label.values(), default=-1)))))


def read_function(folder: Path, kind: str, ontology: str = "") -> Benchmark:
    """`kind` is "EC", or "GO" with an `ontology` of "mf", "bp", "cc". Chains without any of the terms stay in.

    Raises DataError where the folder has no training split or no annotation file of this kind.
    """
    terms, label = _annotations(folder / f"nrPDB-{kind}_annot.tsv", _ONTOLOGIES.get(ontology, ""))
    column = {term: i for i, term in enumerate(terms)}
    splits = {}
    for split, name in _present(folder, FUNCTION_SPLITS, "{}.fasta").items():
        chains, dropped = _read_chains(folder / f"{name}.fasta", folder / "coordinates", label)
        table = np.zeros((len(chains), len(terms)), dtype=bool)
        for row, chain in enumerate(chains):
            table[row, [column[term] for term in label[chain.id] if term in column]] = True
        splits[split] = Labelled(chains, table, dropped)
    return Benchmark(splits, terms)


def read_cutoffs(folder: Path, kind: str) -> dict[str, frozenset[int]]:
    """For each test chain the cut-offs (%) below which its identity to training lies; empty without the list."""
    path = folder / f"nrPDB-{kind}_test.csv"
    if not path.is_file():
        return {}
    with path.open(newline="") as lines:
        header, *rows = csv.reader(lines)
    try:
        percents = [int(name.strip("<% ")) for name in header[1:]]
        return {
            row[0]: frozenset(p for p, flag in zip(percents, row[1:], strict=True) if int(flag)) for row in rows if row
        }
    except ValueError:
        raise DataError(f"{path}: expected a header like PDB-chain,<30%,<40% and rows of 0 and 1") from None


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text().splitlines() if line.strip()]
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None


def _present(folder: Path, names: Mapping[str, str], pattern: str) -> dict[str, str]:
    present = {split: name for split, name in names.items() if (folder / pattern.format(name)).is_file()}
    for needed in ("train", "val"):
        if needed not in present:
            raise DataError(f"{folder / pattern.format(names[needed])}: no such file; is this the task's folder?")
    return present


def _class(number: Mapping[str, int], label: str, path: Path) -> int:
    try:
        return number[label]
    except KeyError:
        raise DataError(f"{path}: class {label!r} is not in class_map.txt") from None


def _single(fasta: Path, coordinates: Path, label: Mapping[str, int]) -> Labelled:
    chains, dropped = _read_chains(fasta, coordinates, label)
    return Labelled(chains, np.array([label[chain.id] for chain in chains], dtype=np.int64), dropped)


def _read_chains(
    fasta: Path, coordinates: Path, labelled: Mapping[str, object]
) -> tuple[tuple[Chain, ...], dict[str, int]]:
    """The records that have coordinates and a label, and how many have not."""
    chains: list[Chain] = []
    dropped: dict[str, int] = {}
    try:
        records = list(read_fasta(fasta))
    except ValueError as error:
        raise DataError(f"{fasta}: {error}") from None
    for name, sequence in records:
        chain = _chain(name, sequence, coordinates / f"{name}.npy") if name in labelled else "without label"
        if isinstance(chain, str):
            dropped[chain] = dropped.get(chain, 0) + 1
        else:
            chains.append(chain)
    if not chains:
        raise DataError(f"{fasta}: none of {len(records)} records has a label and coordinates in {coordinates}")
    return tuple(chains), dropped


def _chain(name: str, sequence: str, path: Path) -> Chain | str:
    """The chain, or why there is none. Residues without finite coordinates are dropped from both sides."""
    try:
        ca = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        return "without coordinates"
    except (OSError, ValueError, EOFError):
        return "unreadable coordinates"
    if ca.shape != (len(sequence), 3):
        return "other number of residues"
    seen = np.isfinite(ca).all(1)
    if seen.sum() < MIN_RESIDUES:
        return "too short"
    return Chain(name, "".join(sequence[i] for i in np.flatnonzero(seen)), ca[seen].astype(np.float32), str(path))


def _annotations(path: Path, ontology: str) -> tuple[tuple[str, ...], dict[str, list[str]]]:
    """Terms, and those of each chain. Headings are lines of `### …`; the last one names the table's columns."""
    lines = _lines(path)
    headings = [i for i, line in enumerate(lines) if line.startswith("###")]
    wanted = [i for i in headings if "names" not in lines[i] and "PDB-chain" not in lines[i] and ontology in lines[i]]
    if not headings or not wanted or "PDB-chain" not in lines[headings[-1]]:
        raise DataError(f"{path}: no DeepFRI annotation file{f' with {ontology}' if ontology else ''}")
    terms = tuple(lines[wanted[0] + 1].split("\t"))
    columns = lines[headings[-1]].split("\t")
    at = next((i for i, column in enumerate(columns[1:], 1) if ontology in column), 1)
    table = {}
    for line in lines[headings[-1] + 1 :]:
        cells = line.split("\t")
        table[cells[0]] = [term for term in (cells[at].split(",") if at < len(cells) else []) if term]
    return terms, table
