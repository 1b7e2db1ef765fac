"""`gentle eval`"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from gentle_core.catalog import Catalog
from gentle_core.cli.common import note_problems, plugin_options, set_option, verbose_option
from gentle_core.errors import DataError
from gentle_core.recipe.load import load_component


@click.command("eval")
@click.argument("directory", metavar="RUN", type=click.Path(path_type=Path))
@click.argument("task")
@set_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.option("--device", default="cpu", show_default=True, help="Where the towers run: cpu, cuda, cuda:1, mps.")
@plugin_options
@verbose_option
def evaluate(
    directory: Path, task: str, sets: tuple[str, ...], as_json: bool, device: str, find_catalog: Callable[[], Catalog]
) -> None:
    """Evaluate the model of the finished run RUN on TASK, a component of kind "task".

    \b
    Example:
      gentle eval runs/protein-1 protein/fold --set path=data/fold
    """
    if not directory.is_dir():
        raise DataError(f"there is no run directory {directory}")
    catalog = find_catalog()
    note_problems(catalog)
    load_component(catalog, "task", task, sets)  # what is wrong there is said before torch is loaded

    from gentle_core.engine.evaluate import evaluate_run

    found = evaluate_run(directory, task, sets, catalog=catalog, device=device)
    if as_json:
        import json

        click.echo(json.dumps(found, indent=1, default=str))
    else:
        _table(found)


def _table(found: Mapping[str, Any]) -> None:
    numbers = {key: value for key, value in found.items() if isinstance(value, (int, float))}
    width = max(map(len, numbers), default=0)
    for key, value in numbers.items():
        click.echo(f"{key:<{width}}  {value:.4g}")
    for key, value in dict(found.get("facts", {})).items():
        click.echo(f"{key}: {value}")
