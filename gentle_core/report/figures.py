"""Figures that compare methods on held-out items: recall with its interval, recall at every cut-off, similarities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
import numpy as np
from matplotlib.axes import Axes

from gentle_core.report.retrieval import Ranks, recall_curve
from gentle_core.report.rundir import Points
from gentle_core.report.svg import COLOURS, draw

RANDOM_PAIRS = 20_000
DASHES = {"run": "-", "clip": (0, (5, 2)), "cca": (0, (5, 1.5, 1, 1.5)), "other": (0, (2, 1)), "muted": (0, (1, 2))}
"""Line style by role, so that figures read without colour too."""


@attrs.frozen
class Key:
    """One entry of a legend, set by the page: the colour's role, how the mark looks, what it stands for.

    `symbol` is a character that takes the mark's place.
    """

    role: str
    mark: str
    label: str
    symbol: str = ""


@attrs.frozen
class Panel:
    """A drawn figure with its heading and the sentence that says how to read it."""

    title: str
    svg: str
    caption: str = ""
    keys: tuple[Key, ...] = ()


@attrs.frozen
class Method:
    """One row of the comparison: mean R@10 in percent with its 95 % interval, where there is one."""

    label: str
    role: str
    recall: float
    interval: tuple[float, float] | None = None


def compare_methods(methods: Sequence[Method], chance: float | None) -> str:
    """A dot and an interval for each method, best read from left (chance) to right."""

    def paint(axes: Axes) -> None:
        for row, method in enumerate(methods):
            colour = COLOURS[method.role]
            if method.interval:
                axes.plot(method.interval, (row, row), color=colour, linewidth=3, alpha=0.35, solid_capstyle="round")
            axes.plot(
                [method.recall],
                [row],
                "o" if method.role != "muted" else "D",
                color=colour,
                markersize=7,
                clip_on=False,
            )
        if chance is not None:
            axes.axvline(chance, color=COLOURS["muted"], linestyle=DASHES["muted"], linewidth=1.2)
        axes.set_yticks(range(len(methods)), [_short(method.label) for method in methods])
        axes.tick_params(axis="y", length=0, labelcolor=COLOURS["ink"])
        axes.set_ylim(len(methods) - 0.4, -0.6)
        axes.set_xlim(left=0, right=min(100.0, 1.08 * max(max(m.recall, *(m.interval or (0,))) for m in methods) + 2))
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("R@10, mean over directions (%)")

    return draw("methods", "R@10 of each method with its interval", paint, height=0.75 + 0.34 * len(methods))


def recall_at_every_k(curves: Sequence[tuple[str, Mapping[str, Ranks]]]) -> str:
    """Share of queries whose mate is among the first k, for every k. `curves` are (role, ranks by direction)."""

    def paint(axes: Axes) -> None:
        pool = max(found.candidates for _, ranks in curves for found in ranks.values())
        ks = np.unique(np.geomspace(1, max(2, pool), 60).round())
        axes.plot(ks, 100 * ks / pool, color=COLOURS["muted"], linestyle=DASHES["muted"], linewidth=1.2)
        for role, ranks in reversed(curves):
            drawn = [recall_curve(found) for found in ranks.values()]
            mean = np.mean([np.interp(ks, k, share) for k, share in drawn], axis=0)
            axes.plot(ks, mean, color=COLOURS[role], linestyle=DASHES[role])
        axes.set_xscale("log")
        ticks = [k for k in (1, 10, 100, 1000, 10_000) if k <= pool]
        axes.set_xticks(ticks, [f"{k:,}" for k in ticks])
        axes.minorticks_off()
        axes.set_ylim(0, 101)
        axes.set_xlabel("k: how many candidates are looked at")
        axes.set_ylabel("mate among them (%)")

    return draw("recall", "Recall at every cut-off", paint, height=2.7)


def similarities(u: Points, v: Points, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Cosines of the matched pairs (one mate each) and of random pairs that are no mates."""
    place = {sample: row for row, sample in reversed(list(enumerate(v.samples.tolist())))}
    rows = [(i, place[sample]) for i, sample in enumerate(u.samples.tolist()) if sample in place]
    left, right = (np.array(side, dtype=int) for side in (zip(*rows, strict=True) if rows else ((), ())))
    rng = np.random.default_rng(seed)
    i, j = rng.integers(len(u), size=RANDOM_PAIRS), rng.integers(len(v), size=RANDOM_PAIRS)
    strangers = u.samples[i] != v.samples[j]
    return (u.z[left] * v.z[right]).sum(axis=1), (u.z[i[strangers]] * v.z[j[strangers]]).sum(axis=1)


def similarity_histogram(matched: np.ndarray, strangers: np.ndarray) -> str:
    """Two densities of the cosine: matched pairs, and random pairs."""

    def paint(axes: Axes) -> None:
        both = np.concatenate([matched, strangers])
        bins = np.linspace(float(both.min()), float(both.max()) + 1e-6, 41).tolist()
        for values, role in ((strangers, "muted"), (matched, "run")):
            colour = COLOURS[role]
            axes.hist(values, bins=bins, density=True, histtype="stepfilled", color=colour, alpha=0.22, linewidth=0)
            axes.hist(values, bins=bins, density=True, histtype="step", color=colour, linewidth=1.4)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("cosine similarity")
        axes.set_ylabel("density")

    return draw("similarity", "Similarities of matched and of random pairs", paint, height=2.7)


def _short(label: str, limit: int = 34) -> str:
    return label if len(label) <= limit else f"{label[: limit - 1]}…"
