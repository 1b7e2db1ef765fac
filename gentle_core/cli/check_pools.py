"""`gentle check-pools`"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from gentle_core.catalog import Catalog
from gentle_core.cli.common import note_problems, plugin_options, set_option, verbose_option

if TYPE_CHECKING:
    from gentle_core.engine.check_pools import PoolReport


@click.command("check-pools")
@click.argument("recipe")
@set_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@plugin_options
@verbose_option
def check_pools(recipe: str, sets: tuple[str, ...], as_json: bool, find_catalog: Callable[[], Catalog]) -> None:
    """Say whether the unmatched pools of RECIPE resemble its pairs, and what to expect of them.

    Each tower's pool is compared with its paired items on encoder features: by a classifier, by MMD with a permutation
    test, and by SDD beside its floor. Nothing is trained, and no pairing within the pools is used.

    \b
    Example:
      gentle check-pools recipes/protein.toml --set dataset.paired=100
    """
    from gentle_core.recipe import load_recipe

    catalog = find_catalog()
    note_problems(catalog)
    resolved = load_recipe(recipe, sets, catalog)

    from gentle_core.engine.check_pools import check_pools as look

    report = look(resolved)
    if as_json:
        import json

        click.echo(json.dumps(report.as_json(), indent=1))
    else:
        show(report)


def show(report: PoolReport) -> None:
    """A line a tower, and what to expect."""
    width = max([len(check.tower) for check in report.towers] + [5])
    if report.towers:
        head = ("paired", 7), ("pool", 8), ("AUC", 11), ("MMD² (by chance)", 17), ("p", 6), ("SDD (floor)", 18)
        click.echo(" " * width + "".join(f"  {name:>{size}}" for name, size in head))
    for check in report.towers:
        gap, told = check.discrepancy, check.separation
        click.echo(
            f"{check.tower:<{width}}  {check.pairs:>7}  {check.pool:>8}  {told.auc:>5.2f} ± {told.noise:.2f}"
            f"  {gap.value:>8.4f} ({gap.expected:.4f})  {gap.p:>6.3f}  {check.density:>8.2e} ({check.floor:.1e})"
        )
    for check in report.towers:
        click.echo(check.sentence[0].upper() + check.sentence[1:] + ".")
    click.echo(report.expectation)
