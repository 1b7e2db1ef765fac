"""`gentle doctor`: the health checks of the core and of plugins, one after the other; one that fails hurts no other."""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs

from gentle_core.catalog import Entry
from gentle_core.doctor.child import Child, in_child
from gentle_core.errors import ComponentError
from gentle_core.factory import cache_folder
from gentle_core.health import Finding, HealthContext
from gentle_core.plugins import discover, installed_owners
from gentle_core.suggest import did_you_mean

PATIENCE = 200.0
"""Seconds that one check may take."""

_LOAD = "from gentle_core.plugins import discover; discover({arguments}); print('loaded')"


@attrs.frozen
class Report:
    """What one check found."""

    check: str
    findings: tuple[Finding, ...]


def examine(names: Collection[str] = (), *, fix: bool = False, files: Sequence[str | Path] = ()) -> Iterator[Report]:
    """Run the health checks of these names ("torch", "core/torch"), or all of them.

    Raises:
        ComponentError: no check has such a name.
    """
    crashing = crashing_plugins()
    allow = None
    if crashing:
        allow = [*os.environ.get("GENTLE_PLUGINS", "").split(","), *(f"-{owner}" for owner in crashing)]
    catalog = discover(allow=allow, files=files)
    checks = catalog.health
    known = [n for entry in checks for n in (entry.name, entry.full_name)]
    for name in names:
        if name not in known:
            raise ComponentError(f"there is no health check {name!r}{did_you_mean(name, known)}")
    if crashing:
        yield Report("core/plugins", tuple(_crash(owner, child) for owner, child in crashing.items()))
    context = HealthContext(catalog=catalog, cache_dir=cache_folder(), fix=fix)
    for entry in checks:
        if not names or {entry.name, entry.full_name} & set(names):
            yield Report(entry.full_name, tuple(_findings(entry, context)))


def crashing_plugins() -> dict[str, Child]:
    """Owners whose code ends the interpreter itself when it is loaded (a crash, os._exit), with what came of it."""
    if in_child(_LOAD.format(arguments=""), seconds=PATIENCE).alive("loaded"):
        return {}
    found = {}
    for owner in installed_owners():
        child = in_child(_LOAD.format(arguments=f"allow=[{owner!r}]"), seconds=PATIENCE)
        if not child.alive("loaded"):
            found[owner] = child
    return found


def _crash(owner: str, child: Child) -> Finding:
    return Finding(
        "error",
        f"plugin {owner!r} ends the program while it is loaded ({child.ended})",
        f"uninstall it, or leave it out: GENTLE_PLUGINS=-{owner}",
    )


def _findings(entry: Entry, context: HealthContext) -> list[Finding]:
    """What a check says, in a thread of its own; a check that fails or does not end is a finding itself."""
    found: list[Any] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            module, _, name = entry.spec.target.partition(":")
            for finding in getattr(importlib.import_module(module), name)(context):
                if not isinstance(finding, Finding):
                    raise TypeError(f"it gives {type(finding).__name__} instead of Finding")
                found.append(finding)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run, name=f"health check {entry.full_name}", daemon=True)
    thread.start()
    thread.join(PATIENCE)
    findings: list[Finding] = list(found)
    origin = f"{entry.distribution} {entry.version}".rstrip()
    if thread.is_alive():
        findings.append(Finding("error", f"the check does not end ({PATIENCE:g} s)", f"tell the authors of {origin}"))
    for error in failures:
        text = " ".join(f"the check itself fails: {type(error).__name__}: {error}".split())
        findings.append(Finding("error", text, f"tell the authors of {origin}"))
    return findings or [Finding("ok", "nothing to say")]
