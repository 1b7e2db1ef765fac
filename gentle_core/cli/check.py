"""`gentle check`"""

from __future__ import annotations

from collections.abc import Callable

import click

from gentle_core.catalog import Catalog
from gentle_core.cli.common import note_problems, plugin_options, set_option, verbose_option, warn


@click.command()
@click.argument("recipe")
@set_option
@click.option("--data/--no-data", default=True, help="Count the dataset's pairs and pools, or leave the data alone.")
@click.option("--resolved", is_flag=True, help="Print the resolved recipe instead: full names, every default.")
@plugin_options
@verbose_option
def check(recipe: str, sets: tuple[str, ...], data: bool, resolved: bool, find_catalog: Callable[[], Catalog]) -> None:
    """Say what a run of RECIPE would do, or everything that is wrong with it. Trains nothing and loads no model.

    \b
    Example:
      gentle check recipes/protein.toml --set train.batch_size=128
    """
    from gentle_core.recipe import load_recipe

    catalog = find_catalog()
    note_problems(catalog)
    found = load_recipe(recipe, sets, catalog)
    for warning in found.warnings:
        warn(warning)
    if resolved:
        click.echo(found.to_toml(), nl=False)
        return

    from gentle_core.cli.plan import describe

    for line in describe(found, data=data, notify=warn, progress=lambda said: click.echo(said, err=True)):
        click.echo(line)
