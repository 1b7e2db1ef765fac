"""The folder dataset: what is an item, which split it is in, and what is said about bad input."""

from __future__ import annotations

import gzip
import json
import pickle

import numpy as np
import pytest

from gentle_core.api import DataError, Dataset
from gentle_protein.chain import SEQUENCE, STRUCTURE
from gentle_protein.datasets.config import StructuresConfig
from gentle_protein.datasets.structures import agrees, build, chain_id, find_files


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "pdb").mkdir()
    return tmp_path / "pdb"


@pytest.fixture
def write(folder, pdb_text):
    """write(name, chains): a PDB file in the folder, gz-compressed where the name says so."""

    def file(name, chains):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = pdb_text(chains).encode()
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)

    return file


@pytest.fixture
def dataset(folder, context):
    return lambda **options: build(StructuresConfig(path=folder, **options), context)


def ids(dataset, modality=STRUCTURE):
    found = [index[modality].items for split in ("train", "val", "test") if modality in (index := dataset.index(split))]
    return sorted(item for items in found for item in items)


def split_of(dataset, item):
    [split] = [s for s in ("train", "val", "test") if any(item in index.items for index in dataset.index(s).values())]
    return split


def test_pairs_load_back(write, dataset, make_chain):
    chains = {f"e{i}": make_chain(i, 25 + i) for i in range(6)}
    for name, chain in chains.items():
        write(f"sub/{name}.pdb.gz" if name > "e2" else f"{name}.ent", {"A": chain})
    made = dataset()
    assert isinstance(made, Dataset)
    assert ids(made) == ids(made, SEQUENCE) == [f"{name}_A" for name in chains]
    for name, (sequence, ca) in chains.items():
        [item] = made.load(STRUCTURE, [f"{name}_A"])
        assert item.id == f"{name}_A"
        np.testing.assert_allclose(item.ca, ca, atol=1e-6)
        assert made.load(SEQUENCE, [f"{name}_A"]) == [sequence]
    for split in ("train", "val", "test"):
        index = made.index(split)
        assert index[SEQUENCE].items == index[STRUCTURE].items
        lengths = [len(item) for item in made.load(STRUCTURE, index[STRUCTURE].items)]
        assert index[STRUCTURE].attributes["length"].tolist() == lengths
    assert made.index("nonsense") == {}
    facts = json.loads(json.dumps(made.facts()))
    assert facts["shortcuts"] == ["length"]
    assert sum(facts["chains"].values()) == 6
    copy = pickle.loads(pickle.dumps(made))
    assert copy.load(SEQUENCE, ["e0_A"]) == [chains["e0"][0]]


def test_names_of_chains():
    assert chain_id("1abc", "B") == "1abc_B"
    assert chain_id("1ABC_A", "A") == "1ABC_A"
    assert chain_id("model_of_mine", "") == "model_of_mine"


@pytest.mark.parametrize(
    ("rule", "wanted"),
    [("all", "ABC"), ("unique", "AC"), ("first", "A"), ("longest", "C")],
)
def test_choice_of_chains(write, dataset, make_chain, rule, wanted):
    same = make_chain(0, 30)
    write("x.pdb", {"A": same, "B": same, "C": make_chain(1, 40)})
    assert ids(dataset(chains=rule)) == [f"x_{name}" for name in wanted]


def test_lengths_outside_are_counted_not_skipped(write, dataset, make_chain, notices):
    for i, length in enumerate((10, 30, 50)):
        write(f"x{i}.pdb", {"A": make_chain(i, length)})
    made = dataset(min_length=20, max_length=40, strict=True)
    assert ids(made) == ["x1_A"]
    assert made.facts()["outside_length"] == {"shorter": 1, "longer": 1}
    assert made.facts()["skipped"]["count"] == 0
    assert notices == []


def test_bad_files_are_named_and_skipped(write, folder, dataset, make_chain, notices):
    write("good.pdb", {"A": make_chain(0)})
    write("short.pdb", {"A": make_chain(1), "B": make_chain(2, 2)})
    (folder / "empty.pdb").write_text("")
    made = dataset()
    assert ids(made) == ["good_A", "short_A"]
    assert made.facts()["skipped"] == {
        "count": 2,
        "reasons": [
            f"{folder / 'empty.pdb'}: is empty",
            f"{folder / 'short.pdb'}: chain B has 2 residue(s) with Cα; 3 are needed",
        ],
    }
    assert notices == [f"skipped 2, the first: {folder / 'empty.pdb'}: is empty (the manifest names the others)"]
    with pytest.raises(DataError, match=r"empty\.pdb: is empty; mend or remove it"):
        dataset(strict=True)


def test_second_build_reads_the_cache_and_says_the_same(write, folder, dataset, make_chain, monkeypatch):
    write("good.pdb", {"A": make_chain(0)})
    (folder / "empty.pdb").write_text("")
    first = dataset()
    monkeypatch.setattr("gentle_protein.datasets.files.parse", lambda path: pytest.fail(f"parsed {path} again"))
    again = dataset()
    assert again.facts() == first.facts()
    np.testing.assert_array_equal(again.load(STRUCTURE, ["good_A"])[0].ca, first.load(STRUCTURE, ["good_A"])[0].ca)


def test_useless_folders(folder, dataset, write, make_chain, context):
    with pytest.raises(DataError, match="holds no structure file"):
        dataset()
    (folder / "notes.txt").write_text("nothing")
    (folder / "._x.pdb").write_text("left by a Mac")
    with pytest.raises(DataError, match="holds no structure file"):
        dataset()
    with pytest.raises(DataError, match="no such folder"):
        build(StructuresConfig(path=folder / "missing"), context)
    with pytest.raises(DataError, match="is a file"):
        build(StructuresConfig(path=folder / "notes.txt"), context)
    (folder / "empty.pdb").write_text("")
    write("x.pdb", {"A": make_chain(0, 10)})
    with pytest.raises(DataError, match=r"no usable protein chain; 1 outside 20-1022 residues; skipped .*empty"):
        dataset()


def test_a_link_that_leads_back_is_followed_once(write, folder, make_chain):
    write("x.pdb", {"A": make_chain(0)})
    (folder / "loop").symlink_to(folder)
    assert [path.name for path in find_files(folder)] == ["x.pdb"]


def test_duplicate_ids_name_both_files(write, dataset, make_chain):
    write("one/x.pdb", {"A": make_chain(0)})
    write("two/x.pdb.gz", {"A": make_chain(1)})
    with pytest.raises(DataError, match=r"id 'x_A': .*one/x\.pdb and .*two/x\.pdb\.gz; rename"):
        dataset()


def test_chains_of_an_entry_and_copies_of_a_chain_share_a_split(write, dataset, make_chain):
    for i in range(30):
        write(f"{i:04d}_A.pdb", {"A": make_chain(i)})
        write(f"{i:04d}_B.pdb", {"B": make_chain(100 + i)})
        write(f"copy{i}.pdb", {"A": make_chain(i), "B": make_chain(200 + i)})
    made = dataset(val_fraction=0.3, test_fraction=0.3)
    for i in range(30):
        together = {split_of(made, item) for item in (f"{i:04d}_A", f"{i:04d}_B", f"copy{i}_A", f"copy{i}_B")}
        assert len(together) == 1
    assert all(made.index(split) for split in ("train", "val", "test"))


def test_splits_from_lists(write, folder, dataset, make_chain, tmp_path):
    for name in ("1abc", "2def", "3ghi", "4jkl"):
        write(f"{name}.pdb", {"A": make_chain(ord(name[1])), "B": make_chain(ord(name[2]))})
    lists = tmp_path / "splits.json"
    lists.write_text(json.dumps({"train": ["1ABC", "2def.A"], "val": ["1abc.B", "3GHI-A"], "test": ["9xyz"]}))
    made = dataset(splits=lists)
    assert made.index("train")[STRUCTURE].items == ("1abc_A", "2def_A")
    assert made.index("val")[STRUCTURE].items == ("1abc_B", "3ghi_A")
    assert made.index("test") == {}
    assert made.facts()["left_out"] == {"in_no_split": 4, "names_without_chain": 1}
    lists.write_text('{"train": ["9xyz"]}')
    with pytest.raises(DataError, match=r"names no chain in .*; they are called like 1abc_A"):
        dataset(splits=lists)


def fasta(path, records):
    path.write_text("".join(f">{name}\n{sequence}\n" for name, sequence in records))
    return path


def test_sequences_without_structure_are_unpaired_training_items(write, dataset, make_chain, tmp_path):
    chains = [make_chain(i) for i in range(10)]
    for i, chain in enumerate(chains):
        write(f"x{i}.pdb", {"A": chain})
    plain = dataset()
    held_out = plain.load(SEQUENCE, plain.index("test")[SEQUENCE].items)[0]
    gap = chains[3][0][:5] + "GGG" + chains[3][0][5:]  # residues that the structure does not show
    records = [("new", make_chain(50)[0]), ("x3_A", gap), ("leak", held_out), ("x4_A", chains[4][0])]
    made = dataset(fasta=fasta(tmp_path / "more.fasta", records), strict=True)
    index = made.index("train")
    assert set(index[SEQUENCE].items) - set(index[STRUCTURE].items) == {"new"}
    assert made.load(SEQUENCE, ["new", "x3_A"]) == [records[0][1], chains[3][0]]
    for split in ("val", "test"):
        assert made.index(split)[SEQUENCE].items == plain.index(split)[SEQUENCE].items
    assert made.facts()["left_out"] == {"fasta_held_out": 1, "fasta_named_a_chain": 2}
    assert made.facts()["sequence_only"] == 1
    with pytest.raises(DataError, match="new has no structure"):
        made.load(STRUCTURE, ["new"])


def test_record_that_contradicts_its_structure_is_skipped(write, dataset, make_chain, tmp_path, notices):
    write("x.pdb", {"A": make_chain(0)})
    path = fasta(tmp_path / "more.fasta", [("x_A", make_chain(1)[0])])
    made = dataset(fasta=path)
    assert made.load(SEQUENCE, ["x_A"]) == [make_chain(0)[0]]
    assert "record x_A has another sequence than the chain in" in notices[0]
    with pytest.raises(DataError, match="record x_A has another sequence"):
        dataset(fasta=path, strict=True)


def test_fasta_that_names_no_structure_gives_unpaired_items_only(write, dataset, make_chain, tmp_path):
    write("x.pdb", {"A": make_chain(0)})
    folder = tmp_path / "fastas"
    folder.mkdir()
    fasta(folder / "a.fa", [("p1", make_chain(1)[0]), ("p2", make_chain(2, 5)[0])])
    fasta(folder / "b.faa", [("p1", make_chain(1)[0]), ("p3", "MK-K" * 9)])
    made = dataset(fasta=folder)
    assert ids(made, SEQUENCE) == ["p1", "x_A"]
    assert made.facts()["skipped"]["reasons"] == [
        f"{folder / 'b.faa'}: record p3 holds '-', which is no residue letter"
    ]
    assert made.facts()["outside_length"]["shorter"] == 1
    fasta(folder / "b.faa", [("p1", make_chain(9)[0])])
    with pytest.raises(DataError, match="'p1' occurs twice with different sequences"):
        dataset(fasta=folder)


def test_fasta_that_cannot_be_read_stops(write, dataset, make_chain, tmp_path):
    write("x.pdb", {"A": make_chain(0)})
    with pytest.raises(DataError, match="no such FASTA file"):
        dataset(fasta=tmp_path / "missing.fasta")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no FASTA file"):
        dataset(fasta=tmp_path / "empty")
    (tmp_path / "bad.fasta").write_text("{}")
    with pytest.raises(DataError, match="no FASTA file"):
        dataset(fasta=tmp_path / "bad.fasta")


def test_structures_without_sequence(write, folder, dataset, make_chain, pdb_text, tmp_path, atom_line):
    for i in range(10):
        write(f"x{i}.pdb", {"A": make_chain(i)})
    plain = dataset()
    test_item = plain.index("test")[STRUCTURE].items[0]
    held_out = make_chain(int(test_item[1]))
    other = tmp_path / "predicted"
    other.mkdir()
    (other / "p.pdb").write_text(pdb_text({"A": make_chain(77), "B": held_out}))
    unknown = make_chain(5)[1]
    (folder / "u.pdb").write_text("\n".join(atom_line(i, "UNK", "A", i, xyz) for i, xyz in enumerate(unknown, 1)))
    made = dataset(structures_only=other)
    assert set(ids(made)) - set(ids(made, SEQUENCE)) == {"p_A", "u_A"}
    assert split_of(made, "p_A") == "train"
    assert made.facts()["structure_only"] == 2
    assert made.facts()["left_out"] == {"structures_held_out": 1}
    with pytest.raises(DataError, match="p_A has no sequence"):
        made.load(SEQUENCE, ["p_A"])


@pytest.mark.parametrize(
    ("observed", "record", "answer"),
    [
        ("MKV", "MKV", True),
        ("MKV", "AMGKVA", True),
        ("MXV", "MKV", True),
        ("MKV", "MXV", True),
        ("MKV", "MVK", False),
        ("MKV", "MK", False),
        ("", "MK", True),
    ],
)
def test_agreement_with_gaps(observed, record, answer):
    assert agrees(observed, record) is answer


def test_options_that_cannot_be_meant(folder):
    with pytest.raises(ValueError, match="leaves nothing to train on"):
        StructuresConfig(path=folder, val_fraction=0.5, test_fraction=0.5)
    with pytest.raises(ValueError, match="min_length = 50 is above"):
        StructuresConfig(path=folder, min_length=50, max_length=40)


def test_real_files(real_data, context):
    made = build(StructuresConfig(path=real_data("protein/pdb_files.tar"), strict=True), context)
    facts = made.facts()
    assert facts["files"] == 300
    assert sum(facts["chains"].values()) + sum(facts["outside_length"].values()) == 300
    steps = np.concatenate(
        [
            np.linalg.norm(np.diff(item.ca, axis=0), axis=1)
            for item in made.load(STRUCTURE, made.index("train")[STRUCTURE].items)
        ]
    )
    assert np.median(steps) == pytest.approx(3.8, abs=0.05)
