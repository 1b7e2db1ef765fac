"""Checks of a plugin as a whole. They build nothing and load no torch into this process."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import textwrap
from typing import Any

from gentle_core.testing.bench import Subject
from gentle_core.testing.cases import NotApplicable, Violation, check

IMPORT_SECONDS = 1.0
"""CPU time that discovery of one plugin may take, Gentle's own modules not counted."""

_DISCOVER = """
    import json, sys, time, warnings
    from gentle_core.plugins import discover
    import gentle_core.api, gentle_core.builtin
    before, start = set(sys.modules), time.process_time()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        discover(allow=[{owner!r}], files={files!r})
    heavy = {{"torch", "transformers", "sklearn", "scipy", "matplotlib", "pandas", "tensorflow", "jax"}}
    print("\\n" + json.dumps({{
        "seconds": time.process_time() - start,
        "heavy": sorted(heavy & (set(sys.modules) - before)),
        "deprecated": sorted({{str(w.message) for w in said if str(w.message).startswith("gentle_core")}}),
    }}))
"""


@check("plugin", "discovery", quick=True)
def discovery(subject: Subject) -> None:
    """Everything that the plugin announces can be used."""
    plugin = subject.bench.plugin
    own = [p for p in subject.bench.catalog.problems if p.distribution == plugin.distribution]
    if own:
        raise Violation("; ".join(p.what for p in own), "; ".join(p.mend for p in own))
    if not subject.bench.entries:
        raise Violation("it announces no component", "write a hook, gentle_encoders for instance, that returns specs")


@check("plugin", "no-torch", quick=True)
def no_torch(subject: Subject) -> None:
    """Discovery imports none of the heavy packages."""
    heavy = _fresh_discovery(subject)["heavy"]
    if heavy:
        raise Violation(
            f"discovery imports {', '.join(heavy)}, so that every command has to wait for it",
            "import it in the modules that the targets name, not in the one with hooks, specs and config classes",
        )


@check("plugin", "import-time", quick=True)
def import_time(subject: Subject) -> None:
    """Discovery is quick."""
    seconds = _fresh_discovery(subject)["seconds"]
    if seconds > IMPORT_SECONDS:
        raise Violation(
            f"discovery takes {seconds:.1f} s of CPU time; {IMPORT_SECONDS:g} s are allowed",
            "`python -X importtime -c 'import YOUR_PLUGIN'` shows what is slow: import it where it is used",
        )


@check("plugin", "deprecated", quick=True)
def deprecated(subject: Subject) -> None:
    """It uses no name of the plugin interface that will go."""
    if found := _fresh_discovery(subject)["deprecated"]:
        raise Violation("; ".join(found), "write the present names; docs/reference/stability.md says until when")


@check("plugin", "names", quick=True)
def names(subject: Subject) -> None:
    """Its components' bare names are their own, as far as one can see from here."""
    catalog, owner = subject.bench.catalog, subject.bench.owner
    clashes = [
        f"{other.full_name} ({other.distribution})"
        for entry in subject.bench.entries
        for other in catalog.entries(entry.kind)
        if entry.kind != "modality" and other.owner != owner and other.name == entry.name
    ]
    if clashes:
        raise Violation(
            f"bare names that another installed plugin has too: {', '.join(clashes)}; recipes that write them without "
            "an owner stop working",
            "choose names of your own, or list this as an expected failure",
        )


@check("plugin", "metadata", quick=True)
def metadata(subject: Subject) -> None:
    """The distribution has a summary, a licence and a description."""
    found = _metadata(subject)
    missing = [what for what, there in {
        "description": found.get("Summary"), "readme": (found.get_payload() or found.get("Description") or "").strip(),
        "license": _licence(found), "authors (or urls)": _authors(found),
    }.items() if not there]  # fmt: skip
    if missing:
        raise Violation(
            f"the metadata of {subject.bench.plugin.distribution} lack: {', '.join(missing)}",
            f"give [project] in pyproject.toml {', '.join(missing)}, and install it again",
        )


def licence_of(subject: Subject) -> str:
    """The licence of a component, or that of its distribution."""
    return subject.spec.licence or _licence(_metadata(subject))


def citation_of(subject: Subject) -> str:
    """What to cite for a component, or whose its distribution is."""
    return subject.spec.citation or _authors(_metadata(subject))


def _metadata(subject: Subject) -> Any:
    plugin = subject.bench.plugin
    if not plugin.version:
        raise NotApplicable("a single file has no metadata: a package will need a licence and authors")
    return importlib.metadata.metadata(plugin.distribution)


def _licence(found: Any) -> str:
    classifiers = found.get_all("Classifier") or []
    own = found.get("License-Expression") or found.get("License") or ""
    return own or next((c for c in classifiers if c.startswith("License ::")), "")


def _authors(found: Any) -> str:
    keys = ("Author", "Author-email", "Maintainer", "Maintainer-email", "Home-page", "Project-URL")
    return next((found[key] for key in keys if found.get(key)), "")


def _fresh_discovery(subject: Subject) -> dict[str, Any]:
    """What discovery of this plugin alone loads and costs, in a fresh interpreter."""
    return subject.bench.remembered("fresh discovery", lambda: _discover_afresh(subject))


def _discover_afresh(subject: Subject) -> dict[str, Any]:
    bench = subject.bench
    code = textwrap.dedent(_DISCOVER.format(owner=bench.owner, files=list(bench.files)))
    paths = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=100,
        env=os.environ | {"PYTHONPATH": paths},
    )  # fmt: skip
    if done.returncode:
        raise Violation(
            f"discovery fails in a fresh interpreter: {done.stderr.strip().splitlines()[-1:]}",
            "`gentle plugins list` shows the same; mend what it names",
        )
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found
