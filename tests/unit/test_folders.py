from __future__ import annotations

import re

import pytest

from gentle_core.api import DataError, files_below

SUFFIX = re.compile(r"\.txt$")


def test_files_of_subfolders_in_order_without_what_is_hidden(tmp_path):
    for name in ("b/1.txt", "a/2.txt", "a/.3.txt", ".c/4.txt", "0.txt", "5.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "loop").symlink_to(tmp_path)
    found = files_below(tmp_path, SUFFIX, "text (.txt)")
    assert found == [str(tmp_path / name) for name in ("0.txt", "a/2.txt", "b/1.txt")]


def test_what_is_no_folder_or_holds_nothing_is_said(tmp_path):
    (tmp_path / "a.md").touch()
    with pytest.raises(DataError, match="no such folder"):
        files_below(tmp_path / "b", SUFFIX, "text (.txt)")
    with pytest.raises(DataError, match="name the folder that holds it"):
        files_below(tmp_path / "a.md", SUFFIX, "text (.txt)")
    with pytest.raises(DataError, match=r"holds no text \(\.txt\)"):
        files_below(tmp_path, SUFFIX, "text (.txt)")
