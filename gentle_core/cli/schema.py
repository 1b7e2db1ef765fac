"""`gentle schema`"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import click

from gentle_core.catalog import Catalog
from gentle_core.cli.common import note_problems, plugin_options, verbose_option


@click.command()
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Write it there instead of printing it.")
@plugin_options
@verbose_option
def schema(find_catalog: Callable[[], Catalog], out: Path | None) -> None:
    """Print the JSON schema of recipes, with the components that are installed here.

    Editors complete and check a recipe whose first line is `#:schema ./recipe.schema.json`.

    \b
    Example:
      gentle schema --out recipes/recipe.schema.json
    """
    from gentle_core.recipe.schema import recipe_schema

    catalog = find_catalog()
    note_problems(catalog)
    text = json.dumps(recipe_schema(catalog), indent=1, ensure_ascii=False) + "\n"
    if out is None:
        click.echo(text, nl=False)
        return
    out.write_text(text, encoding="utf-8")
    click.echo(f"{out}: for editors, put this into the first line of a recipe beside it:\n#:schema ./{out.name}")
