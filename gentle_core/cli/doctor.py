"""`gentle doctor`"""

from __future__ import annotations

import attrs
import click

from gentle_core.cli.common import verbose_option
from gentle_core.errors import GentleError

_COLOURS = {"ok": "green", "note": "cyan", "fixed": "green", "warning": "yellow", "error": "red"}


@click.command()
@click.argument("names", nargs=-1, metavar="[CHECK]...")
@click.option("--fix", is_flag=True, help="Mend what can be mended without a loss.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--plugin", "files", multiple=True, metavar="FILE", help="Also load a single-file plugin.")
@verbose_option
def doctor(names: tuple[str, ...], fix: bool, as_json: bool, files: tuple[str, ...]) -> None:
    """Look for what could go wrong: versions, plugins, torch, DeepSpeed, hub, cache, disk, and what plugins check.

    Without CHECK, all of them. Ends with exit code 1 if something does not work.

    \b
    Examples:
      gentle doctor
      gentle doctor torch cache --fix
    """
    from gentle_core.doctor import examine

    reports = []
    for report in examine(names, fix=fix, files=files):
        reports.append(report)
        for finding in () if as_json else report.findings:
            level = click.style(f"{finding.level:<8}", fg=_COLOURS[finding.level])
            click.echo(f"{level} {report.check.removeprefix('core/'):<10} {finding.text}")
            if finding.mend:
                click.echo(f"{'':<20}→ {finding.mend}")
    errors = sum(f.level == "error" for report in reports for f in report.findings)
    if as_json:
        import json

        checks = [attrs.asdict(report) for report in reports]
        click.echo(json.dumps({"ok": not errors, "checks": checks}, indent=1))
    if errors:
        raise GentleError(f"{errors} thing{'s do' if errors > 1 else ' does'} not work")
