"""The scanner finds the line of every key that tomllib finds, and of nothing else."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest

from gentle_core.recipe.lines import key_lines, parse_key

TEXT = '''\
# a comment with = and [brackets]
name = "a # no comment"
"quoted key" . 'other' = 1

[dataset]            # trailing
use = 'a\\b'
text = """
use = "not a key"
"quotes"" inside""""

[towers.sequence]
encoder = { use = "x", "in side" = { deep = [1, [2, 3]] } }
augment = [
    { use = "a", p = 0.1 },   # one
    # a lone comment, with a comma
    { use = "b", raw = \'\'\'it's
two lines\'\'\' },
    { use = "c" },
]

[towers."my tower"]
modality.name = "dotted"

[[terms]]
use = "first"
[terms.options]
p = 1979-05-27T07:32:00Z
[[terms]]
use = "second"
[[terms.inner]]
q = -1e-3
'''


def paths(value: Any, path: tuple[str | int, ...] = ()) -> set[tuple[str | int, ...]]:
    found = {path} if path else set()
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found |= paths(inner, (*path, key))
    return found


@pytest.mark.parametrize("text", [TEXT, TEXT.replace("\n", "\r\n"), TEXT.rstrip(), "", "# nothing", "a=1#x"])
def test_every_key_has_a_line_and_nothing_else_has(text: str) -> None:
    assert set(key_lines(text)) == paths(tomllib.loads(text))


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("name",), 2),
        (("quoted key", "other"), 3),
        (("dataset",), 5),
        (("dataset", "text"), 7),
        (("towers", "sequence", "encoder", "in side", "deep", 1, 0), 12),
        (("towers", "sequence", "augment"), 13),
        (("towers", "sequence", "augment", 0, "p"), 14),
        (("towers", "sequence", "augment", 1, "raw"), 16),
        (("towers", "sequence", "augment", 2), 18),
        (("towers", "my tower", "modality", "name"), 22),
        (("terms", 0, "options", "p"), 27),
        (("terms", 1), 28),
        (("terms", 1, "inner", 0, "q"), 31),
    ],
)
def test_line_numbers(path: tuple[str | int, ...], line: int) -> None:
    assert key_lines(TEXT)[path] == line


def test_keys() -> None:
    assert parse_key('towers."my tower".modality') == ("towers", "my tower", "modality")
    assert parse_key("a.0.b") == ("a", "0", "b")
    for bad in ("", "a b", "a..b", "a = 1\nb", "a\n", "[a]"):
        with pytest.raises(ValueError, match="is no key"):
            parse_key(bad)
