"""What choosing among closed forms shares between settings, against each setting by itself; same figures, checked.

    python tests/benchmarks/closed_forms.py [--pairs 538] [--captions 5]

Features are random with a shared factor, in the shapes of Flickr8k with EfficientNet-Lite0 and MiniLM: 1,280 and 384
columns, 5,384 training images with five captions, 616 validation images. Processor seconds of each way in one process,
by turns; the ratio is what counts.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable
from typing import Any

import attrs
import numpy as np
import scipy.sparse as sp
import torch
from sklearn.utils.extmath import randomized_svd

from gentle_core.closed_form import fit
from gentle_core.closed_form.features import Features, drawn
from gentle_core.closed_form.graph import KEPT, WIDEST, basis_of, largest, nodes_of, profiles_of, with_basis
from gentle_core.closed_form.hubness import Corrected, choose_hubness
from gentle_core.evaluate.retrieval import mean_recall, ranks, ranks_both

IMAGES, VALIDATION, WIDTHS, FACTORS = 5384, 616, (1280, 384), 60


def data(pairs: int, captions: int) -> Features:
    rng = np.random.default_rng(0)
    factors = rng.normal(size=(IMAGES + VALIDATION, FACTORS))
    maps = [rng.normal(size=(FACTORS, width)) / FACTORS**0.5 for width in WIDTHS]
    samples = (np.arange(len(factors)), np.repeat(np.arange(len(factors)), captions))
    x, y = (
        torch.from_numpy((factors[rows] @ m + rng.normal(size=(len(rows), m.shape[1]))).astype(np.float32))
        for rows, m in zip(samples, maps, strict=True)
    )
    ends = [(pairs * k, IMAGES * k) for k in (1, captions)]
    labels = [own[:first] for own, (first, _) in zip(samples, ends, strict=True)]
    (a, b), (c, d) = ends
    return Features(x[:a], y[:c], *labels, x[a:b], y[c:d], x[b:], y[d:], samples[0][b:], samples[1][d:])


def compare(name: str, ours: Callable[[], Any], alone: Callable[[], Any], rounds: int = 1) -> None:
    """Print both ways' processor seconds and the largest difference of what they return."""
    seconds: dict[bool, list[float]] = {False: [], True: []}
    found: dict[bool, Any] = {}
    for _ in range(rounds):
        for shared, way in ((True, ours), (False, alone)):
            began = time.process_time()
            found[shared] = way()
            seconds[shared].append(time.process_time() - began)
    a, b = (min(seconds[shared]) for shared in (True, False))
    off = float(np.abs(np.asarray(found[True]) - np.asarray(found[False])).max(initial=0.0))
    print(f"  {name:<46} {a:8.2f} s {b:8.2f} s {b / a:7.1f} ×   largest difference {off:.1e}", flush=True)


def lexsorted(matrix: sp.csr_array, count: int) -> sp.csr_array:
    """`largest` by sorting everything."""
    row = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    order = np.lexsort((matrix.indices, -matrix.data, row))
    kept = order[np.arange(len(order)) - matrix.indptr[row] < count]
    return sp.csr_array((matrix.data[kept], (row[kept], matrix.indices[kept])), shape=matrix.shape)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=538)
    parser.add_argument("--captions", type=int, default=5)
    arguments = parser.parse_args()
    given = data(arguments.pairs, arguments.captions)
    cca, _ = fit._linear(given, "cca")
    val = cca.plain(given.x_val, "x"), cca.plain(given.y_val, "y")
    ids = (given.samples_x_val, given.samples_y_val)
    print(f"{arguments.pairs} pairs, {len(given.pool_x)} and {len(given.pool_y)} pool items: together, each alone")

    def both() -> list[int]:
        return [int(r) for found in ranks_both(*val, *ids).values() for r in found.rank]

    def each() -> list[int]:
        found = ranks(*val, *ids), ranks(*val[::-1], *ids[::-1])
        return [int(r) for direction in found for r in direction.rank]

    compare("ranks of both directions", both, each, 5)

    bank = tuple(cca.plain(rows, side) for rows, side in zip(drawn(given, fit.BANK_ROWS, 0), "xy", strict=True))

    def settings_together() -> list[float]:
        return [t["recall"] for t in choose_hubness({"unpaired": bank}, *val, *ids, grid=fit.LIFTABLE).tried]

    def settings_alone() -> list[float]:
        every = (Corrected.of(s, *bank).ranks_both(*val, *ids) for s in fit.LIFTABLE)
        return [mean_recall(found) for found in every]

    compare("hubness: settings of one bank", settings_together, settings_alone, 3)

    pairs = (cca.plain(given.items_x, "x"), cca.plain(given.items_y, "y"))
    pools = tuple(cca.plain(rows, side) for rows, side in zip(drawn(given, 2000, 0), "xy", strict=True))
    nodes = nodes_of(pairs, (pools[0], pools[1]))
    labels = (given.labels_x, given.labels_y)
    start = fit.GRAPHS[-1]
    profiles = profiles_of(start, nodes, labels)
    wide = sp.random_array((len(nodes[1]), arguments.pairs), density=0.5, format="csr", rng=np.random.default_rng(1))
    compare(
        f"the {KEPT} largest of {wide.nnz / len(nodes[1]):.0f} entries a row",
        lambda: largest(wide, KEPT).sum(axis=1),
        lambda: lexsorted(wide, KEPT).sum(axis=1),
    )

    def settings_of_a_graph() -> list[float]:
        of_val = [graph.profile(z) for graph, z in zip(with_basis(start, nodes, profiles, None), val, strict=True)]
        return [mean_recall(found) for _, found in fit.profile_ranks(given, val, profiles, of_val)]

    def settings_by_their_rows() -> list[float]:
        found = []
        for root, share in itertools.product((False, True), fit.PROFILE_SHARES):
            settings = attrs.evolve(start, root=root, share=share)
            graphs = with_basis(settings, nodes, profiles, basis_of(profiles, root))
            rows = [graph.embed(z) for graph, z in zip(graphs, val, strict=True)]
            found.append(
                mean_recall({str(i): r for i, r in enumerate((ranks(*rows, *ids), ranks(*rows[::-1], *ids[::-1])))})
            )
        return found

    compare("label propagation: settings of one graph", settings_of_a_graph, settings_by_their_rows)
    if arguments.pairs > WIDEST:
        every = sp.vstack(profiles).tocsr()
        norm = np.sqrt(np.asarray(every.multiply(every).sum(axis=1)).ravel())
        unit = sp.dia_array(((1 / np.maximum(norm, 1e-12))[None], [0]), shape=(len(norm), len(norm))) @ every

        def kept(basis: np.ndarray) -> float:
            return float(np.square(unit @ basis).sum() / np.square(unit.data).sum())

        compare(
            f"the {WIDEST} leading directions (share of squares)",
            lambda: kept(basis_of(profiles, False)),  # type: ignore[arg-type]
            lambda: kept(randomized_svd(unit, WIDEST, n_iter=2, random_state=0)[2].T),
        )


if __name__ == "__main__":
    main()
