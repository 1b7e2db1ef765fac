"""`gentle plugins`: list, info, check."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

import click

from gentle_core.catalog import Catalog, Entry, Problem
from gentle_core.cli.common import LazyGroup, plugin_options, verbose_option
from gentle_core.errors import ComponentError
from gentle_core.recipe.options import option_rows
from gentle_core.specs import KINDS, ModalitySpec
from gentle_core.suggest import did_you_mean

Find = Callable[[], Catalog]


COMMANDS = {"check": ("gentle_core.cli.plugin_check:check", "Try what a plugin's components must keep.")}


@click.group(cls=LazyGroup, commands_at=COMMANDS)
def plugins() -> None:
    """Show what is installed, and what is broken."""


@plugins.command("list")
@click.option("--kind", type=click.Choice(list(KINDS)), help="Only components of this kind.")
@click.option("--by", type=click.Choice(["kind", "modality"]), default="kind", show_default=True, help="Grouping.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@plugin_options
@verbose_option
def list_(find_catalog: Find, kind: str | None, by: str, as_json: bool) -> None:
    """List every component as owner/name, and every plugin that cannot be used."""
    catalog = find_catalog()
    entries = [entry for entry in catalog if kind is None or entry.kind == kind]
    if as_json:
        click.echo(json.dumps(_as_json(catalog, entries), indent=1))
        return
    for line in _by_modality(catalog, entries) if by == "modality" else _by_kind(entries):
        click.echo(line)
    if catalog.problems:
        click.echo(f"\n{len(catalog.problems)} problem{'s' * (len(catalog.problems) > 1)}")
        for problem in catalog.problems:
            click.echo(f"  {problem}")


@plugins.command()
@click.argument("name")
@plugin_options
@verbose_option
def info(find_catalog: Find, name: str) -> None:
    """Show all about component NAME (owner/name), or about the plugin NAME: options, modality, licence, citation."""
    catalog = find_catalog()
    found = [e for e in catalog if name in (e.full_name, e.name)]
    plugin = next((p for p in catalog.plugins if name in (p.owner, p.distribution)), None)
    broken = [p for p in catalog.problems if name in (p.owner, p.distribution)]
    if not found and plugin is None and not broken:
        known = [e.full_name for e in catalog] + [e.name for e in catalog] + [p.owner for p in catalog.plugins]
        raise ComponentError(f"there is no component or plugin {name!r}{did_you_mean(name, known)}")
    if found:
        click.echo("\n\n".join("\n".join(_component(catalog, entry)) for entry in found))
        return
    if plugin is not None:
        click.echo(f"{plugin.owner}: {plugin.distribution} {plugin.version}, loaded in {plugin.seconds:.2f} s")
        for line in _by_kind([e for e in catalog if e.owner == plugin.owner]):
            click.echo(line)
    for problem in broken:
        click.echo(f"problem: {problem.what}; {problem.mend}")


# -- words -----------------------------------------------------------------------------------------------------------


def _modalities(spec: Any) -> tuple[str, ...]:
    if isinstance(spec, ModalitySpec):
        return spec.reads_as
    own = getattr(spec, "modality", None)
    return (own,) if own else tuple(getattr(spec, "modalities", ()))


def _columns(rows: list[tuple[str, str, str]]) -> list[str]:
    first, second = (max((len(row[i]) for row in rows), default=0) for i in (0, 1))
    return [f"  {a:<{first}}  {b:<{second}}  {c}".rstrip() for a, b, c in rows]


def _reads_or_acts_on(entry: Entry) -> str:
    named = ", ".join(_modalities(entry.spec))
    return f"reads as {named}" if named and entry.kind == "modality" else named


def _by_kind(entries: list[Entry]) -> list[str]:
    lines: list[str] = []
    for kind in KINDS:
        rows = [(e.full_name, _reads_or_acts_on(e), e.spec.summary) for e in entries if e.kind == kind]
        if rows:
            lines += [*([""] if lines else []), kind, *_columns(rows)]
    return lines


def _by_modality(catalog: Catalog, entries: list[Entry]) -> list[str]:
    """For each modality what yields it, reads it and acts on it; readers of a more general one count."""
    lines: list[str] = []
    for modality, summary in catalog.modalities().items():
        rows = []
        for entry in entries:
            if entry.kind in ("modality", "loss"):
                continue
            takes = _modalities(entry.spec)
            fits = modality in takes if entry.kind == "dataset" else any(catalog.reads(m, modality) for m in takes)
            if fits:
                rows.append((entry.kind, entry.full_name, entry.spec.summary))
        if rows:
            general = catalog.reads_as(modality)
            name = f"{modality} (reads as {', '.join(general)})" if general else modality
            lines += [*([""] if lines else []), f"{name}  {summary}".rstrip(), *_columns(rows)]
    return lines


def _component(catalog: Catalog, entry: Entry) -> Iterable[str]:
    spec = entry.spec
    yield f"{entry.full_name} ({entry.kind}) from {entry.distribution} {entry.version}".rstrip()
    yield f"  {spec.summary}"
    facts = [("reads as" if entry.kind == "modality" else "modalities", ", ".join(_modalities(spec)))]
    for name in ("needs", "scope", "stage", "requires", "licence", "citation", "target"):
        value = getattr(spec, name, "")
        facts.append((name, value if isinstance(value, str) else ", ".join(sorted(value))))
    if entry.kind == "dataset":
        readers = [
            e.full_name
            for e in catalog.entries("encoder")
            if any(catalog.reads(e.spec.modality, m) for m in spec.modalities)
        ]
        facts.append(("readers", ", ".join(readers)))
    for name, value in facts:
        if value:
            yield f"  {name:<10}  {value}"
    if entry.kind == "modality":
        return
    rows = option_rows(spec.config)
    yield "  options" if rows else "  it takes no options"
    for row in rows:
        yield f"    {row.name}: {row.type}" + ("" if row.required else f" = {row.default}")
        if row.text:
            yield f"        {row.text}"


def _as_json(catalog: Catalog, entries: list[Entry]) -> dict[str, Any]:
    def problem(one: Problem) -> dict[str, str]:
        return {"plugin": one.owner, "distribution": one.distribution, "version": one.version,
                "what": one.what, "mend": one.mend}  # fmt: skip

    return {
        "components": [
            {"name": e.full_name, "kind": e.kind, "modalities": list(_modalities(e.spec)), "summary": e.spec.summary,
             "distribution": e.distribution, "version": e.version,
             "licence": getattr(e.spec, "licence", "")}
            for e in entries
        ],
        "plugins": [
            {"owner": p.owner, "distribution": p.distribution, "version": p.version, "components": p.components,
             "seconds": round(p.seconds, 3)}
            for p in catalog.plugins
        ],
        "problems": [problem(p) for p in catalog.problems],
    }  # fmt: skip
