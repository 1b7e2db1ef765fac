"""`gentle new`"""

from __future__ import annotations

from pathlib import Path

import click

from gentle_core.cli.common import LazyGroup, verbose_option


@click.group(cls=LazyGroup)
def new() -> None:
    """Make something new that works at once: a plugin."""


@new.command("plugin")
@click.argument("name", required=False)
@click.option("--single-file", is_flag=True, help="One file NAME.py and a recipe, instead of a package.")
@click.option("--from", "source", type=click.Path(path_type=Path), help="Make a package of this single-file plugin.")
@click.option(
    "--into", type=click.Path(path_type=Path, file_okay=False), default=Path("."), help="The folder to put it in."
)
@verbose_option
def plugin(name: str | None, single_file: bool, source: Path | None, into: Path) -> None:
    """Make the plugin NAME, which trains at once.

    It brings two encoders, made-up pairs, augmentations, a recipe and tests.

    \b
    Examples:
      gentle new plugin audio                  the package gentle-audio
      gentle new plugin audio --single-file    audio.py and audio.toml
      gentle new plugin --from audio.py        the package gentle-audio, around that file
    """
    if source is not None and single_file:
        raise click.UsageError("--from makes a package of a single file: leave --single-file out")
    if source is None and name is None:
        raise click.UsageError("Missing argument 'NAME': gentle new plugin audio")
    from gentle_core import scaffold

    if source is not None:
        made = scaffold.package_from(source, name, into)
    elif name is not None:
        made = scaffold.new_file(name, into) if single_file else scaffold.new_package(name, into)
    owner, module = made.names.owner, made.names.module
    for file in made.files:
        click.echo(f"  {made.path / file}")
    for note in made.notes:
        click.echo(f"note: {note}")
    click.echo("Next:")
    if single_file:
        file = made.path / f"{module}.py"
        click.echo(f"  gentle plugins check {owner} --plugin {file}")
        click.echo(f"  gentle run {file.with_suffix('.toml')} --plugin {file}")
        return
    click.echo(f"  pip install -e {made.path}")
    click.echo(f"  gentle plugins check {owner}")
    for recipe in (file for file in made.files if file.parent.name == "recipes"):
        click.echo(f"  gentle run {made.path / recipe}")
