from __future__ import annotations

import gzip
import json

import numpy as np
import pytest

from gentle_core.api import DataError
from gentle_protein.chain import SEQUENCE, STRUCTURE
from gentle_protein.datasets.cath import build
from gentle_protein.datasets.config import CathConfig


def record(name, sequence, ca):
    place = [[float(x) for x in row] for row in ca]
    coords = {atom: place for atom in ("N", "CA", "C", "O")}
    return json.dumps({"seq": sequence, "coords": coords, "num_chains": 1, "name": name, "CATH": ["1.10.10.10"]})


@pytest.fixture
def layout(tmp_path, make_chain):
    """layout(lines, splits): a folder in this layout."""

    def make(lines, splits, packed=False):
        data = "".join(line + "\n" for line in lines).encode()
        (tmp_path / ("chain_set.jsonl.gz" if packed else "chain_set.jsonl")).write_bytes(
            gzip.compress(data) if packed else data
        )
        (tmp_path / "chain_set_splits.json").write_text(json.dumps(splits))
        return tmp_path

    return make


@pytest.mark.parametrize("packed", [False, True])
def test_chains_come_back_by_split(layout, make_chain, context, packed):
    chains = {f"{i}abc.A": make_chain(i) for i in range(4)}
    lines = [record(name, *chain) for name, chain in chains.items()]
    splits = {"train": ["0abc.A", "1abc.A", "9xyz.A"], "validation": ["2abc.A"], "test": ["3abc.A"], "cath_nodes": {}}
    made = build(CathConfig(path=layout(lines, splits, packed)), context)
    assert made.index("train")[SEQUENCE].items == ("0abc.A", "1abc.A")
    assert made.index("val")[STRUCTURE].items == ("2abc.A",)
    sequence, ca = chains["3abc.A"]
    assert made.load(SEQUENCE, ["3abc.A"]) == [sequence]
    np.testing.assert_array_equal(made.load(STRUCTURE, ["3abc.A"])[0].ca, ca)
    assert made.facts()["left_out"] == {"in_no_split": 0, "names_without_chain": 1}


def test_residues_without_calpha_are_dropped_from_both_sides(layout, make_chain, context):
    sequence, ca = make_chain(0)
    holes = ca.copy()
    holes[[3, 7], 1] = np.nan
    folder = layout([record("a", sequence, holes)], {"train": ["a"]})
    made = build(CathConfig(path=folder), context)
    keep = [i for i in range(len(ca)) if i not in (3, 7)]
    assert made.load(SEQUENCE, ["a"]) == ["".join(sequence[i] for i in keep)]
    np.testing.assert_array_equal(made.load(STRUCTURE, ["a"])[0].ca, ca[keep])


def test_bad_records_are_named_and_skipped(layout, make_chain, context, notices):
    sequence, ca = make_chain(0)
    lines = [
        record("good", sequence, ca),
        "{ cut sho",
        '{"name": "x"}',
        record("odd", sequence + "A", ca),
        record("tiny", sequence[:2], ca[:2]),
    ]
    folder = layout(lines, {"train": ["good", "odd", "tiny"]})
    made, path = build(CathConfig(path=folder), context), folder / "chain_set.jsonl"
    assert made.facts()["skipped"]["reasons"] == [
        f"{path}: line 2 is no JSON",
        f"{path}: line 3 lacks name, seq or coords.CA",
        f"{path}: line 4: odd has 31 letters and 30 positions",
        f"{path}: line 5: tiny has 2 residue(s) with Cα; 3 are needed",
    ]
    assert notices == [f"skipped 4, the first: {path}: line 2 is no JSON (the manifest names the others)"]
    with pytest.raises(DataError, match="line 2 is no JSON"):
        build(CathConfig(path=folder, strict=True), context)


def test_useless_folders(layout, make_chain, context, tmp_path):
    with pytest.raises(DataError, match=r"holds neither chain_set\.jsonl nor"):
        build(CathConfig(path=tmp_path), context)
    chain = record("a", *make_chain(0))
    folder = layout([chain, chain], {"train": ["a"]})
    with pytest.raises(DataError, match="two chains have the name 'a', the second in line 2"):
        build(CathConfig(path=folder), context)
    folder = layout([chain], {"train": ["b"]})
    with pytest.raises(DataError, match="no usable chain that chain_set_splits"):
        build(CathConfig(path=folder), context)
    (folder / "chain_set_splits.json").unlink()
    with pytest.raises(DataError, match="no such file"):
        build(CathConfig(path=folder), context)


def test_cut_gz_says_so(layout, make_chain, context):
    folder = layout([record("a", *make_chain(0))], {"train": ["a"]}, packed=True)
    path = folder / "chain_set.jsonl.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="damaged or cut short"):
        build(CathConfig(path=folder), context)


def test_real_layout(real_data, context):
    made = build(CathConfig(path=real_data("protein/cath_layout.tar") / "cath", min_length=3, strict=True), context)
    assert made.facts()["chains"] == {"train": 480, "val": 60, "test": 60}
