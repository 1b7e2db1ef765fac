"""Where a recipe's values come from: files that extend one another, `--set`, Python; merged, with their origins."""

from __future__ import annotations

import copy
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from gentle_core.errors import RecipeError
from gentle_core.recipe.lines import KeyPath, key_lines, parse_key
from gentle_core.recipe.model import Component, DatasetTable, ObjectiveTable
from gentle_core.recipe.structure import Sourced
from gentle_core.suggest import close_to, listed

EXTENDS = "extends"


@attrs.frozen
class Origin:
    """Where a key was written. `text` is what errors show: "recipe.toml:12" or "--set train.steps"."""

    text: str
    passing: bool = False  # a table that --set only passes through on its way to a key


@attrs.frozen
class Layer:
    """Values and where each of them was written."""

    data: dict[str, Any]
    origins: dict[KeyPath, Origin]
    name: str = "recipe"

    def where(self, path: KeyPath) -> str:
        """The origin of a key, or of the innermost table around it that was written anywhere."""
        for length in range(len(path), 0, -1):
            if (origin := self.origins.get(path[:length])) is not None:
                return origin.text
        return self.name


def dotted(path: KeyPath) -> str:
    """A path as errors show it: towers.sequence.augment[0].p"""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if re.fullmatch(r"[\w-]+", part) else f'."{part}"'
    return text.removeprefix(".")


# -- reading -----------------------------------------------------------------------------------------------------


def read_file(path: Path, shown: str | None = None, chain: tuple[Path, ...] = ()) -> tuple[Layer, str]:
    """A recipe file with all that it extends, and its own text.

    Raises:
        RecipeError: it cannot be read, is no TOML, or extends itself.
    """
    shown = shown or str(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{shown}: is not UTF-8 text (byte {error.start})") from error
    except OSError as error:
        if not isinstance(error, FileNotFoundError):
            raise RecipeError(f"{shown}: {(error.strerror or str(error)).lower()}") from error
        close = close_to(path.stem, (other.stem for other in path.parent.glob("*.toml")))
        meant = f" — did you mean {listed(f'{stem}.toml' for stem in close)}?" if close else ""
        raise RecipeError(f"{shown}: no such file{meant}") from error
    return read_text(text, shown, path.resolve().parent, (*chain, path.resolve())), text


def read_text(text: str, name: str, folder: Path, chain: tuple[Path, ...] = ()) -> Layer:
    """A recipe's text with all that it extends; paths in it count from `folder`."""
    try:
        data = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        match = re.fullmatch(r"(.*) \(at (?:line (\d+), column \d+|end of document)\)", str(error), re.DOTALL)
        line = match[2] or str(max(len(text.splitlines()), 1)) if match else "1"
        raise RecipeError(f"{name}:{line}: not valid TOML: {match[1] if match else error}") from error
    origins = {path: Origin(f"{name}:{line}") for path, line in key_lines(text).items()}
    own = Layer(_sourced(data, folder), origins, f"{name}:1")
    base = None
    for number, parent in enumerate(_extended(own)):
        where = own.where((EXTENDS, number))
        path = (folder / Path(parent).expanduser()).resolve()
        if path in chain:
            loop = " → ".join(p.name for p in (*chain[chain.index(path) :], path))
            raise RecipeError(f"{where}: {EXTENDS}: goes in a circle: {loop}")
        if not path.is_file():
            raise RecipeError(f"{where}: {EXTENDS}: there is no file {path}")
        layer, _ = read_file(path, _relative(path), chain)
        base = layer if base is None else merge(base, layer)
    return own if base is None else merge(base, own)


def _extended(layer: Layer) -> list[str]:
    parents = layer.data.pop(EXTENDS, [])
    parents = [parents] if isinstance(parents, str) else parents
    if not isinstance(parents, list) or not all(isinstance(p, str) and p and "\0" not in p for p in parents):
        raise RecipeError(f"{layer.where((EXTENDS,))}: {EXTENDS}: should be a file name or an array of file names")
    return parents


def _relative(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _sourced(value: Any, folder: Path) -> Any:
    if isinstance(value, dict):
        return {key: _sourced(inner, folder) for key, inner in value.items()}
    if isinstance(value, list):
        return [_sourced(inner, folder) for inner in value]
    return Sourced.of(value, folder) if isinstance(value, str) else value


# -- settings ----------------------------------------------------------------------------------------------------


def read_sets(sets: Sequence[str] | Mapping[str, Any], base: Layer) -> Layer:
    """`base` with settings on top: "key=value" strings as from `--set`, or values by dotted key as from Python.

    A value is TOML; a bare word that is no TOML counts as a string, nothing at all (or None) removes the key. An
    integer part counts into an array: `towers.structure.augment.0.sigma=0.1`.

    Raises:
        RecipeError: with everything that cannot be understood.
    """
    problems: list[str] = []
    settings: list[tuple[tuple[str, ...], Any, Origin]] = []
    pairs = sets.items() if isinstance(sets, Mapping) else [_split(text, problems) for text in sets]
    for key, value in (pair for pair in pairs if pair is not None):
        origin = Origin(f"--set {key}" if not isinstance(sets, Mapping) else f"override {key}")
        try:
            settings.append((parse_key(key), value if isinstance(sets, Mapping) else _parse_value(value), origin))
        except ValueError as error:
            problems.append(f"{origin.text}: {error}")
    data: dict[str, Any] = {}
    origins: dict[KeyPath, Origin] = {}
    for parts, value, origin in settings:
        path = _indexed(parts, base.data)
        try:
            if _put_within(data, parts, value):
                path = _indexed(parts, data)
            else:
                _put(data, path, base.data, value if value is REMOVED else copy.deepcopy(value))
        except LookupError as error:
            problems.append(f"{origin.text}: {error.args[0]}")
            continue
        for length in range(1, len(path)):
            origins.setdefault(path[:length], attrs.evolve(origin, passing=True))
        origins = {p: o for p, o in origins.items() if p[: len(path)] != path} | {path: origin}
    if problems:
        raise RecipeError(problems)
    return merge(base, Layer(data, origins, base.name))


def parse_sets(sets: Sequence[str]) -> dict[str, Any]:
    """ "key=value" strings as values by dotted key.

    Raises:
        RecipeError: with everything that cannot be understood.
    """
    problems: list[str] = []
    found = {}
    for key, value in (pair for text in sets if (pair := _split(text, problems)) is not None):
        try:
            parse_key(key)
            parsed = _parse_value(value)
            found[key] = None if parsed is REMOVED else parsed
        except ValueError as error:
            problems.append(f"--set {key}: {error}")
    if problems:
        raise RecipeError(problems)
    return found


class _Removed:
    """Stands where a setting takes a key away."""


REMOVED = _Removed()


class _Patch(dict[int, Any]):
    """Changes to elements of an array, by their number."""


def _split(text: str, problems: list[str]) -> tuple[str, str] | None:
    key, equals, value = text.partition("=")
    if not equals:
        problems.append(f"--set {text}: write it as KEY=VALUE")
        return None
    return key.strip(), value.strip()


def _parse_value(text: str) -> Any:
    if not text:
        return REMOVED
    try:
        found = tomllib.loads(f"value = {text}")
        if found.keys() == {"value"}:
            return found["value"]
    except tomllib.TOMLDecodeError as error:
        if text[0] in "[{\"'":
            raise ValueError(f"{text} is not valid TOML (quote it against the shell): {error}") from error
    return text


def _indexed(parts: tuple[str, ...], data: Any) -> KeyPath:
    """Turn parts that stand where `data` has an array into integers."""
    path: list[str | int] = []
    for part in parts:
        index: str | int = int(part) if isinstance(data, list) and part.isdecimal() else part
        path.append(index)
        try:
            data = data[index]
        except (LookupError, TypeError):
            data = None
    return tuple(path)


def _put(data: Any, path: KeyPath, base: Any, value: Any) -> None:
    """Write `value` at `path` of the nested tables `data`; where `base` has an array, as a patch of that array."""
    for number, part in enumerate(path):
        if isinstance(part, int) and part >= len(base):
            raise LookupError(f"{dotted(path[:number])} has {len(base)} entries, counted from 0; there is no {part}")
        known = isinstance(part, int) or (isinstance(base, dict) and part in base)
        base = base[part] if known else None
        if number == len(path) - 1:
            data[part] = REMOVED if value is None else value
        else:
            if not isinstance(data.get(part), dict):
                data[part] = _Patch() if isinstance(path[number + 1], int) else {}
            data = data[part]


def _put_within(data: Any, parts: tuple[str, ...], value: Any) -> bool:
    """Write `value` into an array that an earlier setting gave as a whole; whether there is one on the way."""
    within = False
    for number, part in enumerate(parts):
        key: str | int = part
        if isinstance(data, list):
            within = True
            if not part.isdecimal() or int(part) >= len(data):
                raise LookupError(
                    f"{dotted(parts[:number])} has {len(data)} entries, counted from 0; there is no {part}"
                )
            key = int(part)
        elif not isinstance(data, dict):
            return False
        if number == len(parts) - 1:
            if within and (value is None or value is REMOVED):
                del data[key]
            elif within:
                data[key] = value
            return within
        if isinstance(data, dict) and key not in data:
            if not within:
                return False
            data[key] = {}
        data = data[key]
    return False


# -- merging -----------------------------------------------------------------------------------------------------


def _own_keys(table: type[Component]) -> frozenset[str]:
    return frozenset(a.name for a in attrs.fields(table)) - {"use", "options", "config"}


_KEPT: dict[KeyPath, frozenset[str]] = {
    ("dataset",): _own_keys(DatasetTable),
    ("objective",): _own_keys(ObjectiveTable),
}
"""Gentle's own settings, which stay when another component is chosen; the options of the former one go."""

_EXCLUSIVE: dict[KeyPath, tuple[tuple[frozenset[str], frozenset[str]], ...]] = {
    ("train",): (
        (frozenset({"steps"}), frozenset({"epochs"})),
        (frozenset({"proportional"}), frozenset({"paired_rows", "unpaired_rows"})),
    )
}
"""Either the one or the other: to set one of them takes away what a lower layer said about the other."""


def merge(base: Layer, over: Layer) -> Layer:
    """`over` on top of `base`: tables merge key by key, everything else (arrays too) is replaced."""
    origins = dict(base.origins)
    data = _merged(base.data, over.data, (), origins)
    for path, origin in over.origins.items():
        if not (origin.passing and path in origins):
            origins[path] = origin
    return Layer(data, origins, over.name)


def _merged(
    base: dict[str, Any], over: Mapping[str, Any], path: KeyPath, origins: dict[KeyPath, Origin]
) -> dict[str, Any]:
    if "use" in base and "use" in over and _short(base["use"]) != _short(over["use"]):
        gone = set(base) - _KEPT.get(path, frozenset()) - {"use"}
    else:
        gone = set()
        for one, other in _EXCLUSIVE.get(path, ()):
            for mine, theirs in ((one, other), (other, one)):
                if mine & over.keys() and not theirs & over.keys():
                    gone |= theirs & base.keys()
    gone |= {key for key, value in over.items() if value is REMOVED}
    for key in gone:
        _forget((*path, key), origins)
    result = {key: value for key, value in base.items() if key not in gone}
    for key, value in over.items():
        inner = (*path, key)
        present = result.get(key)
        if value is REMOVED:
            continue
        if isinstance(value, _Patch) and isinstance(present, list):
            result[key] = _patched(present, value, inner, origins)
        elif isinstance(value, dict) and isinstance(present, dict):
            result[key] = _merged(present, value, inner, origins)
        else:
            _forget(inner, origins)
            result[key] = _merged({}, value, inner, origins) if isinstance(value, dict) else value
    return result


def _patched(base: list[Any], over: _Patch, path: KeyPath, origins: dict[KeyPath, Origin]) -> list[Any]:
    result = list(base)
    for index, value in over.items():
        inner = (*path, index)
        if isinstance(value, dict) and isinstance(result[index], dict):
            result[index] = _merged(result[index], value, inner, origins)
        else:
            _forget(inner, origins)
            result[index] = value
    return [value for value in result if value is not REMOVED]


def _forget(path: KeyPath, origins: dict[KeyPath, Origin]) -> None:
    for known in [p for p in origins if p[: len(path)] == path]:
        del origins[known]


def _short(name: Any) -> str:
    return str(name).rpartition("/")[2]
