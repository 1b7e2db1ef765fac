from __future__ import annotations

import json

import pytest

from gentle_core.api import DataError, read_splits, split_name


def test_splits_go_by_several_names():
    assert [split_name(name) for name in ("Validation", "dev", " test ", "restval", "notes")] == [
        "val", "val", "test", "train", None,
    ]  # fmt: skip


def test_splits_from_json_and_from_a_folder(tmp_path):
    wanted = {"1abc_A": "train", "a name.jpg": "train", "3def": "val"}
    lists = {"train": ["1abc_A", "a name.jpg"], "validation": ["3def"], "nodes": {}}
    (tmp_path / "s.json").write_text("\ufeff" + json.dumps(lists), encoding="utf-8")
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "train.txt").write_text("1abc_A\r\n a name.jpg\n\n")
    (tmp_path / "lists" / "valid.txt").write_text("3def\n")
    (tmp_path / "lists" / "notes.txt").write_text("not a split\n")
    assert read_splits(tmp_path / "s.json") == wanted
    assert read_splits(tmp_path / "lists") == wanted


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"{", "no readable JSON"),
        (b"[1]", "expected"),
        (b"{}", "names no train, val or test items"),
        (b'{"train": "1abc"}', "'train' is not a list of names"),
        (b'{"train": ["a"], "test": ["a"]}', "'a' is both in train and in test"),
        (b'{"train": ["\xff"]}', "is not UTF-8"),
    ],
)
def test_bad_split_files_are_named(tmp_path, text, message):
    path = tmp_path / "s.json"
    path.write_bytes(text)
    with pytest.raises(DataError, match=message):
        read_splits(path)
    with pytest.raises(DataError, match="no such file"):
        read_splits(tmp_path / "missing.json")
