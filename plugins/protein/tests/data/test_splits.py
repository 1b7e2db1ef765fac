from __future__ import annotations

import json

import pytest

from gentle_core.api import DataError
from gentle_protein.datasets.splits import components, deal, read_splits


def test_shares_are_met_and_reproducible():
    keys = [f"entry{i}" for i in range(2000)]
    split = deal(keys, 0.1, 0.2, seed=0)
    share = {name: list(split.values()).count(name) / len(keys) for name in ("train", "val", "test")}
    assert share["val"] == pytest.approx(0.1, abs=0.03)
    assert share["test"] == pytest.approx(0.2, abs=0.03)
    assert split == deal(reversed(keys), 0.1, 0.2, seed=0)
    assert split != deal(keys, 0.1, 0.2, seed=1)


def test_new_entries_do_not_move_old_ones():
    keys = [f"entry{i}" for i in range(200)]
    few, many = deal(keys[:100], 0.1, 0.1, 0), deal(keys, 0.1, 0.1, 0)
    assert all(many[key] == split for key, split in few.items())


@pytest.mark.parametrize("count", [3, 4, 10])
def test_every_wanted_split_gets_an_entry(count):
    for seed in range(20):
        assert set(deal(map(str, range(count)), 0.1, 0.1, seed).values()) == {"train", "val", "test"}
    assert set(deal(map(str, range(count)), 0.0, 0.0, 0).values()) == {"train"}


def test_one_or_two_entries_are_dealt_by_hash_alone():
    assert len(deal(["a", "b"], 0.4, 0.4, 0)) == 2


def test_groups_that_share_a_member_are_joined_through_others():
    groups = {"a": ["1"], "b": ["1", "2"], "c": ["2"], "d": ["3"], "e": []}
    assert components(groups) == {"a": "a", "b": "a", "c": "a", "d": "d", "e": "e"}


def test_splits_from_json_and_from_a_folder(tmp_path):
    wanted = {"train": ["1abc_A", "2xyz"], "val": ["3def"]}
    (tmp_path / "s.json").write_text(json.dumps({"train": wanted["train"], "validation": wanted["val"], "nodes": {}}))
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "train.txt").write_text("1abc_A\n2xyz\n")
    (tmp_path / "lists" / "valid.txt").write_text("3def\n")
    (tmp_path / "lists" / "notes.txt").write_text("not a split\n")
    assert read_splits(tmp_path / "s.json") == wanted
    assert read_splits(tmp_path / "lists") == wanted


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no readable JSON"),
        ("[1]", "expected"),
        ("{}", "names no train, val or test items"),
        ('{"train": "1abc"}', "'train' is not a list of names"),
        ('{"train": ["a"], "test": ["a"]}', "'a' is both in train and in test"),
    ],
)
def test_bad_split_files_are_named(tmp_path, text, message):
    path = tmp_path / "s.json"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_splits(path)
    with pytest.raises(DataError, match="no such file"):
        read_splits(tmp_path / "missing.json")
