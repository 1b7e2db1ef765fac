"""`gentle baseline`"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gentle_core.catalog import Catalog
from gentle_core.cli.common import note_problems, plugin_options, set_option, verbose_option
from gentle_core.form_names import FORM_NAMES

if TYPE_CHECKING:
    from gentle_core.engine.baseline import BaselineResult


@click.command()
@click.argument("recipe", metavar="RECIPE|RUN")
@click.option("--out", type=click.Path(path_type=Path), help="The run directory [default: runs/<recipe>-<n>].")
@click.option(
    "--form", "forms", multiple=True, type=click.Choice(FORM_NAMES), help="Only this closed form; repeatable."
)
@click.option("--no-hubness", is_flag=True, help="Without corrections of hubness.")
@set_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@plugin_options
@verbose_option
def baseline(
    recipe: str,
    out: Path | None,
    forms: tuple[str, ...],
    no_hubness: bool,
    sets: tuple[str, ...],
    as_json: bool,
    find_catalog: Callable[[], Catalog],
) -> None:
    """Align the towers of RECIPE without training, by closed forms, and choose the best on validation (without a
    validation split: by training pairs that are held out in turn).

    Given the directory of a finished run instead, its trained encoders give the features. Forms that use the unmatched
    pools are taken only where validation favours them clearly. The result is a run directory: report, eval and embed
    work on it.

    \b
    Examples:
      gentle baseline recipes/protein.toml
      gentle baseline recipes/protein.toml --set dataset.paired=100 --form cca --form ot-em
      gentle baseline runs/protein-1 --set baseline.features=both
    """
    from gentle_core.recipe import free_directory, load_recipe

    catalog = find_catalog()
    note_problems(catalog)
    run = Path(recipe) if Path(recipe).is_dir() else None
    resolved = load_recipe(recipe if run is None else run / "resolved.toml", sets, catalog)
    if out is None:
        out = free_directory(resolved) if run is None else _beside(run)

    from gentle_core.engine.baseline import run_baselines
    from gentle_core.engine.progress import Display

    display = Display()
    display.say(f"run directory: {out}")
    result = run_baselines(resolved, out, display, forms=forms or FORM_NAMES, correct=not no_hubness, trained=run)
    if as_json:
        import json

        click.echo(json.dumps(result.as_json(), indent=1))
    else:
        show(result)


def _beside(run: Path) -> Path:
    """`RUN-baseline-1`, `-2`, …: the first that does not exist."""
    number = 1
    while (found := run.parent / f"{run.resolve().name}-baseline-{number}").exists():
        number += 1
    return found


def show(result: BaselineResult) -> None:
    """The table of all forms, the choice, and where things are."""
    splits = [name for name in result.lines[0].recall if name != "val"]
    width = max(len(line.label) for line in result.lines)
    click.echo("mean recall (R@1, 5, 10, both ways), percent")
    click.echo(f"  {'':<{width}}  {'pools':>5}  {'chosen on':>9}  " + "  ".join(f"{name:>6}" for name in splits))
    click.echo(f"  {'':<{width}}  {'used':>5}  {'val' if result.chosen_on == 'validation' else 'folds':>9}")
    for line in result.lines:
        mark = "→" if line.chosen else " "
        figures = "  ".join(f"{line.recall[name]:6.1f}" for name in splits)
        used = "yes" if line.uses_pools else "no"
        click.echo(f"{mark} {line.label:<{width}}  {used:>5}  {line.validation:9.1f}  {figures}")
    click.echo(result.reason)
    click.echo("settings: " + ", ".join(f"{key} = {value}" for key, value in result.settings.items()))
    click.echo(f"report: {result.report}")
