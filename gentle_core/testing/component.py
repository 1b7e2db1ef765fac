"""Checks that hold for a component of any kind; those of its description load no torch."""

from __future__ import annotations

import re
from typing import Any

import attrs
import tomli_w

from gentle_core.recipe.load import component_config
from gentle_core.recipe.model import Component, DatasetTable, EncoderTable, ObjectiveTable
from gentle_core.recipe.options import option_rows
from gentle_core.recipe.structure import option_names, plain
from gentle_core.suggest import did_you_mean
from gentle_core.testing.bench import Subject, imported
from gentle_core.testing.cases import CHECKS, Violation, check
from gentle_core.testing.plugin import citation_of, licence_of

_SUMMARY = 120
_TABLES: dict[str, type] = {"encoder": EncoderTable, "dataset": DatasetTable, "loss": ObjectiveTable}
_SPDX = re.compile(r"[A-Za-z0-9.+:()-]+(?: (?:AND|OR|WITH) [A-Za-z0-9.+:()-]+)*")


@check("component", "summary", quick=True)
def summary(subject: Subject) -> None:
    """Its summary is one line that says what it is."""
    text = subject.spec.summary
    if not text.strip() or "\n" in text or len(text) > _SUMMARY:
        state = "empty" if not text.strip() else f"{len(text)} characters on {text.count(chr(10)) + 1} lines"
        raise Violation(f"its summary is {state}", f"give the spec one line of at most {_SUMMARY} characters")


check("modality", "summary", quick=True)(summary)


@check("component", "documented", quick=True)
def documented(subject: Subject) -> None:
    """Every option is explained where `gentle plugins info` finds it."""
    config = subject.spec.config
    silent = [row.name for row in option_rows(config) if not row.text]
    if silent:
        raise Violation(
            f"{config.__name__} says nothing about {', '.join(silent)}",
            'give its docstring a section "Attributes:" with a line "    name: what it does." for each option',
        )


@check("component", "licence", quick=True)
def licence(subject: Subject) -> None:
    """It says under which licence its code, weights or data may be used."""
    if not licence_of(subject):
        raise Violation(
            "neither its spec nor its distribution names a licence",
            'give the spec licence="MIT" (an SPDX expression; for weights or data, theirs)',
        )
    if subject.spec.licence and not _SPDX.fullmatch(subject.spec.licence):
        raise Violation(
            f"licence={subject.spec.licence!r} is no SPDX expression",
            'write "MIT", "Apache-2.0", "CC-BY-4.0", "LicenseRef-…" for others; conditions belong in the docs',
        )


@check("component", "citation", quick=True)
def citation(subject: Subject) -> None:
    """It says whom to cite, or at least whose it is."""
    if not citation_of(subject):
        raise Violation(
            "its spec has no citation, and its distribution names neither authors nor a home page",
            "give the spec citation=…, or [project] in pyproject.toml authors or urls",
        )


@check("component", "options", quick=True)
def options(subject: Subject) -> None:
    """Its options survive TOML and back, and a wrong one is refused."""
    cls = subject.spec.config
    taken = set(option_names(cls)) & (set(option_names(_TABLES.get(subject.entry.kind, Component))) - {"config"})
    if taken:
        raise Violation(
            f"its options {', '.join(sorted(taken))} bear the names of Gentle's own keys in this table", "rename them"
        )
    config = subject.config()
    try:
        written = plain(config)
        tomli_w.dumps(written)
        again = component_config(subject.entry, written)
    except Exception as error:
        raise Violation(
            f"{config!r} cannot be written as TOML and read again: {error}",
            "use typed fields of bool, int, float, str, Path, Literal, tuples, mappings and attrs classes of these",
        ) from error
    if not _same(again, config):
        raise Violation(
            f"{config!r} comes back from TOML as {again!r}",
            "let converters accept their own results, and give the class the equality that attrs makes",
        )
    _refuses_strangers(subject, written)


def _refuses_strangers(subject: Subject, written: dict[str, Any]) -> None:
    from gentle_core.errors import RecipeError

    for row in option_rows(subject.spec.config):
        if row.type == "anything":
            raise Violation(
                f"option {row.name!r} has no type, so that a recipe's mistakes go unnoticed",
                f"annotate {subject.spec.config.__name__}.{row.name}",
            )
        try:
            component_config(subject.entry, {**written, row.name: _Stranger()})
        except RecipeError:
            continue
        raise Violation(f"option {row.name!r} takes anything at all", f"annotate it with a type ({row.type} is none)")


class _Stranger:
    """A value that no option can want."""


def _same(a: Any, b: Any) -> bool:
    try:
        return bool(a == b)
    except ValueError:  # arrays
        return repr(a) == repr(b)


@check("component", "target")
def target(subject: Subject) -> None:
    """Its target can be imported and called."""
    named = subject.spec.target
    try:
        factory = imported(named)
    except Exception as error:
        raise Violation(
            f"target={named!r} cannot be imported: {type(error).__name__}: {error}",
            "write 'package.module:factory', and declare what it imports in the package's dependencies",
        ) from error
    if not callable(factory):
        raise Violation(f"target={named!r} is {type(factory).__name__}", "name a function (config, context)")


@check("component", "deviations", quick=True)
def deviations(subject: Subject) -> None:
    """The deviations that it declares are those of checks that there are."""
    known = [c.name for c in CHECKS if c.kind in ("component", subject.entry.kind)]
    if not any(c.kind == subject.entry.kind for c in CHECKS):
        return  # only the quick checks are loaded
    for name, reason in subject.spec.deviations.items():
        if name not in known:
            raise Violation(f"deviations name {name!r}, which is no check{did_you_mean(name, known)}", "mend the name")
        if not reason.strip():
            raise Violation(f"the deviation {name!r} gives no reason", "say why it is meant to be so")


def unreadable(subject: Subject) -> list[str]:
    """The options of a component that hold a path."""
    return [f.alias for f in attrs.fields(attrs.resolve_types(subject.spec.config)) if "Path" in str(f.type)]
