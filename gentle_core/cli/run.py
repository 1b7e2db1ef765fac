"""`gentle run`"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gentle_core.catalog import Catalog
from gentle_core.cli.common import F, note_problems, plugin_options, set_option, verbose_option

if TYPE_CHECKING:
    from gentle_core.recipe import Resolved


def run_options(function: F) -> F:
    """RECIPE and the options of `gentle run`."""
    decorators: list[Callable[[Any], Any]] = [
        click.argument("recipe"),
        click.option("--out", type=click.Path(path_type=Path), help="The run directory [default: runs/<recipe>-<n>]."),
        set_option,
        click.option(
            "--resume",
            default="never",
            metavar="auto|never|PATH",
            show_default=True,
            help="Go on from the newest intact checkpoint in --out (auto), or from the checkpoint at PATH.",
        ),
        click.option("--profile", is_flag=True, help="Also write a trace of a few steps, profile/trace.json."),
        plugin_options,
        verbose_option,
    ]
    wrapped: Any = function
    for decorator in reversed(decorators):
        wrapped = decorator(wrapped)
    return wrapped


def checked(
    recipe: str, out: Path | None, sets: Sequence[str], resume: str, find_catalog: Callable[[], Catalog]
) -> Resolved:
    """The recipe, resolved; complains of what can be known before torch is loaded."""
    from gentle_core.recipe import load_recipe

    if resume != "never" and out is None:
        raise click.UsageError("--resume needs --out: the directory of the run to go on with")
    catalog = find_catalog()
    note_problems(catalog)
    return load_recipe(recipe, sets, catalog)


@click.command()
@run_options
def run(
    recipe: str,
    out: Path | None,
    sets: tuple[str, ...],
    resume: str,
    profile: bool,
    find_catalog: Callable[[], Catalog],
) -> None:
    """Train the towers of RECIPE, evaluate them, and write a report.

    Under torchrun, deepspeed or srun this process is one of several that share the work; see also `gentle launch`.

    \b
    Examples:
      gentle run recipes/protein.toml
      gentle run recipes/protein.toml --out runs/first --set train.steps=50 --set objective.eta=0
      gentle run recipes/protein.toml --out runs/first --resume auto
    """
    resolved = checked(recipe, out, sets, resume, find_catalog)

    # The recipe is sound: only now pay for torch.
    from gentle_core.engine.progress import Display
    from gentle_core.engine.run import run_recipe

    run_recipe(resolved, out, resume, Display(), profile=profile)
