"""How far an attribute such as a chain's length goes on its own, as the flat metrics tell it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import attrs

from gentle_core.report.retrieval import Z95
from gentle_core.report.words import finite

EQUAL = "/R@1_equal"


@attrs.frozen(kw_only=True)
class Shortcut:
    """One attribute's figures, in percent where they are recalls.

    Attributes:
        name: the attribute.
        equal, equal_chance: R@1 among candidates of exactly the query's value, and what a blind guess gets there.
        equal_queries: how many queries that was, over both directions.
        oracle: R@k by cut-off of a ranker that sees the attribute alone.
        r2: how much of the attribute (its log) can be read from each tower's embedding.
    """

    name: str
    equal: float | None
    equal_chance: float | None
    equal_queries: int | None
    oracle: Mapping[int, float]
    r2: Mapping[str, float]

    @property
    def verdict(self) -> str:
        """ "beyond" (the model tells items of one value apart), "alone" (it does not) or "unknown"."""
        if self.equal is None or self.equal_chance is None:
            return "unknown"
        if self.equal_queries:
            p = self.equal_chance / 100.0
            # The two directions of one item vary together, so half the queries are counted.
            noise = 100.0 * Z95 * math.sqrt(p * (1 - p) / max(1.0, self.equal_queries / 2))
        else:
            noise = max(2.0, 0.25 * self.equal_chance)
        return "beyond" if self.equal > self.equal_chance + noise else "alone"


def shortcuts(metrics: Mapping[str, Any]) -> list[Shortcut]:
    """Every attribute that the metrics treat as a shortcut."""
    names = [key.split("/")[0] for key in metrics if key.endswith(EQUAL) and key.count("/") == 1]
    return [_shortcut(metrics, name) for name in dict.fromkeys(names)]


def _shortcut(metrics: Mapping[str, Any], name: str) -> Shortcut:
    def number(key: str) -> float | None:
        return finite(metrics.get(f"{name}/{key}"))

    oracle = {k: value for k in (1, 5, 10) if (value := number(f"oracle/R@{k}")) is not None}
    prefix = f"{name}/R2/"
    queries = number("queries_equal")
    return Shortcut(
        name=name,
        equal=number("R@1_equal"),
        equal_chance=number("R@1_equal_chance"),
        equal_queries=None if queries is None else round(queries),
        oracle=oracle,
        r2={
            key.removeprefix(prefix): value
            for key in metrics
            if key.startswith(prefix) and (value := finite(metrics[key])) is not None
        },
    )
