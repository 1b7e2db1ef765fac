"""A JSON schema (draft 7) of the recipes that the installed plugins make possible, for editors and other tools.

It knows every table, every component by its names with its options, their types, defaults, bounds and texts. What holds
between tables (modalities that fit, needs of an objective) is left to `gentle check`.
"""

from __future__ import annotations

import enum
import inspect
import operator
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import attrs

from gentle_core.catalog import Catalog, Entry
from gentle_core.recipe import model
from gentle_core.recipe.options import attribute_texts, option_rows
from gentle_core.recipe.structure import plain

Schema = dict[str, Any]

DRAFT = "http://json-schema.org/draft-07/schema#"
_BOUNDS = {
    operator.ge: "minimum", operator.gt: "exclusiveMinimum", operator.le: "maximum", operator.lt: "exclusiveMaximum",
}  # fmt: skip
_TABLES: dict[str, type[model.Component]] = {
    "dataset": model.DatasetTable,
    "encoder": model.EncoderTable,
    "augmentation": model.Component,
    "loss": model.ObjectiveTable,
}
_OWN = ("options", "config")


def recipe_schema(catalog: Catalog) -> Schema:
    """The schema of a recipe file, with one definition for each component."""
    definitions: Schema = {}
    for kind, table in _TABLES.items():
        for entry in catalog.entries(kind):
            definitions[_key(entry)] = _component(entry, table, catalog)
    definitions["tower"] = _tower(catalog)
    properties = {
        f.name: type_schema(f.type) for f in attrs.fields(attrs.resolve_types(model.Recipe)) if f.name not in _PARTS
    }
    properties |= {
        "extends": {
            "description": "A file, or a list of files, whose values are taken over.",
            "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
        },
        "dataset": _named(catalog, "dataset"),
        "towers": {"type": "object", "additionalProperties": {"$ref": "#/definitions/tower"}},
        "objective": _named(catalog, "loss"),
    }
    return {
        "$schema": DRAFT,
        "title": "A recipe of Gentle",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "definitions": definitions,
        # A file that extends another one may leave out anything; one that stands alone names its parts.
        "if": {"not": {"required": ["extends"]}},
        "then": {"required": ["dataset", "towers", "train"], "properties": _whole(catalog)},
    }


_PARTS = ("dataset", "towers", "objective")


def _whole(catalog: Catalog) -> Schema:
    needs_use = {"required": ["use"]}
    default = catalog.get("loss", model.ObjectiveTable().use)
    return {
        "dataset": needs_use,
        "train": {"anyOf": [{"required": ["steps"]}, {"required": ["epochs"]}]},
        "objective": {"if": {"not": needs_use}, "then": {"$ref": f"#/definitions/{_key(default)}"}},
        "towers": {
            "minProperties": 1,
            "additionalProperties": {
                "required": ["modality", "encoder"],
                "properties": {"encoder": needs_use, "augment": {"items": needs_use}},
            },
        },
    }


def _tower(catalog: Catalog) -> Schema:
    """A tower; which encoders and augmentations it may name depends on its modality."""
    modalities = catalog.modalities()
    fields = _fields(model.TowerTable)
    return _closed(
        {
            **fields,
            "modality": {
                "description": "The kind of data that the tower reads.",
                "anyOf": [_constant(name, text) for name, text in modalities.items()],
            },
            "encoder": _named(catalog, "encoder"),
            "augment": {"type": "array", "items": _named(catalog, "augmentation")},
        }
    ) | {"allOf": [_fitting(catalog, modality) for modality in modalities]}


def _fitting(catalog: Catalog, modality: str) -> Schema:
    encoders, augmentations = (
        {"properties": {"use": {"enum": _names(catalog, catalog.that_take(kind, modality))}}}
        for kind in ("encoder", "augmentation")
    )
    return {
        "if": {"required": ["modality"], "properties": {"modality": {"const": modality}}},
        "then": {"properties": {"encoder": encoders, "augment": {"items": augmentations}}},
    }


def _named(catalog: Catalog, kind: str) -> Schema:
    """A table that names a component of this kind (or, in a recipe that extends another, changes its options)."""
    ways: list[Schema] = [{"$ref": f"#/definitions/{_key(entry)}"} for entry in catalog.entries(kind)]
    return {"type": "object", "anyOf": [*ways, {"not": {"required": ["use"]}}]}


def _component(entry: Entry, table: type[model.Component], catalog: Catalog) -> Schema:
    """Gentle's own keys beside the options of the component."""
    own = {name: schema for name, schema in _fields(table).items() if name not in _OWN}
    own["use"] = {"description": entry.spec.summary, "enum": _names(catalog, [entry])}
    if table is model.DatasetTable:  # among the numbers it may hold further datasets, of any name
        numbers: list[Schema] = [{"type": "number"}]
        further = {"type": "array", "items": {"anyOf": [*numbers, _named(catalog, "dataset")]}}
        own["unpaired"] |= {"anyOf": [*numbers, further]}
    options = _fields(entry.spec.config)
    required = [row.name for row in option_rows(entry.spec.config) if row.required]
    about = {"title": entry.full_name, "description": entry.spec.summary}
    return _closed({**own, **options}, ["use", *required]) | about


def _names(catalog: Catalog, entries: Iterable[Entry]) -> list[str]:
    """The names by which a recipe may call them: the bare one too, while it is unique."""
    found = []
    for entry in entries:
        same = [other for other in catalog.entries(entry.kind) if other.name == entry.name]
        found += [entry.full_name, entry.name] if len(same) == 1 else [entry.full_name]
    return found


def _key(entry: Entry) -> str:
    return f"{entry.kind}.{entry.full_name.replace('/', '.')}"


# -- types ---------------------------------------------------------------------------------------------------------


def _fields(cls: type) -> Schema:
    """The keys of an attrs class, with texts, defaults and bounds."""
    texts: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        texts |= attribute_texts(inspect.cleandoc(base.__doc__ or ""))
    found = {}
    for field in attrs.fields(attrs.resolve_types(cls)):
        if not field.init:
            continue
        schema = type_schema(field.type) | _bounds(field.validator)
        if field.name in texts:
            schema["description"] = texts[field.name]
        if (default := _default(field)) is not None:
            schema["default"] = default
        found[field.alias] = schema
    return found


def type_schema(wanted: Any) -> Schema:
    """The values that a recipe may give where this type is wanted."""
    origin, inner = get_origin(wanted), get_args(wanted)
    if origin in (Union, types.UnionType):
        members = [type_schema(member) for member in inner if member is not type(None)]
        return members[0] if len(members) == 1 else {"anyOf": members}
    if origin is Literal:
        return {"enum": list(inner)}
    if origin is tuple and inner and inner[-1] is not ...:
        items = [type_schema(member) for member in inner]
        return {"type": "array", "items": items, "minItems": len(items), "maxItems": len(items)}
    if isinstance(origin or wanted, type) and issubclass(origin or wanted, Mapping):
        values = type_schema(inner[1]) if len(inner) == 2 else {}
        return {"type": "object", "additionalProperties": values or True}
    if origin is not None or wanted in (list, tuple, set, frozenset):
        return {"type": "array", **({"items": type_schema(inner[0])} if inner else {})}
    simple = {bool: "boolean", int: "integer", float: "number", str: "string", Path: "string"}
    if wanted in simple:
        return {"type": simple[wanted]}
    if isinstance(wanted, type) and issubclass(wanted, enum.Enum):
        return {"enum": [member.value for member in wanted]}
    if isinstance(wanted, type) and issubclass(wanted, model.Component):
        return {"type": "object", "required": ["use"], "properties": {"use": {"type": "string"}}}
    if isinstance(wanted, type) and attrs.has(wanted):
        rows = option_rows(wanted)
        return _closed(_fields(wanted), [row.name for row in rows if row.required])
    return {}


def _bounds(validator: Any) -> Schema:
    """Bounds and choices, as far as attrs' own validators state them."""
    if validator is None:
        return {}
    if (parts := getattr(validator, "_validators", None)) is not None:
        return {key: value for part in parts for key, value in _bounds(part).items()}
    compare, bound = getattr(validator, "compare_func", None), getattr(validator, "bound", None)
    if compare in _BOUNDS and isinstance(bound, (int, float)):
        return {_BOUNDS[compare]: bound}
    if (inner := getattr(validator, "validator", None)) is not None:  # optional(…)
        return _bounds(inner)
    if isinstance(length := getattr(validator, "min_length", None), int):
        return {"minItems": length}
    return {}


def _default(field: attrs.Attribute[Any]) -> Any:
    default = field.default
    if default is attrs.NOTHING or default is None:
        return None
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
        if default.takes_self:
            return None
        default = default.factory()
    return plain(default)


def _constant(value: str, text: str) -> Schema:
    return {"const": value, "description": text} if text else {"const": value}


def _closed(properties: Schema, required: Iterable[str] = ()) -> Schema:
    schema: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return schema | ({"required": list(required)} if required else {})
