"""Small folders in the layouts that the datasets and tasks read, made of shipped chains, for the conformance kit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gentle_protein.datasets.chains import Chain
from gentle_protein.datasets.pdb_sample import limited, read_sample

COUNT = 8
TERMS = ("1", "2", "3")
"""Made-up classes; chain i has class i modulo 3."""

_NAMES = {
    "A": "ALA", "R": "ARG", "N": "ASN", "D": "ASP", "C": "CYS", "Q": "GLN", "E": "GLU", "G": "GLY", "H": "HIS",
    "I": "ILE", "L": "LEU", "K": "LYS", "M": "MET", "F": "PHE", "P": "PRO", "S": "SER", "T": "THR", "W": "TRP",
    "Y": "TYR", "V": "VAL",
}  # fmt: skip


def structures(folder: Path) -> dict[str, Any]:
    """A folder of PDB files with Cα atoms, enough of them that no split is empty."""
    for _, chain in _chains(20):
        lines = [
            f"ATOM  {i:5d}  CA  {_NAMES.get(letter, 'UNK')} A{i:4d}    {x:8.3f}{y:8.3f}{z:8.3f}  1.00  0.00           C"
            for i, (letter, (x, y, z)) in enumerate(_residues(chain), 1)
        ]
        (folder / f"{chain.id}.pdb").write_text("\n".join([*lines, "TER", "END", ""]))
    return {"path": str(folder), "val_fraction": 0.3, "test_fraction": 0.3}


def cath(folder: Path) -> dict[str, Any]:
    """chain_set.jsonl and its lists."""
    lists: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    with (folder / "chain_set.jsonl").open("w") as lines:
        for split, chain in _chains():
            letters, positions = zip(*_residues(chain), strict=True)
            record = {"name": chain.id, "seq": "".join(letters), "coords": {"CA": [p.tolist() for p in positions]}}
            lines.write(json.dumps(record) + "\n")
            lists["validation" if split == "val" else split].append(chain.id)
    (folder / "chain_set_splits.json").write_text(json.dumps(lists))
    return {"path": str(folder)}


def fold(folder: Path) -> dict[str, Any]:
    """Fold classification in CDConv's layout."""
    (folder / "class_map.txt").write_text("".join(f"a.{term}\t{i}\n" for i, term in enumerate(TERMS)))
    for split, name in {"train": "training", "val": "validation", "test": "test_fold"}.items():
        chains = _write(folder / f"{name}.fasta", folder / "coordinates" / name, split)
        rows = (f"{chain.id}\ta.{TERMS[i % 3]}\n" for i, chain in enumerate(chains))
        (folder / f"{name}.txt").write_text("".join(rows))
    return {"path": str(folder)}


def reaction(folder: Path) -> dict[str, Any]:
    """Reaction classification in CDConv's layout."""
    lines = []
    for split, name in {"train": "training", "val": "validation", "test": "testing"}.items():
        chains = _write(folder / f"chain_{name}.fasta", folder / "coordinates" / name, split)
        lines += [f"{chain.id},{i % 3}\n" for i, chain in enumerate(chains)]
    (folder / "chain_functions.txt").write_text("".join(lines))
    return {"path": str(folder)}


def ec(folder: Path) -> dict[str, Any]:
    """EC numbers in DeepFRI's layout."""
    return _function(folder, "EC", "EC-numbers")


def go(folder: Path) -> dict[str, Any]:
    """GO terms in DeepFRI's layout."""
    return _function(folder, "GO", "GO-terms (molecular_function)")


def _function(folder: Path, kind: str, heading: str) -> dict[str, Any]:
    rows = []
    for split, name in {"train": "train", "val": "valid", "test": "test"}.items():
        chains = _write(folder / f"{name}.fasta", folder / "coordinates", split)
        rows += [f"{chain.id}\t{TERMS[i % 3]}" for i, chain in enumerate(chains)]
    lines = [f"### {heading}", "\t".join(TERMS), f"### PDB-chain\t{heading}", *rows]
    (folder / f"nrPDB-{kind}_annot.tsv").write_text("\n".join(lines) + "\n")
    return {"path": str(folder)}


def _chains(count: int = COUNT) -> Iterator[tuple[str, Chain]]:
    for split, chains in read_sample().items():
        yield from ((split, chain) for chain in limited(chains, count))


def _residues(chain: Chain) -> list[tuple[str, np.ndarray]]:
    assert chain.sequence is not None and chain.ca is not None
    return list(zip(chain.sequence, chain.ca, strict=True))


def _write(fasta: Path, coordinates: Path, split: str) -> list[Chain]:
    """A split's chains as FASTA records and arrays of positions."""
    chains = [chain for own, chain in _chains() if own == split]
    coordinates.mkdir(parents=True, exist_ok=True)
    fasta.write_text("".join(f">{chain.id}\n{chain.sequence}\n" for chain in chains))
    for chain in chains:
        np.save(coordinates / f"{chain.id}.npy", np.asarray(chain.ca))
    return chains
