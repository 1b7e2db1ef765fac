"""`gentle eval`"""

from __future__ import annotations

import json
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
@click.argument("task", required=False)
@click.option("--task", "named", metavar="TASK", help="The same as the argument TASK.")
@click.option("--data", metavar="FOLDER", help="The task's data: the same as --set path=FOLDER.")
@set_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.option("--device", default="cpu", show_default=True, help="Where the towers run: cpu, cuda, cuda:1, mps.")
@plugin_options
@verbose_option
def evaluate(
    directory: Path,
    task: str | None,
    named: str | None,
    data: str | None,
    sets: tuple[str, ...],
    as_json: bool,
    device: str,
    find_catalog: Callable[[], Catalog],
) -> None:
    """Evaluate the model of the finished run RUN on TASK, a component of kind "task".

    \b
    Examples:
      gentle eval runs/protein-1 protein/fold --data data/fold
      gentle eval runs/remote-sensing-1 --task zero-shot --data data/AID
    """
    if task and named and task != named:
        raise click.UsageError(f"two tasks, {task} and {named}: name one")
    task = task or named
    if not task:
        raise click.UsageError("name a task: gentle eval RUN TASK; `gentle plugins list --kind task` shows them")
    if data is not None:
        sets = (f"path={json.dumps(data, ensure_ascii=False)}", *sets)
    if not directory.is_dir():
        raise DataError(f"there is no run directory {directory}")
    catalog = find_catalog()
    note_problems(catalog)
    load_component(catalog, "task", task, sets)  # what is wrong there is said before torch is loaded

    from gentle_core.engine.evaluate import evaluate_run

    found = evaluate_run(directory, task, sets, catalog=catalog, device=device)
    if as_json:
        click.echo(json.dumps(found, indent=1, default=str))
    else:
        _table(found)


def _table(found: Mapping[str, Any]) -> None:
    numbers = {key: value for key, value in found.items() if isinstance(value, (int, float))}
    width = max(map(len, numbers), default=0)
    for key, value in numbers.items():
        click.echo(f"{key:<{width}}  {value:.4g}")
    for key, value in dict(found.get("facts", {})).items():
        click.echo(f"{key}: {value if isinstance(value, (str, int, float)) else json.dumps(value, default=str)}")
