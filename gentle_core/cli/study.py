"""`gentle study`"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gentle_core.cli.common import note_problems, set_option, verbose_option
from gentle_core.errors import GentleError


@click.command()
@click.argument("study", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="The study's folder [default: studies/<study>].")
@click.option("--processes", type=click.IntRange(1), help="Runs at a time [default: as the study says].")
@set_option
@click.option("--dry-run", is_flag=True, help="Say which runs there would be, and stop.")
@click.option("--plugin", "files", multiple=True, metavar="FILE", help="Also load a single-file plugin.")
@click.option("--no-plugins", is_flag=True, help="Load no installed plugin, the core's components alone.")
@verbose_option
def study(
    study: Path,
    out: Path | None,
    processes: int | None,
    sets: tuple[str, ...],
    dry_run: bool,
    files: tuple[str, ...],
    no_plugins: bool,
) -> None:
    """Compare methods over numbers of pairs and seeds, pair by pair, with controls.

    STUDY is a TOML file: a recipe, the methods as changes to it, how many pairs, how many seeds. What has finished is
    not run again: the same command goes on where it was broken off.

    \b
    Examples:
      gentle study pools.toml --dry-run
      gentle study pools.toml --processes 2
      gentle study scenes.toml --set dataset.path=../data/RSICD
    """
    from gentle_core.plugins import discover
    from gentle_core.study.model import read_study
    from gentle_core.study.plan import folder_of, make_plan

    catalog = discover(enabled=not no_plugins, files=files)
    note_problems(catalog)
    plan = make_plan(read_study(study, sets), catalog)
    root = folder_of(plan.study, out)
    if dry_run:
        _say(plan)
        return

    # The study and all its recipes are sound: only now pay for torch.
    from gentle_core.engine.progress import Display
    from gentle_core.study.execute import Workers
    from gentle_core.study.run import run_study, summary, unfinished

    table = plan.study.table
    display = Display()
    display.say(f"study: {root}")
    results = run_study(plan, Workers(root, processes or table.processes, files, not no_plugins), display)
    for line in summary(results, root):
        display.say(line)
    if failed := unfinished(results):
        raise GentleError(failed)


def _say(plan: Any) -> None:
    """The runs, counted."""
    table, searches = plan.study.table, plan.searches()
    finals = len(plan.variants) * len(plan.levels) * len(table.each_seed)
    click.echo(f"{plan.study.title}: {len(searches)} runs of a search, {finals} runs that are compared")
    for variant in plan.variants.values():
        tried = len(variant.grid())
        click.echo(f"  {variant.name}: {variant.label}" + (f" ({tried} combinations searched)" if tried > 1 else ""))
    click.echo(f"  pairs: {', '.join(map(str, plan.levels))}; seeds: {', '.join(map(str, table.each_seed))}")
