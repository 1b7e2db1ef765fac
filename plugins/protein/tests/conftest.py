"""What the plugin's tests share: made-up chains, the files that hold them, and where real data are if there are any."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest

from gentle_core.testing.fixtures import context, notices, real_data

__all__ = ["context", "notices", "real_data"]

RESIDUES = {
    "A": "ALA", "R": "ARG", "N": "ASN", "D": "ASP", "C": "CYS", "Q": "GLN", "E": "GLU", "G": "GLY", "H": "HIS",
    "I": "ILE", "L": "LEU", "K": "LYS", "M": "MET", "F": "PHE", "P": "PRO", "S": "SER", "T": "THR", "W": "TRP",
    "Y": "TYR", "V": "VAL",
}  # fmt: skip


@pytest.fixture
def make_chain() -> Callable[[int, int], tuple[str, np.ndarray]]:
    """make_chain(seed, length): a random sequence and a random walk of 3.8 Å steps, to a thousandth of an Å."""

    def make(seed: int, length: int = 30) -> tuple[str, np.ndarray]:
        rng = np.random.default_rng(seed)
        steps = rng.standard_normal((length, 3))
        walk = np.cumsum(3.8 * steps / np.linalg.norm(steps, axis=1, keepdims=True), axis=0)
        return "".join(rng.choice(list(RESIDUES), length)), np.round(walk, 3).astype(np.float32)

    return make


def _atom_line(
    serial: int, residue: str, chain: str, number: int, xyz: np.ndarray | str, *, name: str = " CA ", altloc: str = " ",
    occupancy: float = 1.0, record: str = "ATOM", element: str = "C", insertion: str = " ",
) -> str:  # fmt: skip
    """One line of a PDB file. `xyz` as text stands for itself."""
    place = xyz if isinstance(xyz, str) else "".join(f"{x:8.3f}" for x in xyz)
    head = f"{record:<6}{serial:5d} {name:<4}{altloc}{residue:>3} {chain}{number:4d}{insertion}   "
    return f"{head}{place}{occupancy:6.2f}{0:6.2f}          {element:>2}"


@pytest.fixture
def atom_line() -> Callable[..., str]:
    return _atom_line


@pytest.fixture
def pdb_text() -> Callable[[Mapping[str, tuple[str, np.ndarray]]], str]:
    """A PDB file with these chains, (sequence, Cα positions) by name."""

    def text(chains: Mapping[str, tuple[str, np.ndarray]]) -> str:
        lines = []
        for name, (sequence, ca) in chains.items():
            rows = enumerate(zip(sequence, ca, strict=True), 1)
            lines += [_atom_line(i, RESIDUES[letter], name, i, xyz) for i, (letter, xyz) in rows]
            lines.append("TER")
        return "\n".join([*lines, "END", ""])

    return text
