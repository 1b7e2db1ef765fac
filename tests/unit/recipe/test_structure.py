"""Strict in, plain out: nothing is coerced, every fault is found and named."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import attrs
import pytest

from gentle_core.recipe.structure import Invalid, Sourced, plain, structure


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@attrs.frozen
class Inner:
    end: float
    shape: Literal["linear", "step"] = "linear"


@attrs.frozen
class Other:
    other: int


@attrs.define
class Outer:
    inner: Inner | float = 1.0
    names: tuple[str, ...] = ()
    _hidden: int = 3
    many: list[Inner] = attrs.field(factory=list)
    derived: int = attrs.field(init=False, default=1)


FITS = [
    (True, bool, True),
    (3, int, 3),
    (3, float, 3.0),
    ("x", str, "x"),
    (3, float | int, 3),
    (3.0, float | int, 3.0),
    (3, float | None, 3.0),
    (True, int | bool, True),
    ("auto", int | Literal["auto"], "auto"),
    (["a"], tuple[str, ...], ("a",)),
    ([1, "a"], tuple[int, str], (1, "a")),
    ([1], list[float], [1.0]),
    ([1, 1], frozenset[int], frozenset({1})),
    ([1], Sequence[int], [1]),
    ({"a": 1}, dict[str, float], {"a": 1.0}),
    ({"a": [1, "x"]}, Mapping[str, Any], {"a": [1, "x"]}),
    ("blue", Colour, Colour.BLUE),
    ({"end": 2}, Inner | float, Inner(2.0)),
    (0.5, Inner | float, 0.5),
    ({"other": 2}, Inner | Other, Other(2)),
    ({"hidden": 4, "many": [{"end": 1}]}, Outer, Outer(hidden=4, many=[Inner(1.0)])),
]


@pytest.mark.parametrize(("value", "wanted", "expected"), FITS)
def test_what_fits(value: Any, wanted: Any, expected: Any) -> None:
    made = structure(value, wanted)
    assert made == expected and type(made) is type(expected)
    assert structure(plain(made), wanted) == made


BAD = [
    ("no", bool, "", "should be true or false, not 'no' (a string)"),
    (1, bool, "", "should be true or false, not 1 (an integer)"),
    ("3", int, "", "should be an integer, not '3' (a string)"),
    (3.0, int, "", "should be an integer, not 3.0 (a float)"),
    (True, int, "", "should be an integer, not true (a boolean)"),
    (True, float, "", "should be a number, not true (a boolean)"),
    (float("nan"), float, "", "not nan"),
    (3, str, "", "should be a string, not 3 (an integer)"),
    (True, float | int, "", "should be a number or an integer, not true"),
    ("abc", tuple[str, ...], "", "should be an array, not 'abc' (a string)"),
    ({"a": 1}, list[int], "", "should be an array, not a table"),
    ([1, "x"], tuple[int, ...], "1", "should be an integer, not 'x'"),
    ([1], tuple[int, int], "", "should be an array of 2 values, not of 1"),
    ([1], dict[str, int], "", "should be a table, not an array"),
    ({"a": "x"}, dict[str, int], "a", "should be an integer"),
    ("gren", Literal["green", "red"], "", "should be 'green' or 'red', not 'gren' (a string) — did you mean 'green'?"),
    (1, Literal["green"], "", "should be 'green', not 1"),
    (True, Literal[1], "", "should be 1, not true"),
    ("green", Colour, "", "should be 'red' or 'blue'"),
    ("x", float | None, "", "should be a number, not 'x'"),
    ("x", Inner | float, "", "should be a number or a table, not 'x'"),
    ({"end": 1, "shap": "step"}, Inner | float, "shap", "unknown key — did you mean 'shape'?"),
    ({"shape": "step"}, Inner | float, "end", "is missing"),
    ({"ned": 1}, Inner, "end", "is missing — is 'ned' meant for it?"),
    ("", Path, "", "should be a path"),
    ({"derived": 1}, Outer, "derived", "unknown key"),
    ({"many": [{"end": 1}, {"end": "x"}]}, Outer, "many.1.end", "should be a number"),
]


@pytest.mark.parametrize(("value", "wanted", "key", "message"), BAD)
def test_what_does_not_fit(value: Any, wanted: Any, key: str, message: str) -> None:
    with pytest.raises(Invalid) as caught:
        structure(value, wanted)
    faults = {".".join(map(str, path)): text for path, text in caught.value.faults}
    assert message in faults[key], faults


def test_every_fault_at_once() -> None:
    with pytest.raises(Invalid) as caught:
        structure({"inner": {"end": "x", "shape": 3, "foo": 1}, "names": [1, "a", 2], "hidden": "x"}, Outer)
    keys = {".".join(map(str, path)) for path, _ in caught.value.faults}
    assert keys == {"inner.end", "inner.shape", "inner.foo", "names.0", "names.2", "hidden"}


@attrs.frozen
class Checked:
    p: float = attrs.field(default=0.0, validator=attrs.validators.ge(0))
    q: int = attrs.field(default=1, validator=attrs.validators.in_((1, 2)))
    r: float = attrs.field(default=0.0, converter=lambda v: 1 / v if v else 0.0)

    def __attrs_post_init__(self) -> None:
        if self.p > self.q:
            raise ValueError(f"p = {self.p} is above q = {self.q}")


def test_validators_speak_for_their_own_key_and_all_of_them() -> None:
    with pytest.raises(Invalid) as caught:
        structure({"p": -1, "q": 5}, Checked)
    (p, (q_path, q_text)) = caught.value.faults
    assert p == (("p",), "must be >= 0, not -1.0")
    assert q_path == ("q",) and "must be in (1, 2)" in q_text
    with pytest.raises(Invalid, match="p = 3.0 is above q = 1"):
        structure({"p": 3}, Checked)


@attrs.frozen
class Unresolvable:
    x: NoSuchType  # type: ignore[name-defined]  # noqa: F821


def test_config_class_with_unresolvable_annotations_names_itself() -> None:
    with pytest.raises(TypeError, match="Unresolvable cannot be resolved"):
        structure({"x": 1}, Unresolvable)


def test_paths_count_from_where_they_were_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert structure(Sourced.of("a/../b", tmp_path / "recipes"), Path) == tmp_path / "recipes" / "b"
    assert structure("b", Path | None) == tmp_path / "b"
    assert structure(Sourced.of("~/b", tmp_path / "recipes"), Path) == tmp_path / "home" / "b"
    assert structure(Sourced.of("/x", tmp_path), Path) == Path("/x")
    assert type(structure(Sourced.of("x", tmp_path), str)) is str


def test_none_that_is_no_default_cannot_be_written() -> None:
    @attrs.frozen
    class Config:
        x: int | None = 3

    with pytest.raises(Invalid, match="None"):
        plain(Config(x=None))
