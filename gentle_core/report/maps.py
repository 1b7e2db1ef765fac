"""The 2-D map of held-out embeddings: all modalities in one picture, some pairs joined by lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import attrs
import numpy as np
from matplotlib.axes import Axes

from gentle_core.report.rundir import Points
from gentle_core.report.svg import COLOURS, draw, modality_colour

LARGEST = 800
"""Points on the map, over all modalities."""
LINES = 40
MARKS = ("o", "^", "s", "D", "v", "P")
SYMBOLS = "●▲■◆▼✚"
"""Marker by tower, drawn and written: the map reads without colour too."""

Method = Literal["pca", "tsne"]


@attrs.frozen(eq=False)
class Map:
    """Coordinates (n, 2) and sample ids (n,) by tower, and how they came about.

    `explained` is the share of the variance that the plane keeps (PCA only).
    """

    coordinates: Mapping[str, np.ndarray]
    samples: Mapping[str, np.ndarray]
    method: Method
    explained: float | None = None


def draw_samples(embeddings: Mapping[str, Points], limit: int = LARGEST, seed: int = 0) -> dict[str, np.ndarray]:
    """Row indices by tower of a random draw, mates together: at most `limit` points, one item a sample."""
    each = max(1, limit // max(1, len(embeddings)))
    order: dict[str, int] = {}
    for points in embeddings.values():
        for sample in points.samples.tolist():
            order[sample] = order.get(sample, 0) + 1
    names = np.array(sorted(order))
    shuffled = names[np.random.default_rng(seed).permutation(len(names))].tolist()
    # Samples that every tower has come first, so that the map shows pairs where there are any.
    first = sorted(shuffled, key=lambda sample: -min(order[sample], len(embeddings)))
    chosen = {}
    for tower, points in embeddings.items():
        place = {sample: row for row, sample in reversed(list(enumerate(points.samples.tolist())))}
        chosen[tower] = np.array([place[sample] for sample in first if sample in place][:each], dtype=int)
    return chosen


def project(embeddings: Mapping[str, Points], method: Method = "pca", seed: int = 0) -> Map | None:
    """Put all towers on one plane; None where there are fewer than four points or their dimensions differ."""
    rows = draw_samples(embeddings, seed=seed)
    parts = {tower: embeddings[tower].z[index].astype(np.float64) for tower, index in rows.items()}
    if sum(map(len, parts.values())) < 4 or len({part.shape[1] for part in parts.values()}) != 1:
        return None
    z = np.concatenate(list(parts.values()))
    explained = None
    if method == "tsne":
        from sklearn.manifold import TSNE
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        perplexity = min(30.0, (len(z) - 1) / 3)
        # One thread: the order of its sums must not depend on the machine's load.
        with threadpool_limits(1):
            plane = TSNE(perplexity=perplexity, init="pca", random_state=seed, n_jobs=1).fit_transform(z)
    else:
        from sklearn.decomposition import PCA

        with np.errstate(invalid="ignore"):  # all points in one place: no variance to explain
            pca = PCA(n_components=min(2, z.shape[1]), svd_solver="full").fit(z)
        plane = pca.transform(z)
        plane = np.pad(plane, ((0, 0), (0, 2 - plane.shape[1])))
        explained = float(np.nan_to_num(pca.explained_variance_ratio_).sum())
    ends = np.cumsum([len(part) for part in parts.values()])[:-1]
    coordinates = dict(zip(parts, np.split(plane, ends), strict=True))
    samples = {tower: embeddings[tower].samples[index] for tower, index in rows.items()}
    return Map(coordinates, samples, method, explained)


def pair_lines(plan: Map, lines: int = LINES, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """End points (l, 2), (l, 2) of random pairs of the first two towers."""
    a, b = list(plan.coordinates)[:2]
    place = {sample: row for row, sample in enumerate(plan.samples[b].tolist())}
    pairs = [(i, place[sample]) for i, sample in enumerate(plan.samples[a].tolist()) if sample in place]
    keep = np.random.default_rng(seed).permutation(len(pairs))[:lines]
    left, right = np.array([pairs[i] for i in keep], dtype=int).reshape(-1, 2).T
    return plan.coordinates[a][left], plan.coordinates[b][right]


def map_svg(plan: Map, towers: Sequence[str]) -> str:
    """The map, towers coloured by their place in `towers`. Axes carry no numbers: only nearness means something."""

    def paint(axes: Axes) -> None:
        if len(plan.coordinates) > 1:
            starts, ends = pair_lines(plan)
            for start, end in zip(starts, ends, strict=True):
                axes.plot(*zip(start, end, strict=True), color=COLOURS["ink"], linewidth=0.7, alpha=0.45)
        for tower, points in plan.coordinates.items():
            index = towers.index(tower) if tower in towers else 0
            axes.plot(
                points[:, 0], points[:, 1], MARKS[index % len(MARKS)], color=modality_colour(index), markersize=3.4,
                markeredgewidth=0, alpha=0.62,
            )  # fmt: skip
        axes.set_aspect("equal", adjustable="datalim")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.grid(visible=False)
        for spine in axes.spines.values():
            spine.set_visible(False)

    spread = np.ptp(np.concatenate(list(plan.coordinates.values())), axis=0)
    height = float(np.clip(spread[1] / max(spread[0], 1e-9), 0.6, 1.0)) * 5.4
    return draw("map", "Map of the held-out embeddings of all modalities", paint, width=5.4, height=height)


def centroid_gap(u: Points, v: Points) -> float:
    """Distance of two towers' centroids: 0 when they coincide, 2 at opposite poles."""
    return float(np.linalg.norm(u.z.mean(axis=0, dtype=np.float64) - v.z.mean(axis=0, dtype=np.float64)))
