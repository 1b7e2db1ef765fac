from __future__ import annotations

import json

import pytest

from gentle_core.api import DataError
from gentle_protein.datasets.splits import components, read_splits


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
