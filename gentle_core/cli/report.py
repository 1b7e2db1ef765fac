"""`gentle report`"""

from __future__ import annotations

from pathlib import Path

import click

from gentle_core.cli.common import verbose_option
from gentle_core.errors import DataError


@click.command()
@click.argument("directory", metavar="RUN", type=click.Path(path_type=Path))
@verbose_option
def report(directory: Path) -> None:
    """Write the report of the run directory RUN again, from what the run left there."""
    if not (directory / "manifest.json").is_file():
        raise DataError(f"{directory} is no run directory: there is no manifest.json in it")
    from gentle_core.report.build import build_report

    click.echo(build_report(directory))
