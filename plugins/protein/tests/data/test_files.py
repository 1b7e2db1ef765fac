"""Reading structure files: the rules, and what is said about files that break them."""

from __future__ import annotations

import gzip
from pathlib import Path

import gemmi
import numpy as np
import pytest

from gentle_protein.datasets import files


@pytest.fixture
def read(tmp_path):
    """read(text or bytes, name): what `parse` makes of such a file."""

    def parse(content: str | bytes, name: str = "1abc.pdb") -> files.Parsed:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return files.parse(path)

    return parse


def as_mmcif(pdb: str) -> str:
    structure = gemmi.read_pdb_string(pdb)
    structure.setup_entities()
    return structure.make_mmcif_document().as_string()


def the_only(parsed: files.Parsed) -> files.Trace:
    assert parsed.problems == ()
    [trace] = parsed.traces
    return trace


@pytest.mark.parametrize("kind", ["1abc.pdb", "1abc.ent.gz", "1abc.cif", "1ABC.CIF.GZ", "wrongly-named.pdb"])
def test_sequence_and_positions_come_back(read, make_chain, pdb_text, kind):
    sequence, ca = make_chain(0)
    text = pdb_text({"B": (sequence, ca)})
    text = as_mmcif(text) if ".cif" in kind.lower() or "wrongly" in kind else text
    trace = the_only(read(gzip.compress(text.encode()) if kind.lower().endswith("gz") else text, kind))
    assert (trace.chain, trace.sequence) == ("B", sequence)
    np.testing.assert_allclose(trace.ca, ca, atol=1e-6)
    assert trace.ca.dtype == np.float32


def test_first_model_alone_is_read(read, make_chain, pdb_text):
    first, second = (pdb_text({"A": make_chain(seed)}).replace("END\n", "") for seed in (0, 1))
    trace = the_only(read(f"MODEL        1\n{first}ENDMDL\nMODEL        2\n{second}ENDMDL\nEND\n"))
    assert trace.sequence == make_chain(0)[0]


def test_highest_occupancy_wins_and_the_first_of_equals(read, make_chain, atom_line):
    _, ca = make_chain(0, 4)
    lines = [
        atom_line(1, "ALA", "A", 1, ca[0]),
        atom_line(2, "GLY", "A", 2, ca[1], altloc="A", occupancy=0.3),
        atom_line(3, "GLY", "A", 2, ca[1] + 1, altloc="B", occupancy=0.7),
        atom_line(4, "SER", "A", 3, ca[2], altloc="A", occupancy=0.5),
        atom_line(5, "THR", "A", 3, ca[2] + 1, altloc="B", occupancy=0.5),  # another residue with the same id
        atom_line(6, "VAL", "A", 4, ca[3]),
    ]
    trace = the_only(read("\n".join([*lines, "TER", "END", ""])))
    assert trace.sequence == "AGSV"
    np.testing.assert_allclose(trace.ca, [ca[0], ca[1] + 1, ca[2], ca[3]], atol=1e-3)


def test_residue_without_calpha_is_dropped_from_both_sides(read, make_chain, atom_line):
    _, ca = make_chain(0, 5)
    lines = [atom_line(i, "ALA", "A", i, xyz) for i, xyz in enumerate(ca, 1)]
    lines[2] = atom_line(3, "TRP", "A", 3, ca[2], name=" N  ", element="N")
    trace = the_only(read("\n".join([*lines, "TER", "END", ""])))
    assert trace.sequence == "AAAA"
    np.testing.assert_allclose(trace.ca, ca[[0, 1, 3, 4]], atol=1e-3)


def test_insertion_codes_are_residues_of_their_own(read, make_chain, atom_line):
    _, ca = make_chain(0, 4)
    numbers = [(41, " "), (42, " "), (42, "A"), (42, "B")]
    lines = [atom_line(i, "LYS", "A", n, ca[i], insertion=code) for i, (n, code) in enumerate(numbers)]
    assert the_only(read("\n".join([*lines, "TER", "END", ""]))).sequence == "KKKK"


@pytest.mark.parametrize(
    ("residue", "record", "letter"),
    [
        ("MSE", "HETATM", "M"),
        ("SEP", "HETATM", "S"),
        ("UNK", "ATOM", "X"),
        ("HSD", "ATOM", "H"),  # CHARMM
        ("CYX", "ATOM", "C"),  # Amber
    ],
)
def test_modified_residues_count_as_their_parent(read, make_chain, atom_line, residue, record, letter):
    _, ca = make_chain(0, 5)
    lines = [atom_line(i, "ALA", "A", i, xyz) for i, xyz in enumerate(ca, 1)]
    lines[2] = atom_line(3, residue, "A", 3, ca[2], record=record)
    assert the_only(read("\n".join([*lines, "TER", "END", ""]))).sequence == f"AA{letter}AA"


def test_parent_is_taken_from_the_file_where_the_residue_is_unheard_of(read, make_chain, atom_line):
    _, ca = make_chain(0, 5)
    lines = [atom_line(i, "ALA", "A", i, xyz) for i, xyz in enumerate(ca, 1)]
    lines[2] = atom_line(3, "0ZZ", "A", 3, ca[2], record="HETATM")
    modres = "MODRES 1ABC 0ZZ A    3  TRP  MADE UP\n"
    assert the_only(read(modres + "\n".join([*lines, "TER", "END", ""]))).sequence == "AAWAA"


def test_ions_waters_and_ligands_are_no_residues(read, make_chain, atom_line):
    _, ca = make_chain(0, 4)
    lines = [atom_line(i, "ALA", "A", i, xyz) for i, xyz in enumerate(ca, 1)]
    lines += [
        "TER",
        atom_line(8, "CA", "A", 101, ca[0] + 9, name="CA  ", record="HETATM", element="CA"),
        atom_line(9, "GLU", "A", 102, ca[1] + 9, record="HETATM"),  # a free amino acid, after TER
        atom_line(10, "HOH", "A", 103, ca[2] + 9, name=" O  ", record="HETATM", element="O"),
    ]
    assert the_only(read("\n".join([*lines, "END", ""]))).sequence == "AAAA"


def test_atom_names_in_the_wrong_column_are_still_calpha(read, make_chain, atom_line):
    """CHARMM writes names flush left, which by the format's rule would make each Cα a calcium."""
    _, ca = make_chain(0, 4)
    lines = [atom_line(i, "LEU", " ", i, xyz, name="CA  ", element="  ") for i, xyz in enumerate(ca, 1)]
    trace = the_only(read("\n".join([*lines, "END", ""])))
    assert (trace.chain, trace.sequence) == ("", "LLLL")


def test_parts_of_a_chain_are_joined(read, make_chain, atom_line):
    _, ca = make_chain(0, 6)
    names = ["A", "A", "A", "B", "A", "A"]
    lines = [atom_line(i, "ALA", name, i + 1, ca[i]) for i, name in enumerate(names)]
    parsed = read("\n".join([*lines, "END", ""]))
    assert [(t.chain, len(t.ca)) for t in parsed.traces] == [("A", 5)]
    assert parsed.problems == ("chain B has 1 residue(s) with Cα; 3 are needed",)


def test_two_molecules_in_one_chain_name_are_refused(read, make_chain, atom_line):
    _, ca = make_chain(0, 8)
    lines = [atom_line(i, "ALA", " ", i % 4 + 1, xyz) for i, xyz in enumerate(ca)]
    [problem] = read("\n".join([*lines, "END", ""])).problems
    assert problem == "chain (blank) holds residue 1 twice; give each molecule a chain name of its own"


def test_coinciding_calphas_are_refused(read, make_chain, atom_line):
    _, ca = make_chain(0, 5)
    ca[3] = ca[2]
    lines = [atom_line(i, "ALA", "A", i, xyz) for i, xyz in enumerate(ca, 1)]
    [problem] = read("\n".join([*lines, "END", ""])).problems
    assert problem == "chain A has the Cα of residues 3 and 4 at one place"


@pytest.mark.parametrize("field", ["     nan", "********", "     inf", "        "])
def test_coordinates_that_are_no_numbers_are_refused(read, make_chain, pdb_text, field):
    lines = pdb_text({"A": make_chain(0)}).splitlines()
    lines[4] = lines[4][:38] + field + lines[4][46:]
    [problem] = read("\n".join(lines)).problems
    assert problem == f"line 5: coordinate {field!r} is no finite number"


def test_unknown_coordinates_in_mmcif_are_refused(read, make_chain, pdb_text):
    sequence, ca = make_chain(0)
    text = as_mmcif(pdb_text({"A": (sequence, ca)}))
    changed = text.replace(f"{ca[4, 0]:g} ", "? ", 1)
    assert changed != text
    [problem] = read(changed, "1abc.cif").problems
    assert problem == "chain A residue 5 has coordinates that are not finite"


def test_useless_files_say_what_is_wrong(read, make_chain, pdb_text, atom_line):
    text = pdb_text({"A": make_chain(0)})
    cif, packed = as_mmcif(text), gzip.compress(text.encode())
    rows = cif.index("_atom_site.")
    dna = "\n".join(atom_line(i, "DA", "A", i, np.ones(3) * i, name=" P  ", element="P") for i in range(1, 9))
    said = {
        "is empty": read(""),
        "is no text file": read(b"\x00\x01\x02 MODEL"),
        "holds no atoms": read("<html>404</html>\n"),
        "the gz data are damaged or cut short": read(packed[: len(packed) // 2], "1abc.pdb.gz"),
        "holds no _atom_site coordinates": read("data_x\n_cell.length_a 1\n", "1abc.cif"),
        "holds no protein chain with Cα atoms": read(dna + "\nEND\n"),
        "chain A has 2 residue(s) with Cα; 3 are needed": read(pdb_text({"A": make_chain(0, 2)})),
    }
    for reason, parsed in said.items():
        assert parsed.problems == (reason,)
        assert parsed.traces == ()
    [cut] = read(cif[: rows + len(cif[rows:]) // 2 - 3], "1abc.cif").problems
    assert cut.startswith("cannot be parsed: ")
    assert "_atom_site" in cut
    [short] = read(text[: len(text) // 2]).problems
    assert short.startswith("cannot be parsed: ") or "no finite number" in short
    assert read_missing().startswith("cannot be read: ")


def read_missing() -> str:
    [problem] = files.parse(Path("/nowhere/1abc.pdb")).problems
    return problem


def test_damaged_gz_is_noticed_even_where_the_text_parses(read, make_chain, pdb_text):
    packed = bytearray(gzip.compress(pdb_text({"A": make_chain(0)}).encode()))
    packed[-6] ^= 1  # in the checksum
    assert read(bytes(packed), "1abc.pdb.gz").problems == ("the gz data are damaged or cut short",)
