"""What a loss's options ask for: rows of the batch, other losses, a warning. For losses of plugins as well.

Besides its fields the config class of a loss may have, all optional:
    `children()`: the registered losses that it builds, as `Child` entries;
    `needs(lookup)`: what the batch must hold, where the options decide that; `lookup` maps a loss name to its spec;
    `hints(paired_rows, rows)`: warnings about options that rarely make sense together.
The functions `needs` and `hints` ask any loss, with or without these methods.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

from gentle_core.schedule import Schedule
from gentle_core.specs import LossSpec, Need

Lookup = Callable[[str], LossSpec]
Weight = float | Schedule

UNPAIRED: frozenset[Need] = frozenset({"unpaired"})
"""A need that is no condition: the loss makes use of unmatched rows where there are any."""


@attrs.frozen(kw_only=True)
class Child:
    """A registered loss inside another one: the option it comes from, its name, its own options, its weight."""

    key: str
    use: str
    options: Mapping[str, Any] = attrs.field(factory=dict)
    weight: Weight = 1.0


def child(key: str, table: Mapping[str, Any], default: str | None, weight: Weight) -> Child:
    options = dict(table)
    use = options.pop("use", default)
    if not isinstance(use, str):
        raise ValueError(f"{key}: name a loss with `use`")
    return Child(key=key, use=use, options=options, weight=weight)


def needs_of(children: Sequence[Child], lookup: Lookup) -> frozenset[Need]:
    found: frozenset[Need] = frozenset()
    for child in children:
        spec = lookup(child.use)
        found |= needs(spec, _typed(spec, child.options), lookup)
    return found


def _typed(spec: LossSpec, options: Mapping[str, Any]) -> Any:
    """The typed options, or None where they cannot be had in this plain way (a wrong option is reported elsewhere)."""
    try:
        return spec.config(**options)
    except (TypeError, ValueError):
        return None


def needs(spec: LossSpec, config: Any, lookup: Lookup) -> frozenset[Need]:
    """What a loss with these options must find in a batch ("views", …), or uses where there is any ("unpaired")."""
    ask = getattr(config, "needs", None)
    return ask(lookup) if callable(ask) else frozenset(spec.needs)


def hints(
    spec: LossSpec, config: Any, lookup: Lookup, *, paired_rows: int | None = None, rows: int | None = None
) -> list[str]:
    """Warnings about a loss and its children.

    Args:
        paired_rows: matched rows in a global batch, if known.
        rows: rows of the tower with the fewest in a global batch, if known.
    """
    ask, parts = getattr(config, "hints", None), getattr(config, "children", None)
    found = list(ask(paired_rows, rows)) if callable(ask) else []
    for child in parts() if callable(parts) else ():
        of_child = lookup(child.use)
        found += hints(of_child, _typed(of_child, child.options), lookup, paired_rows=paired_rows, rows=rows)
    return found
