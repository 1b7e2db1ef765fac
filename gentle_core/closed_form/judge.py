"""By which ranks a setting is judged: those of one set of validation data, or of several fits together."""

from __future__ import annotations

from gentle_core.evaluate.retrieval import Ranks


class Judge:
    """Every fit judges by its own validation data."""

    def ranks(self, found: dict[str, Ranks]) -> dict[str, Ranks]:
        """What a setting whose ranks are `found` here is judged by."""
        return found

    def least(self, value: int) -> int:
        """The least of a number that may differ between fits that are judged together."""
        return value


ALONE = Judge()
