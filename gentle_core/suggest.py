"""Did you mean …? One voice for all the places where a name is not found."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def close_to(word: str, options: Iterable[str], n: int = 3) -> list[str]:
    """Up to `n` of `options` that `word` may have been meant for, best first; letter case counts for nothing."""
    by_lower: dict[str, str] = {}
    for option in options:
        by_lower.setdefault(option.lower(), option)
    ratios = {o: difflib.SequenceMatcher(None, word.lower(), o).ratio() for o in by_lower}
    enough = max([0.6, *(ratio - 0.1 for ratio in ratios.values())])
    return [by_lower[o] for o in sorted(ratios, key=lambda o: -ratios[o]) if ratios[o] >= enough][:n]


def listed(words: Iterable[str], last: str = "or") -> str:
    """'a', 'b' or 'c'."""
    quoted = [f"'{word}'" for word in words]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} {last} {quoted[-1]}" if quoted else ""


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """ " — did you mean 'x'?", or what there is when that is little, or nothing: made to follow a message."""
    options = list(dict.fromkeys(options))
    if close := close_to(word, options):
        return f" — did you mean {listed(close)}?"
    if not 0 < len(options) <= 8:
        return ""
    return f"; there {'is' if len(options) == 1 else 'are'} {listed(sorted(options), 'and')}"
