"""`gentle plugins`: list, info, check."""

from __future__ import annotations

import json
from collections.abc import Callable

import click

from gentle_core.catalog import Catalog
from gentle_core.cli.common import LazyGroup, plugin_options, verbose_option
from gentle_core.cli.plugin_words import as_json, by_kind, by_modality, component_lines
from gentle_core.errors import ComponentError
from gentle_core.specs import KINDS
from gentle_core.suggest import did_you_mean

Find = Callable[[], Catalog]


COMMANDS = {"check": ("gentle_core.cli.plugin_check:check", "Try what a plugin's components must keep.")}


@click.group(cls=LazyGroup, commands_at=COMMANDS)
def plugins() -> None:
    """Show what is installed, and what is broken."""


@plugins.command("list")
@click.option("--kind", type=click.Choice(list(KINDS)), help="Only components of this kind.")
@click.option("--by", type=click.Choice(["kind", "modality"]), default="kind", show_default=True, help="Grouping.")
@click.option("--json", "print_json", is_flag=True, help="Print JSON.")
@plugin_options
@verbose_option
def list_(find_catalog: Find, kind: str | None, by: str, print_json: bool) -> None:
    """List every component as owner/name, and every plugin that cannot be used."""
    catalog = find_catalog()
    entries = [entry for entry in catalog if kind is None or entry.kind == kind]
    if print_json:
        click.echo(json.dumps(as_json(catalog, entries), indent=1))
        return
    for line in by_modality(catalog, entries) if by == "modality" else by_kind(entries):
        click.echo(line)
    if catalog.problems:
        click.echo(f"\n{len(catalog.problems)} problem{'s' * (len(catalog.problems) > 1)}")
        for problem in catalog.problems:
            click.echo(f"  {problem}")


@plugins.command()
@click.argument("name")
@click.option("--markdown", is_flag=True, help="Print a page of reference about the whole plugin NAME.")
@plugin_options
@verbose_option
def info(find_catalog: Find, name: str, markdown: bool) -> None:
    """Show all about component NAME (owner/name), or about the plugin NAME: options, modality, licence, citation."""
    catalog = find_catalog()
    if markdown:
        from gentle_core.cli.plugin_page import plugin_page

        click.echo(plugin_page(catalog, name), nl=False)
        return
    found = [e for e in catalog if name in (e.full_name, e.name)]
    plugin = next((p for p in catalog.plugins if name in (p.owner, p.distribution)), None)
    broken = [p for p in catalog.problems if name in (p.owner, p.distribution)]
    if not found and plugin is None and not broken:
        known = [e.full_name for e in catalog] + [e.name for e in catalog] + [p.owner for p in catalog.plugins]
        raise ComponentError(f"there is no component or plugin {name!r}{did_you_mean(name, known)}")
    if found:
        click.echo("\n\n".join("\n".join(component_lines(catalog, entry)) for entry in found))
        return
    if plugin is not None:
        click.echo(f"{plugin.owner}: {plugin.distribution} {plugin.version}, loaded in {plugin.seconds:.2f} s")
        for line in by_kind([e for e in catalog if e.owner == plugin.owner]):
            click.echo(line)
    for problem in broken:
        click.echo(f"problem: {problem.what}; {problem.mend}")
