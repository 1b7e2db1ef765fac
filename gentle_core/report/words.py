"""Numbers and lists as a reader wants to see them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

THIN = "\u202f"  # narrow no-break space
MINUS = "\u2212"
DASH = "\u2013"


def finite(value: Any) -> float | None:
    """`value` as a float, or None where it is no finite number (booleans and strings are none)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if math.isfinite(value) else None


def fixed(value: Any, digits: int = 1) -> str:
    """A decimal with a true minus sign; a dash where there is no number."""
    number = finite(value)
    if number is None:
        return DASH
    text = f"{number:.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("-")
    return text.replace("-", MINUS)


def percent(value: Any) -> str:
    """A percentage that is already in percent: 38.04 → "38.0 %"."""
    return DASH if finite(value) is None else f"{fixed(value)}{THIN}%"


def signed(value: Any, digits: int = 1) -> str:
    """With its sign, zero without one: "+2.1", "−1.0", "0.0"."""
    number = finite(value)
    text = fixed(value, digits)
    return f"+{text}" if number is not None and number > 0 and float(f"{number:.{digits}f}") != 0 else text


def count(value: Any) -> str:
    """A whole number with thousands marked: 5014 → "5,014"; other numbers to four digits."""
    number = finite(value)
    if number is None:
        return DASH
    return f"{int(number):,}" if number == int(number) else f"{number:,.4g}".replace("-", MINUS)


def compact(value: Any) -> str:
    """A parameter count: 73216 → "73.2 k", 8150000 → "8.15 M"."""
    number = finite(value)
    if number is None:
        return DASH
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{THIN}{unit}"
    return f"{number:.0f}"


def duration(seconds: Any) -> str:
    """Seconds as "4 min 12 s" or "2 h 5 min"."""
    number = finite(seconds)
    if number is None:
        return DASH
    if number < 60:
        return f"{number:.1f}{THIN}s" if number < 10 else f"{number:.0f}{THIN}s"
    minutes, rest = divmod(round(number), 60)
    if minutes < 60:
        return f"{minutes}{THIN}min {rest}{THIN}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}{THIN}h {minutes}{THIN}min"


def listing(names: Iterable[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    *head, last = list(names) or [""]
    return f"{', '.join(head)} and {last}" if head else last


def plural(number: int, noun: str) -> str:
    return f"{count(number)} {noun}{'' if number == 1 else 's'}"


def value_text(value: Any) -> str:
    """Any JSON scalar as text."""
    if value is None or value == "":
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    return count(value) if isinstance(value, (int, float)) else str(value)


def fact_rows(facts: Mapping[str, Any], prefix: str = "", depth: int = 3) -> list[tuple[str, str]]:
    """Nested JSON facts as (label, text) rows: nested keys joined by "·", short lists on one line."""
    rows: list[tuple[str, str]] = []
    for key, value in facts.items():
        label = f"{prefix} · {key}" if prefix else str(key)
        label = label.replace("_", " ")
        if isinstance(value, Mapping) and depth:
            rows.extend(fact_rows(value, label, depth - 1))
        elif isinstance(value, (list, tuple)):
            shown = ", ".join(value_text(v) for v in value[:12])
            rows.append((label, f"{shown}, … ({len(value)} in all)" if len(value) > 12 else shown or DASH))
        else:
            rows.append((label, value_text(value)))
    return rows
