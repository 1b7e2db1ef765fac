"""Everything that is measured of one split's embeddings, as one flat dictionary."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gentle_core.errors import DataError, NonFiniteError
from gentle_core.evaluate.arrays import Ids, as_tensor
from gentle_core.evaluate.geometry import alignment, effective_rank, modality_gap, uniformity
from gentle_core.evaluate.retrieval import (
    KS,
    ONE,
    Ranks,
    Scorer,
    chance,
    describe_all,
    first_rows,
    flipped,
    match_counts,
    ranks_both,
)
from gentle_core.evaluate.shortcuts import EqualRecall, attribute_r2, equal_attribute_recall, oracle_recall

Pair = tuple[str, str]


def evaluate_embeddings(
    embeddings: Mapping[str, Any],
    samples: Mapping[str, Ids],
    attributes: Mapping[str, Mapping[str, Any]] | None = None,
    pairs: Sequence[Pair] | None = None,
    shortcuts: Sequence[str] = (),
    *,
    ks: Sequence[int] = KS,
    scorer: Scorer | None = None,
    found: Mapping[str, Ranks] | None = None,
) -> dict[str, float]:
    """Retrieval, geometry and shortcut figures of two or more towers.

    Args:
        embeddings: unit rows (n, d) by tower.
        samples: sample id of each row by tower; equal ids in two towers are mates.
        attributes: columns (n,) by name, by tower.
        pairs: tower pairs that are evaluated, each both ways; all unordered pairs by default.
        shortcuts: names of attributes that give pairs away without semantics ("length").
        scorer: (rows of a pair's first tower, rows of its second) -> scores; the inner product by default.
        found: ranks from `all_ranks`, where they are at hand already.

    Returns:
        Finite numbers only; what is undefined (no pair, one row, a constant attribute) is absent.

        - `items/<tower>`, `uniformity/<tower>`, `effective_rank/<tower>`.
        - `retrieval/<a>-><b>/…` as `retrieval` names them, and `retrieval/mean/…` over all directions. Where a sample
          has several items in a tower (captions), the same under `retrieval_one/…` with the first of them alone.
        - `gap` and `alignment`: means over the pairs. With more than one pair also `gap/<a>+<b>`,
          `alignment/<a>+<b>`.
        - for each shortcut, here "length": `length/oracle/R@k` (what the attribute alone reaches, beside
          `length/oracle/R@k_chance`), `length/R@1_equal`, `length/R@1_equal_chance`, `length/queries_equal`, each over
          both directions of all pairs whose towers have the attribute (with more than one pair also
          `length/<a>-><b>/R@1_equal`), and `length/R2/<tower>`.

    Raises:
        NonFiniteError: a tower has embeddings that are NaN or infinite.
        DataError: an unknown tower, or a shortcut that is no positive number.
    """
    _check(embeddings, samples)
    pairs = list(itertools.combinations(embeddings, 2)) if pairs is None else list(pairs)
    unknown = {name for pair in pairs for name in pair} - set(embeddings)
    if unknown:
        raise DataError(f"no embeddings of tower {', '.join(sorted(unknown))}; there are {', '.join(embeddings)}")

    metrics: dict[str, float] = {}
    for name, z in embeddings.items():
        metrics[f"items/{name}"] = float(len(z))
        metrics[f"uniformity/{name}"] = uniformity(z)
        metrics[f"effective_rank/{name}"] = effective_rank(z)
    metrics |= describe_all(found or all_ranks(embeddings, samples, pairs, scorer), ks)
    metrics |= _one_item_each(embeddings, samples, pairs, ks, scorer)
    metrics |= _pairwise("gap", {p: modality_gap(embeddings[p[0]], embeddings[p[1]]) for p in pairs})
    metrics |= _pairwise("alignment", {(a, b): _alignment(embeddings, samples, a, b) for a, b in pairs})
    for shortcut in shortcuts:
        columns = {tower: c[shortcut] for tower, c in (attributes or {}).items() if shortcut in c}
        metrics |= _shortcut(shortcut, columns, embeddings, samples, pairs, ks, scorer)
    return {key: value for key, value in metrics.items() if math.isfinite(value)}


def all_ranks(
    embeddings: Mapping[str, Any],
    samples: Mapping[str, Ids],
    pairs: Sequence[Pair] | None = None,
    scorer: Scorer | None = None,
) -> dict[str, Ranks]:
    """Ranks of every direction of every pair, by "a->b": what a paired bootstrap of two runs compares."""
    found: dict[str, Ranks] = {}
    for a, b in itertools.combinations(embeddings, 2) if pairs is None else pairs:
        found |= ranks_both(embeddings[a], embeddings[b], samples[a], samples[b], (a, b), scorer)
    return found


def _one_item_each(
    embeddings: Mapping[str, Any],
    samples: Mapping[str, Ids],
    pairs: Sequence[Pair],
    ks: Sequence[int],
    scorer: Scorer | None,
) -> dict[str, float]:
    """Retrieval among the first item of each sample; nothing where no sample has more than one."""
    first = {name: first_rows(ids) for name, ids in samples.items() if name in embeddings}
    if all(len(rows) == len(samples[name]) for name, rows in first.items()):
        return {}
    ids = {name: [samples[name][row] for row in rows] for name, rows in first.items()}
    z = {name: as_tensor(embeddings[name])[rows] for name, rows in first.items()}
    return describe_all(all_ranks(z, ids, pairs, scorer), ks, ONE)


def _check(embeddings: Mapping[str, Any], samples: Mapping[str, Ids]) -> None:
    for name, z in embeddings.items():
        if name not in samples or len(samples[name]) != len(z):
            raise DataError(f"tower {name!r}: {len(z)} embeddings but {len(samples.get(name, ()))} sample ids")
        bad = (~as_tensor(z).isfinite().all(dim=1)).nonzero().flatten().tolist()
        if bad:
            first = ", ".join(str(samples[name][i]) for i in bad[:3])
            raise NonFiniteError(f"tower {name!r}: {len(bad)} of {len(z)} embeddings are not finite (first: {first})")


def _alignment(embeddings: Mapping[str, Any], samples: Mapping[str, Ids], a: str, b: str) -> float:
    return alignment(embeddings[a], embeddings[b], samples[a], samples[b])


def _pairwise(name: str, values: Mapping[Pair, float]) -> dict[str, float]:
    """The mean over the pairs that have a value, and with several pairs each one's own."""
    present = {pair: value for pair, value in values.items() if math.isfinite(value)}
    metrics = {name: float(np.mean(list(present.values())))} if present else {}
    if len(values) > 1:
        metrics |= {f"{name}/{a}+{b}": value for (a, b), value in present.items()}
    return metrics


def _shortcut(
    name: str,
    columns: Mapping[str, Any],
    embeddings: Mapping[str, Any],
    samples: Mapping[str, Ids],
    pairs: Sequence[Pair],
    ks: Sequence[int],
    scorer: Scorer | None,
) -> dict[str, float]:
    metrics: dict[str, float] = {}
    oracles: list[dict[str, float]] = []
    equal: dict[Pair, EqualRecall] = {}
    for a, b in pairs:
        if a not in columns or b not in columns:
            continue
        for query, other, score in ((a, b, scorer), (b, a, flipped(scorer))):
            sides = (samples[query], samples[other])
            figures = oracle_recall(columns[query], columns[other], *sides, ks)
            if figures:
                expected = chance(len(sides[1]), match_counts(*sides), ks)
                oracles.append(figures | {f"R@{k}_chance": expected[f"R@{k}"] for k in ks})
            result = equal_attribute_recall(
                embeddings[query], embeddings[other], *sides, columns[query], columns[other], score
            )
            if result:
                equal[query, other] = result
    if oracles:
        metrics |= {f"{name}/oracle/{key}": float(np.mean([o[key] for o in oracles])) for key in oracles[0]}
    if equal:
        metrics[f"{name}/R@1_equal"] = float(np.mean([e.recall for e in equal.values()]))
        metrics[f"{name}/R@1_equal_chance"] = float(np.mean([e.chance for e in equal.values()]))
        metrics[f"{name}/queries_equal"] = float(sum(e.queries for e in equal.values()))
    if len(pairs) > 1:
        metrics |= {f"{name}/{a}->{b}/R@1_equal": e.recall for (a, b), e in equal.items()}
    for tower, column in columns.items():
        if tower in embeddings:
            metrics[f"{name}/R2/{tower}"] = attribute_r2(embeddings[tower], column, samples[tower])
    return metrics
