"""What could not be used: counted and named, or an error."""

from __future__ import annotations

from collections import Counter
from typing import Any

import attrs

from gentle_core.api import DataError

NAMED = 100
"""How many skipped items the facts name; the counts are always exact."""


@attrs.define
class Skips:
    """Items that were left out. Under `strict` the first one stops the run.

    Attributes:
        reasons: one line an item.
        kinds: how many of each kind of problem.
    """

    strict: bool = False
    reasons: list[str] = attrs.field(factory=list)
    kinds: Counter[str] = attrs.field(factory=Counter)

    def add(self, where: str, reason: str, kind: str = "bad") -> None:
        """Note that `where` was skipped. Raises DataError under `strict`."""
        if self.strict:
            raise DataError(f"{where}: {reason}; mend or remove it, or set strict = false to skip it")
        self.reasons.append(f"{where}: {reason}")
        self.kinds[kind] += 1

    def notice(self) -> str:
        """One line for the user; empty where nothing was skipped."""
        if not self.reasons:
            return ""
        if len(self.reasons) == 1:
            return f"skipped {self.reasons[0]}"
        counts = ", ".join(f"{count} {kind}" for kind, count in self.kinds.most_common())
        return f"skipped {len(self.reasons)} ({counts}), the first: {self.reasons[0]} (the manifest names the others)"

    def facts(self) -> dict[str, Any]:
        return {"count": len(self.reasons), "kinds": dict(self.kinds), "reasons": self.reasons[:NAMED]}
