"""`gentle run`"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from gentle_core.catalog import Catalog
from gentle_core.cli.common import note_problems, plugin_options, set_option, verbose_option


@click.command()
@click.argument("recipe")
@click.option("--out", type=click.Path(path_type=Path), help="The run directory [default: runs/<recipe>-<n>].")
@set_option
@click.option(
    "--resume",
    default="never",
    metavar="auto|never|PATH",
    show_default=True,
    help="Go on from the newest intact checkpoint in --out (auto), or from the checkpoint at PATH.",
)
@plugin_options
@verbose_option
def run(recipe: str, out: Path | None, sets: tuple[str, ...], resume: str, find_catalog: Callable[[], Catalog]) -> None:
    """Train the towers of RECIPE, evaluate them, and write a report.

    \b
    Examples:
      gentle run recipes/protein.toml
      gentle run recipes/protein.toml --out runs/first --set train.steps=50 --set objective.eta=0
      gentle run recipes/protein.toml --out runs/first --resume auto
    """
    from gentle_core.recipe import load_recipe

    if resume != "never" and out is None:
        raise click.UsageError("--resume needs --out: the directory of the run to go on with")
    catalog = find_catalog()
    note_problems(catalog)
    resolved = load_recipe(recipe, sets, catalog)

    # The recipe is sound: only now pay for torch.
    from gentle_core.engine.progress import Display
    from gentle_core.engine.run import run_recipe

    run_recipe(resolved, out, resume, Display())
