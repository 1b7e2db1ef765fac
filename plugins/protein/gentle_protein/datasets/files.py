"""Cα traces out of PDB and mmCIF files.

What counts as a residue: an amino acid of the polymer that has a Cα. Of alternative locations, and of different
residues with one id (microheterogeneity), the one of highest occupancy counts, the first where they tie. Modified
residues count as their parent (MSE as M); a residue without known parent is X. Only the first model is read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import gemmi
import numpy as np

from gentle_protein.chain import MIN_RESIDUES
from gentle_protein.datasets.fasta import read_bytes

SUFFIX = re.compile(r"\.(pdb\d*|ent|pdbx|cif|mmcif)(\.gz)?$", re.IGNORECASE)

CLASH = 0.5
"""Å. Two successive Cα that are nearer are one position written twice, from which no frame can be made."""

READER = 1
"""Version of the rules above: caches of parsed files made under other rules are not used."""

_PDB_CALPHA = re.compile(rb"^(?:ATOM  |HETATM).{6}(?: CA |CA  ).{14}([^\r\n]{0,24})", re.MULTILINE)

# Protonation states and the like, as force fields and modelling programs name them.
_FORCE_FIELD_NAMES = {
    "HSD": "H", "HSE": "H", "HSP": "H", "HID": "H", "HIE": "H", "HIP": "H", "HISA": "H", "HISB": "H", "HISH": "H",
    "HISD": "H", "HISE": "H", "CYX": "C", "CYM": "C", "CYS2": "C", "ASH": "D", "ASPH": "D", "GLH": "E", "GLUH": "E",
    "LYN": "K", "LYSH": "K", "LSN": "K", "ARGN": "R", "TYM": "Y",
}  # fmt: skip


@attrs.frozen(eq=False)
class Trace:
    """One protein chain of a file: its name there, its L one-letter codes, and its Cα positions (L, 3) float32 in Å."""

    chain: str
    sequence: str
    ca: np.ndarray


@attrs.frozen(eq=False)
class Parsed:
    """What a file holds: usable chains, and what is wrong with the others (or with the file)."""

    traces: tuple[Trace, ...] = ()
    problems: tuple[str, ...] = ()


def parse(path: Path) -> Parsed:
    """All protein chains of a PDB or mmCIF file, told apart by content. Problems are part of the answer, not raised."""
    try:
        structure = _read(read_bytes(path))
    except ValueError as error:
        return Parsed(problems=(str(error),))
    parents = {m.res_id.name: m.parent_comp_id for m in structure.mod_residues if m.parent_comp_id}
    traces, problems = [], []
    for chain in structure[0]:
        try:
            trace = _trace(chain, parents)
        except ValueError as error:
            problems.append(f"chain {chain.name or '(blank)'} {error}")
        else:
            if trace is not None:
                traces.append(trace)
    if not traces and not problems:
        problems.append("holds no protein chain with Cα atoms")
    return Parsed(tuple(traces), tuple(problems))


def _read(data: bytes) -> gemmi.Structure:
    """A structure with at least one model, its polymers known. Raises ValueError with the reason."""
    if not data.strip():
        raise ValueError("is empty")
    if b"\0" in data:
        raise ValueError("is no text file")
    structure = _read_mmcif(data) if _is_cif(data) else _read_pdb(data)
    if len(structure) == 0 or len(structure[0]) == 0:
        raise ValueError("holds no atoms")
    structure.merge_chain_parts()
    structure.setup_entities()
    return structure


def _is_cif(data: bytes) -> bool:
    """By content, since suffixes lie: the first line that is neither blank nor a comment opens a data block."""
    lines = (line.strip() for line in data[:100_000].splitlines())
    first = next((line for line in lines if line and not line.startswith(b"#")), b"")
    return first.lower().startswith(b"data_")


def _read_mmcif(data: bytes) -> gemmi.Structure:
    document = _by_gemmi(gemmi.cif.read_string, data)
    block = next((b for b in document if b.find_values("_atom_site.Cartn_x")), None)
    if block is None:
        raise ValueError("holds no _atom_site coordinates")
    return _by_gemmi(gemmi.make_structure_from_block, block)


def _read_pdb(data: bytes) -> gemmi.Structure:
    # gemmi reads a coordinate that is no number as 0, so those of Cα atoms are looked at first.
    for match in _PDB_CALPHA.finditer(data):
        for field in (match[1][0:8], match[1][8:16], match[1][16:24]):
            if not _finite(field):
                line = data.count(b"\n", 0, match.start()) + 1
                raise ValueError(f"line {line}: coordinate {field.decode('ascii', 'replace')!r} is no finite number")
    return _by_gemmi(gemmi.read_pdb_string, data)


def _finite(field: bytes) -> bool:
    try:
        return math.isfinite(float(field))
    except ValueError:
        return False


def _by_gemmi(function: Callable[[Any], Any], argument: Any) -> Any:
    """`function(argument)`, whatever gemmi raises turned into a ValueError of one line."""
    try:
        return function(argument)
    except (RuntimeError, ValueError, IndexError, UnicodeError) as error:
        raise ValueError(f"cannot be parsed: {' '.join(str(error).split())[:160]}") from None


def _trace(chain: gemmi.Chain, parents: dict[str, str]) -> Trace | None:
    """The chain's trace, or None where it is no protein. Raises ValueError where it is one that cannot be used."""
    residues = [r for r in chain if r.entity_type == gemmi.EntityType.Polymer] or list(chain)
    best: dict[str, tuple[float, str, list[float]]] = {}
    for residue in residues:
        letter = _letter(residue, parents)
        if letter is None:
            continue
        key = str(residue.label_seq or residue.seqid)
        # An atom CA of an amino acid is its Cα, whatever element the name's column suggests; calcium is no amino acid.
        for atom in (atom for atom in residue if atom.name == "CA"):
            if key in best and not atom.has_altloc():
                raise ValueError(f"holds residue {key} twice; give each molecule a chain name of its own")
            if key not in best or atom.occ > best[key][0]:
                best[key] = (atom.occ, letter, atom.pos.tolist())
    if not best:
        return None
    if len(best) < MIN_RESIDUES:
        raise ValueError(f"has {len(best)} residue(s) with Cα; {MIN_RESIDUES} are needed")
    ca = np.array([position for _, _, position in best.values()], dtype=np.float32)
    names = list(best)
    if not np.isfinite(ca).all():
        raise ValueError(f"residue {names[int(np.argmin(np.isfinite(ca).all(1)))]} has coordinates that are not finite")
    steps = np.linalg.norm(np.diff(ca, axis=0), axis=1)
    if steps.min() < CLASH:
        at = int(steps.argmin())
        raise ValueError(f"has the Cα of residues {names[at]} and {names[at + 1]} at one place")
    return Trace(chain.name, "".join(letter for _, letter, _ in best.values()), ca)


def _letter(residue: gemmi.Residue, parents: dict[str, str]) -> str | None:
    """One-letter code, X for an amino acid of unknown parent, None for what is no amino acid."""
    name = residue.name
    for candidate in (name, parents.get(name, "")):
        known = gemmi.find_tabulated_residue(candidate)
        if known.is_amino_acid():
            return known.one_letter_code.strip().upper() or "X"
        if candidate in _FORCE_FIELD_NAMES:
            return _FORCE_FIELD_NAMES[candidate]
    if gemmi.find_tabulated_residue(name).found():
        return None
    return "X" if {"N", "CA", "C"} <= {atom.name for atom in residue} else None
