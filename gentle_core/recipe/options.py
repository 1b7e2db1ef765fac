"""The options of a config class as rows for people: name, type, default, and what its docstring says."""

from __future__ import annotations

import inspect
import json
import re
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import attrs

from gentle_core.recipe.structure import plain


@attrs.frozen
class Option:
    """One key of a component's table."""

    name: str
    type: str
    required: bool
    default: str
    text: str


def option_rows(config: type) -> list[Option]:
    """The options of attrs class `config`, in their order."""
    texts: dict[str, str] = {}
    for cls in reversed(config.__mro__):  # what a base class says of its options holds for the classes made of it
        texts |= attribute_texts(inspect.cleandoc(cls.__doc__ or ""))
    rows = []
    for field in attrs.fields(attrs.resolve_types(config)):
        if field.init:
            required = field.default is attrs.NOTHING
            default = "" if required else _default(field.default)
            rows.append(Option(field.alias, type_name(field.type), required, default, texts.get(field.name, "")))
    return rows


def attribute_texts(docstring: str) -> dict[str, str]:
    """Names and texts of the "Attributes:" section; `a, b: text` speaks of both.

    A class with one or two options may say it in passing: "`p`: chance of …", "`level` is the split …".
    """
    head, _, section = docstring.partition("Attributes:\n")
    found: dict[str, str] = {}
    for match in re.finditer(r"(?:^|\. )`(\w+)`(?::| is) (.+?)(?=\.(?: `|$)|\n\n|$)", " ".join(head.split())):
        found[match[1]] = match[2]
    names: list[str] = []
    for line in section.splitlines():
        entry = re.match(r"    (\w+(?:, \w+)*): (.*)", line)
        if entry:
            names = entry[1].split(", ")
            found |= dict.fromkeys(names, entry[2])
        elif line.startswith("        ") and names:
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
        elif line.strip():
            break
    return found


def type_name(wanted: Any) -> str:
    """A type in words a recipe's author knows: "integer or 'auto'"."""
    origin, inner = get_origin(wanted), get_args(wanted)
    if origin in (Union, types.UnionType):
        return " or ".join(type_name(member) for member in inner if member is not type(None))
    if origin is Literal:
        return " or ".join(repr(option) for option in inner)
    if origin is tuple and inner and inner[-1] is not ...:
        return f"array of {len(inner)}: {', '.join(type_name(member) for member in inner)}"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "table"
    if origin is not None:
        return f"array of {type_name(inner[0])}" if inner else "array"
    words = {bool: "true or false", int: "integer", float: "number", str: "string", Path: "path", Any: "anything"}
    if wanted in words:
        return words[wanted]
    if isinstance(wanted, type) and attrs.has(wanted):
        keys = ", ".join(f.alias for f in attrs.fields(wanted) if f.init)
        return f"table {{ {keys} }}"
    return getattr(wanted, "__name__", str(wanted))


def _default(default: Any) -> str:
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
        if default.takes_self:
            return "(depends on the other options)"
        default = default.factory()
    if default is None:
        return "(none)"
    return str(default).lower() if isinstance(default, bool) else json.dumps(plain(default), ensure_ascii=False)
