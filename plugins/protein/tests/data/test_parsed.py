from __future__ import annotations

import os

import numpy as np
import pytest

from gentle_protein.datasets.files import Parsed, Trace
from gentle_protein.datasets.parsed import parse_cached


class Parser:
    """Counts what it is asked to parse."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, path) -> Parsed:
        self.asked.append(path.name)
        rows = len(path.read_text())
        ca = np.arange(3.0 * rows, dtype=np.float32).reshape(rows, 3)
        return Parsed((Trace("A", "M" * rows, ca), Trace("", "GG", ca[:2])), (f"{rows} problems",))


@pytest.fixture
def folder(tmp_path):
    for name, text in {"a": "12345", "b": "123"}.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def same(left: list[Parsed], right: list[Parsed]) -> bool:
    return all(
        a.problems == b.problems
        and [(t.chain, t.sequence, t.ca.tolist()) for t in a.traces]
        == [(t.chain, t.sequence, t.ca.tolist()) for t in b.traces]
        for a, b in zip(left, right, strict=True)
    )


def test_second_time_nothing_is_parsed(folder):
    paths, parser = [folder / "a", folder / "b"], Parser()
    first = parse_cached(folder, paths, parser, folder / "cache")
    again = parse_cached(folder, paths[::-1], parser, folder / "cache")[::-1]
    assert parser.asked == ["a", "b"]
    assert same(first, again)
    assert same(again, [Parser()(path) for path in paths])
    assert not list((folder / "cache").glob("*.tmp"))


def test_only_what_changed_is_parsed(folder):
    paths, parser = [folder / "a", folder / "b"], Parser()
    parse_cached(folder, paths, parser, folder / "cache")
    (folder / "a").write_text("changed!")
    (folder / "c").write_text("new")
    results = parse_cached(folder, [*paths, folder / "c"], parser, folder / "cache")
    assert parser.asked == ["a", "b", "a", "c"]
    assert len(results[0].traces[0].ca) == 8
    stamp = os.stat(folder / "b").st_mtime_ns + 10**9
    os.utime(folder / "b", ns=(stamp, stamp))
    parse_cached(folder, [*paths, folder / "c"], parser, folder / "cache")
    assert parser.asked[4:] == ["b"]


@pytest.mark.parametrize("damage", [b"", b"not a zip file", b"PK\x03\x04 cut short"])
def test_damaged_cache_is_made_anew(folder, damage):
    paths, parser = [folder / "a"], Parser()
    parse_cached(folder, paths, parser, folder / "cache")
    [cache] = (folder / "cache").iterdir()
    cache.write_bytes(damage)
    assert same(parse_cached(folder, paths, parser, folder / "cache"), [Parser()(folder / "a")])
    parse_cached(folder, paths, parser, folder / "cache")
    assert parser.asked == ["a", "a"]


def test_unwritable_cache_does_no_harm(folder):
    results = parse_cached(folder, [folder / "a"], Parser(), folder / "a" / "below-a-file")
    assert len(results) == 1
