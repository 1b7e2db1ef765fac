"""Nearest-neighbour examples: what a few held-out queries retrieve."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import attrs
import numpy as np

from gentle_core.report.rundir import Points
from gentle_core.report.words import finite, value_text

NEIGHBOURS = 5


@attrs.frozen
class Neighbour:
    """A retrieved item: its id, score, whether it is a mate of the query, and its attributes as text."""

    item: str
    score: float | None
    correct: bool
    note: str = ""


@attrs.frozen
class Example:
    """A query of one tower and its nearest items in another; `rank` is where its best mate stands among `pool`."""

    query_tower: str
    target_tower: str
    query: str
    note: str
    rank: int | None
    pool: int | None
    neighbours: tuple[Neighbour, ...]


def derive_examples(embeddings: Mapping[str, Points], number: int, seed: int = 0) -> list[Example]:
    """Queries drawn at random (never chosen for their looks), the directions in turn."""
    names = [(a, b) for a in embeddings for b in embeddings if a != b]
    names = [(a, b) for a, b in names if embeddings[a].z.shape[1] == embeddings[b].z.shape[1] and len(embeddings[b])]
    rng = np.random.default_rng(seed)
    found = []
    for turn in range(number if names else 0):
        a, b = names[turn % len(names)]
        mates = np.flatnonzero(np.isin(embeddings[a].samples, embeddings[b].samples))
        if len(mates):
            found.append(_example(embeddings, a, b, int(rng.choice(mates))))
    return found


def _example(embeddings: Mapping[str, Points], a: str, b: str, row: int) -> Example:
    queries, targets = embeddings[a], embeddings[b]
    scores = targets.z @ queries.z[row]
    correct = targets.samples == queries.samples[row]
    order = np.argsort(-scores, kind="stable")[:NEIGHBOURS]
    rank = 1 + int(((scores >= scores[correct].max() - 1e-6) & ~correct).sum())
    nearest = (
        Neighbour(str(targets.items[i]), float(scores[i]), bool(correct[i]), _attributes(targets, i))
        for i in order.tolist()
    )
    return Example(a, b, str(queries.items[row]), _attributes(queries, row), rank, len(targets), tuple(nearest))


def _attributes(points: Points, row: int) -> str:
    return note({name: column[row].item() for name, column in points.attributes.items() if column.ndim == 1})


def note(attributes: Mapping[str, Any]) -> str:
    """ "length 120, fold a.1" """
    return ", ".join(f"{name} {value_text(value)}" for name, value in attributes.items() if value_text(value) != "nan")


def recorded_examples(recorded: Any, limit: int, embeddings: Mapping[str, Points]) -> list[Example]:
    """The examples of results.json, which may be a list or lists by direction.

    Each is {"query", "from", "to", "rank", "candidates", "neighbours": [{"item", "score", "mate"}]}; attributes are
    looked up in `embeddings`.
    """
    found = [_recorded(row, embeddings) for row in _rows(recorded)]
    return [example for example in found if example.neighbours][:limit]


def _rows(value: Any) -> Iterator[Mapping[str, Any]]:
    """The mappings that look like an example, wherever they stand; lists of several directions in turn."""
    if isinstance(value, Mapping) and "neighbours" in value:
        yield value
    elif isinstance(value, Mapping):
        for turn in itertools.zip_longest(*(list(_rows(part)) for part in value.values())):
            yield from (row for row in turn if row is not None)
    elif isinstance(value, list):
        for part in value:
            yield from _rows(part)


def _recorded(row: Mapping[str, Any], embeddings: Mapping[str, Points]) -> Example:
    query, target = str(row.get("from", "")), str(row.get("to", ""))
    rank, pool = finite(row.get("rank")), finite(row.get("candidates"))
    neighbours = row.get("neighbours")
    return Example(
        query,
        target,
        str(row.get("query", "")),
        _look_up(embeddings, query, str(row.get("query", ""))),
        None if rank is None else int(rank),
        None if pool is None else int(pool),
        tuple(
            Neighbour(
                str(n.get("item", "")),
                finite(n.get("score")),
                n.get("mate") is True,
                _look_up(embeddings, target, str(n.get("item", ""))),
            )
            for n in (neighbours if isinstance(neighbours, list) else [])
            if isinstance(n, Mapping)
        ),
    )


def _look_up(embeddings: Mapping[str, Points], tower: str, item: str) -> str:
    """The attributes of an item by its id, as text."""
    if tower not in embeddings:
        return ""
    rows = np.flatnonzero(embeddings[tower].items == item)
    return _attributes(embeddings[tower], int(rows[0])) if len(rows) else ""
