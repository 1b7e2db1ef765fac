"""Nearest neighbours across modalities to look at: hits and misses as chance picks them."""

from __future__ import annotations

from typing import Any

import numpy as np

from gentle_core.evaluate.arrays import Ids, as_tensor, match_codes, plain
from gentle_core.evaluate.retrieval import Scorer, ranks


def nearest_examples(
    u: Any,
    v: Any,
    items_u: Ids,
    items_v: Ids,
    samples_u: Ids,
    samples_v: Ids,
    *,
    names: tuple[str, str] = ("a", "b"),
    count: int = 6,
    top: int = 5,
    seed: int = 0,
    scorer: Scorer | None = None,
) -> list[dict[str, Any]]:
    """Queries from `u` (m, d) with their `top` neighbours among `v` (n, d), JSON-ready.

    Queries are drawn uniformly among those that have a mate, without looking at any score, and depend on the item ids
    and the seed alone: two runs on the same items show the same queries.

    Returns:
        A list of {"query": item, "from": tower, "to": tower, "rank": of the best mate (ties against us),
        "candidates": n, "mates": [items], "hit": whether a mate is among the neighbours shown,
        "neighbours": [{"item", "score", "mate"}]}, best neighbour first.
    """
    found = ranks(u, v, samples_u, samples_v, scorer)
    ids_u, ids_v = plain(items_u), plain(items_v)
    code_u, code_v = match_codes(samples_u, samples_v)
    in_order = sorted(range(len(found.rows)), key=lambda i: str(ids_u[found.rows[i]]))
    drawn = np.random.default_rng(seed).permutation(len(in_order))[:count]

    u, v = as_tensor(u), as_tensor(v)
    examples = []
    for position in (in_order[i] for i in drawn):
        row = int(found.rows[position])
        query = u[row : row + 1]
        scores = (query.double() @ v.double().T if scorer is None else scorer(query, v).detach())[0]
        best = scores.topk(min(top, len(ids_v))).indices.tolist()
        neighbours = [
            {"item": ids_v[j], "score": float(scores[j]), "mate": bool(code_v[j] == code_u[row])} for j in best
        ]
        examples.append(
            {
                "query": ids_u[row],
                "from": names[0],
                "to": names[1],
                "rank": int(found.rank[position]),
                "candidates": len(ids_v),
                "mates": [ids_v[j] for j in np.flatnonzero(code_v == code_u[row])],
                "hit": any(n["mate"] for n in neighbours),
                "neighbours": neighbours,
            }
        )
    return examples
