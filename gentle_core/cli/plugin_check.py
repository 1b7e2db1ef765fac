"""`gentle plugins check`: what discovery finds wrong, and the conformance kit."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import click

from gentle_core.catalog import Catalog
from gentle_core.cli.common import plugin_options, verbose_option
from gentle_core.errors import ComponentError
from gentle_core.suggest import did_you_mean

if TYPE_CHECKING:
    from gentle_core.testing.cases import Outcome

Find = Callable[[], Catalog]

_WORDS = {"passed": "passed", "failed": "failed", "expected": "failed as expected", "skipped": "skipped"}


@click.command()
@click.argument("name", required=False)
@click.option("--quick", is_flag=True, help="Only the checks that build no component and load no torch.")
@click.option("--only", multiple=True, metavar="COMPONENT", help="Only this component; give it as often as needed.")
@click.option(
    "--expect", multiple=True, metavar="COMPONENT:CHECK", help="This check is expected to fail; as often as needed."
)
@plugin_options
@verbose_option
def check(find_catalog: Find, name: str | None, quick: bool, only: tuple[str, ...], expect: tuple[str, ...]) -> None:
    """Try what the components of plugin NAME must keep: the conformance kit. Ends with an error if something fails.

    Without NAME, look only for what is wrong with the discovery of all plugins.

    \b
    Examples:
      gentle plugins check protein
      gentle plugins check audio --plugin audio.py --only cnn
    """
    catalog = find_catalog()
    if name is None:
        if quick or only or expect:
            raise click.UsageError("--quick, --only and --expect need the NAME of a plugin")
        _discovered(catalog)
    else:
        _conforms(catalog, name, quick, only, expect)


def _discovered(catalog: Catalog) -> None:
    for plugin in catalog.plugins:
        own = [p for p in catalog.problems if p.distribution == plugin.distribution]
        state = f"{len(own)} problem{'s' * (len(own) > 1)}" if own else "ok"
        click.echo(f"{plugin.distribution} {plugin.version}: {plugin.components} components, {state}")
    if catalog.problems:
        raise ComponentError("\n".join(map(str, catalog.problems)))


def _conforms(catalog: Catalog, name: str, quick: bool, only: Iterable[str], expect: Iterable[str]) -> None:
    if broken := [p for p in catalog.problems if name in (p.owner, p.distribution)]:
        raise ComponentError("\n".join(map(str, broken)))
    known = [n for p in catalog.plugins for n in (p.owner, p.distribution)]
    if name not in known:
        raise ComponentError(f"there is no plugin {name!r}{did_you_mean(name, known)}")

    from gentle_core.testing.bench import Bench
    from gentle_core.testing.cases import expected
    from gentle_core.testing.suite import run

    bench = Bench(name, catalog=catalog, only=only)
    cases = bench.cases(quick=quick)
    try:
        reasons = expected(cases, dict.fromkeys(expect, "expected on the command line"))
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    click.echo(f"{bench.plugin.distribution} {bench.plugin.version}".rstrip())
    width = max(len(case.subject) for case in cases)
    found = []
    for subject, group in itertools.groupby(cases, key=lambda case: case.subject):
        outcomes = [run(bench, case, reasons.get(case.id)) for case in group]
        found += outcomes
        counts = Counter[str](outcome.state for outcome in outcomes)
        tally = ", ".join(f"{counts[state]} {word}" for state, word in _WORDS.items() if counts[state])
        click.echo(f"  {subject:<{width}}  {tally}")
        for line in _remarks(outcomes):
            click.echo(f"    {line}")
    failed = sum(outcome.state == "failed" for outcome in found)
    if failed:
        raise ComponentError(f"{failed} of {len(found)} checks failed")


def _remarks(outcomes: Iterable[Outcome]) -> Iterable[str]:
    """What to say of those that did not pass; checks that are skipped for one reason share a line."""
    skipped: dict[str, list[str]] = {}
    for outcome in outcomes:
        if outcome.state == "failed":
            first, *rest = outcome.message.splitlines()
            yield f"{click.style(f'{outcome.case.check.name} failed', fg='red', bold=True)}: {first}"
            yield from rest
        elif outcome.state != "passed":
            word = "skipped" if outcome.state == "skipped" else "failed as expected"
            skipped.setdefault(f"{word}: {outcome.message}", []).append(outcome.case.check.name)
    for reason, names in skipped.items():
        listed = ", ".join(names) if len(names) <= 4 else f"{', '.join(names[:3])} and {len(names) - 3} more"
        yield f"{listed} {reason}"
