"""Plain TOML values to typed attrs objects and back, strictly: nothing is coerced, every fault is found at once.

cattrs chooses the hook for a type; the hooks are ours, because its own turn "no" into True and ignore unknown keys.
"""

from __future__ import annotations

import datetime
import enum
import inspect
import math
import os
import types
from collections import abc
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import attrs
import cattrs

from gentle_core.recipe.lines import KeyPath
from gentle_core.recipe.model import Component
from gentle_core.suggest import close_to, did_you_mean, listed

Fault = tuple[KeyPath, str]
"""What is wrong, and where below the value that was read."""


class Invalid(Exception):
    """A value that does not fit; `faults` holds everything that is wrong with it."""

    def __init__(self, faults: str | Iterable[Fault]):
        self.faults: list[Fault] = [((), faults)] if isinstance(faults, str) else list(faults)
        super().__init__("; ".join(message for _, message in self.faults))


class Sourced(str):
    """A string out of a recipe that remembers the folder against which it counts if it turns out to be a path."""

    folder: Path

    @classmethod
    def of(cls, text: str, folder: Path) -> Sourced:
        made = cls(text)
        made.folder = folder
        return made


def structure(value: Any, wanted: Any) -> Any:
    """`value` as an object of type `wanted`.

    Raises:
        Invalid: with every fault in it.
    """
    return _converter.structure(value, wanted)


def structure_fields(table: Any, cls: type, faults: list[Fault]) -> dict[str, Any]:
    """The fields of attrs class `cls` that `table` gives soundly, by argument name; the rest is added to `faults`."""
    if not isinstance(table, Mapping):
        raise Invalid(_expected("a table", table))
    fields = {a.alias: a for a in attrs.fields(_with_types(cls)) if a.init}
    takes_options = issubclass(cls, Component)
    if takes_options:
        fields = {name: a for name, a in fields.items() if name not in ("options", "config")}
    good: dict[str, Any] = {}
    extra = {}
    for key, value in table.items():
        if (field := fields.get(key)) is not None:
            try:
                good[key] = _checked(cls, field, structure(value, field.type if field.type is not None else Any))
            except Invalid as error:
                faults += [((key, *path), message) for path, message in error.faults]
        elif takes_options:
            extra[key] = value
        else:
            faults.append(((key,), "unknown key" + did_you_mean(key, fields)))
    for name, field in fields.items():
        if field.default is attrs.NOTHING and name not in table:
            faults.append(((name,), _missing(name, [key for key in table if key not in fields])))
    if takes_options:
        good["options"] = extra
    return good


def make(cls: type, fields: Mapping[str, Any]) -> Any:
    """`cls(**fields)` of fields that are sound one by one.

    Raises:
        Invalid: they do not fit together.
    """
    try:
        return cls(**fields)
    except Invalid:
        raise
    except Exception as error:  # a check over several fields, in __attrs_post_init__
        raise Invalid(_said(error, "")) from error


def option_names(cls: type) -> list[str]:
    """The keys that attrs class `cls` takes."""
    return [a.alias for a in attrs.fields(cls) if a.init]


def plain(value: Any) -> Any:
    """Typed objects as what TOML can hold: the inverse of `structure`. None stands for an absent key."""
    if isinstance(value, Component):
        own = {a.alias: getattr(value, a.name) for a in attrs.fields(type(value))}
        options, config = own.pop("options"), own.pop("config")
        return _without_none(own) | (plain(options) if options or config is None else plain(config))
    if attrs.has(type(value)):
        kept = {}
        for field in attrs.fields(type(value)):
            inner = getattr(value, field.name)
            if inner is None and field.default not in (None, attrs.NOTHING):
                raise Invalid([((field.alias,), "None cannot be written down in TOML, and is not the default")])
            if field.init:
                kept[field.alias] = inner
        return _without_none(kept)
    if isinstance(value, Mapping):
        return _without_none(value)
    if isinstance(value, (set, frozenset)):
        return sorted(plain(item) for item in value)
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, enum.Enum):
        return plain(value.value)
    if isinstance(value, Path):
        return str(value)
    return str(value) if isinstance(value, str) else value


def _without_none(table: Mapping[str, Any]) -> dict[str, Any]:
    return {str(key): plain(value) for key, value in table.items() if value is not None}


# -- the words for what is wrong ----------------------------------------------------------------------------------


def _shown(value: Any) -> str:
    """A value as TOML writes it, with its type."""
    match value:
        case bool():
            return f"{str(value).lower()} (a boolean)"
        case str():
            return f"{value[:60]!r} (a string)"
        case int():
            return f"{value} (an integer)"
        case float():
            return f"{value} (a float)"
        case Mapping():
            return "a table"
        case list() | tuple():
            return "an array"
        case datetime.date() | datetime.time():
            return f"{value} (a date or time)"
    return f"{value!r}"


def _expected(what: str, value: Any) -> str:
    return f"should be {what}, not {_shown(value)}"


def _missing(name: str, strangers: list[str]) -> str:
    close = close_to(name, strangers)
    return f"is missing — is {listed(close)} meant for it?" if close else "is missing"


def _said(error: Exception, name: str) -> str:
    """The message of a validator or converter, without the field's name in front and on one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = text.removeprefix(f"'{name}' ").removeprefix(f"{name}=")
    if text.startswith("must be ") and ": " in text:  # attrs: "'p' must be >= 0: -1"
        head, _, tail = text.rpartition(": ")
        return f"{head}, not {tail}"
    return text


# -- hooks ----------------------------------------------------------------------------------------------------------


def _boolean(value: Any, _: Any) -> bool:
    if not isinstance(value, bool):
        raise Invalid(_expected("true or false", value))
    return value


def _integer(value: Any, _: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise Invalid(_expected("an integer", value))
    return value


def _float(value: Any, _: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Invalid(_expected("a number", value))
    if math.isnan(value):
        raise Invalid("should be a number, not nan")
    return float(value)


def _string(value: Any, _: Any) -> str:
    if not isinstance(value, str):
        raise Invalid(_expected("a string", value))
    return str(value)


def _path(value: Any, _: Any) -> Path:
    """Relative to the recipe that holds it, or to the working directory where it comes from elsewhere."""
    if not isinstance(value, (str, Path)) or not str(value) or "\0" in str(value):
        raise Invalid(_expected("a path", value))
    folder = value.folder if isinstance(value, Sourced) else Path.cwd()
    return Path(os.path.abspath(folder / Path(value).expanduser()))


def _anything(value: Any, _: Any) -> Any:
    return value


def _literal(value: Any, wanted: Any) -> Any:
    options = get_args(wanted)
    for option in options:
        if option == value and (type(option) is type(value) or isinstance(value, Sourced)):  # 1 is not True
            return option
    words = any(isinstance(option, str) for option in options)
    numbers = " or ".join(part for part in (", ".join(map(str, options[:-1])), str(options[-1])) if part)
    names = listed(map(str, options)) if words else numbers
    text = f"should be {names}, not {_shown(value)}"
    close = close_to(value, [o for o in options if isinstance(o, str)], 1) if isinstance(value, str) else []
    raise Invalid(text + (f" — did you mean {listed(close)}?" if close else ""))


def _enum(value: Any, wanted: Any) -> Any:
    _literal(value, Literal[tuple(member.value for member in wanted)])
    return wanted(value)


def _items(value: Iterable[tuple[Any, Any]], wanted: Callable[[int], Any]) -> list[Any]:
    """Structure the values of (key, value) pairs, collecting every fault under its key."""
    faults: list[Fault] = []
    made = []
    for number, (key, item) in enumerate(value):
        try:
            made.append(structure(item, wanted(number)))
        except Invalid as error:
            faults += [((key, *path), message) for path, message in error.faults]
    if faults:
        raise Invalid(faults)
    return made


def _sequence(value: Any, wanted: Any) -> Any:
    make = get_origin(wanted) or wanted
    if not isinstance(value, (list, tuple)):
        raise Invalid(_expected("an array", value))
    of = (get_args(wanted) or (Any,))[0]
    made = _items(enumerate(value), lambda _: of)
    if inspect.isabstract(make):  # Sequence, Iterable, Set, …
        return frozenset(made) if issubclass(make, abc.Set) else made
    return make(made)


def _tuple(value: Any, wanted: Any) -> tuple[Any, ...]:
    types_ = get_args(wanted) or (Any, ...)
    if not isinstance(value, (list, tuple)):
        raise Invalid(_expected("an array", value))
    if len(types_) == 2 and types_[1] is ...:
        return tuple(_items(enumerate(value), lambda _: types_[0]))
    if len(value) != len(types_):
        raise Invalid(f"should be an array of {len(types_)} values, not of {len(value)}")
    return tuple(_items(enumerate(value), lambda number: types_[number]))


def _mapping(value: Any, wanted: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise Invalid(_expected("a table", value))
    of = (get_args(wanted) or (str, Any))[1]
    return dict(zip((str(key) for key in value), _items(value.items(), lambda _: of), strict=True))


def _union(value: Any, wanted: Any) -> Any:
    """The first member that fits, the exact type before a wider one: 1 for `float | int` stays an integer."""
    members = get_args(wanted)
    if value is None and type(None) in members:
        return None
    members = tuple(m for m in members if m is not type(None))
    ordered = sorted(members, key=lambda m: type(value) is not m)
    faults: dict[Any, list[Fault]] = {}
    for member in ordered:
        try:
            return structure(value, member)
        except Invalid as error:
            faults[member] = error.faults
    deep = [found for found in faults.values() if any(path for path, _ in found)]
    if len(members) == 1 or len(deep) == 1:  # only one member was meant: its faults say more
        raise Invalid(deep[0] if deep else faults[members[0]])
    messages = dict.fromkeys(message for found in faults.values() for _, message in found)
    wants = {message.partition("should be ")[2].partition(", not ")[0] for message in messages}
    if "" in wants:
        raise Invalid("; ".join(messages))
    raise Invalid(_expected(" or ".join(sorted(wants)), value))


def _attrs(value: Any, cls: type) -> Any:
    if isinstance(value, cls):
        return value
    faults: list[Fault] = []
    good = structure_fields(value, cls, faults)
    if faults:
        raise Invalid(faults)
    return make(cls, good)


def _checked(cls: type, field: attrs.Attribute[Any], value: Any) -> Any:
    """`value`, if the field's own converter and validator accept it: asked one by one so that every fault is found."""
    try:
        converted = field.converter(value) if callable(field.converter) else value
        if field.validator is not None:
            field.validator(None, field, converted)
    except (TypeError, ValueError) as error:
        raise Invalid(_said(error, field.name)) from error
    except AttributeError:
        pass  # a validator that looks at the instance; it runs when the object is made
    return value


def _with_types(cls: type) -> type:
    try:
        return attrs.resolve_types(cls)
    except NameError as error:
        raise TypeError(f"annotations of {cls.__module__}.{cls.__qualname__} cannot be resolved: {error}") from error


def _origin_in(*origins: Any) -> Callable[[Any], bool]:
    return lambda wanted: (get_origin(wanted) or wanted) in origins


def _is_enum(wanted: Any) -> bool:
    return isinstance(wanted, type) and issubclass(wanted, enum.Enum)


def _make_converter() -> cattrs.Converter:
    converter = cattrs.Converter(detailed_validation=False)
    # Later predicates are asked first.
    converter.register_structure_hook_func(attrs.has, _attrs)
    converter.register_structure_hook_func(_is_enum, _enum)
    converter.register_structure_hook_func(_origin_in(dict, abc.Mapping, abc.MutableMapping), _mapping)
    sequences = (list, set, frozenset, abc.Sequence, abc.Iterable, abc.Collection, abc.Set)
    converter.register_structure_hook_func(_origin_in(*sequences), _sequence)
    converter.register_structure_hook_func(_origin_in(tuple), _tuple)
    converter.register_structure_hook_func(_origin_in(Literal), _literal)
    converter.register_structure_hook_func(_origin_in(Union, types.UnionType), _union)
    converter.register_structure_hook_func(lambda wanted: wanted is Any, _anything)
    for scalar, hook in ((bool, _boolean), (int, _integer), (float, _float), (str, _string), (Path, _path)):
        converter.register_structure_hook(scalar, hook)
    return converter


_converter = _make_converter()
