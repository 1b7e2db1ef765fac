"""From a component's description to the living thing. Imports no torch itself; the component's own code may."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

from gentle_core.batch import BuildContext
from gentle_core.catalog import Entry
from gentle_core.errors import ComponentError, GentleError


def cache_folder() -> Path:
    """Where derived files go that may be deleted at any time: $GENTLE_CACHE, or gentle/ in the user's cache folder."""
    if chosen := os.environ.get("GENTLE_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gentle"


def create(entry: Entry, config: Any, context: BuildContext) -> Any:
    """Import a component's factory and call it; whatever goes wrong names the component and its distribution.

    Raises:
        ComponentError: the factory cannot be imported, or failed.
        GentleError: what the factory itself says to the user.
    """
    module, _, attribute = entry.spec.target.partition(":")
    origin = f"{entry.kind} {entry.full_name} (from {entry.distribution} {entry.version})"
    try:
        factory: Any = importlib.import_module(module)
        for part in attribute.split("."):
            factory = getattr(factory, part)
    except (ImportError, AttributeError) as error:
        needs = f"; it asks for: {', '.join(entry.spec.requires)}" if entry.spec.requires else ""
        raise ComponentError(f"{origin} cannot be imported: {error}{needs}") from error
    try:
        return factory(config, context)
    except GentleError:
        raise
    except Exception as error:
        raise ComponentError(f"{origin} failed while it was built: {type(error).__name__}: {error}") from error
