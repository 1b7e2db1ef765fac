from __future__ import annotations

import gzip

import pytest

from gentle_protein.datasets.fasta import problem, read_fasta


def test_records_of_any_shape(tmp_path):
    path = tmp_path / "a.fasta.gz"
    path.write_bytes(gzip.compress(b">one some title\nmkv\r\nLLA*\n\n>two|x\nAC DE\n>\nMM\n>three\n"))
    assert list(read_fasta(path)) == [("one", "MKVLLA"), ("two|x", "ACDE"), ("", "MM"), ("three", "")]


@pytest.mark.parametrize(("content", "message"), [(b"", "must begin with"), (b"MKV\n>a\nMKV", "must begin with")])
def test_what_is_no_fasta_is_refused(tmp_path, content, message):
    path = tmp_path / "a.fasta"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        list(read_fasta(path))


def test_bad_records_are_told_apart():
    assert problem("a", "MKX") is None
    assert problem("", "MK") == "a record has no id after '>'"
    assert problem("a", "") == "record a is empty"
    assert problem("a", "MK-L") == "record a holds '-', which is no residue letter"
