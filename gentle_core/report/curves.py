"""Curves over training: each term of the objective, held-out retrieval, geometry, and diagnostics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from gentle_core.report.figures import DASHES, Panel
from gentle_core.report.retrieval import CUTOFF
from gentle_core.report.svg import COLOURS, draw, modality_colour
from gentle_core.report.words import finite

Line = Mapping[str, Any]

TERMS = {
    "clip": (
        "Contrastive loss on matched pairs",
        "How well each item picks its mate among the other matched rows of the batch. Lower is better; "
        "when it falls while held-out retrieval does not rise, the pairs are being memorised.",
    ),
    "ssl": (
        "Self-supervised loss",
        "How well each item recognises an augmented view of itself, for each modality by itself. Lower is better.",
    ),
    "mmd": (
        "Distribution distance (MK-MMD)",
        "How far apart the two modalities lie as clouds of points, matched or not. Zero: the same cloud.",
    ),
    "sdd": (
        "Semantic density distance (SDD)",
        "How differently the two modalities are shaped: where one is dense and the other is not. It sees no shift.",
    ),
    "pseudo": (
        "Contrastive loss on pseudo-pairs",
        "How well unmatched items pick the mates that the teacher proposed. Low: like the teacher, right or wrong.",
    ),
    "klot": (
        "Distance to a transport plan (KLOT)",
        "How far the similarities of unmatched items are from the plan that matches them as in the reference.",
    ),
    "neighbours": (
        "Soft labels from neighbours",
        "How well unmatched items point to the mates of those pairs that are near in their own modality.",
    ),
    "sinkhorn": (
        "Sinkhorn divergence",
        "What it would cost to move the one modality's cloud of points onto the other's. Zero: the same cloud.",
    ),
}
"""Heading and reading help of the terms that Gentle itself brings."""

_PREFIXES = ("weight/", "grad_norm/", "rows/", "counts/", "lr/", "learning_rate/", "time/", "seconds/")


def series(lines: Sequence[Line], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and finite values of one key."""
    found = [(int(line["step"]), value) for line in lines if (value := finite(line.get(key))) is not None]
    steps, values = zip(*found, strict=True) if found else ((), ())
    return np.array(steps, dtype=float), np.array(values, dtype=float)


def keys_of(lines: Sequence[Line]) -> list[str]:
    """All numeric keys in the order of their first appearance."""
    return list(dict.fromkeys(key for line in lines for key in line if finite(line[key]) is not None))


def term_groups(lines: Sequence[Line]) -> dict[str, list[str]]:
    """The objective's terms, grouped by what precedes the slash: {"clip": ["clip"], "ssl": ["ssl/a", "ssl/b"]}.

    A key is a term if it has a logged weight, or is one of Gentle's own.
    """
    keys = keys_of(lines)
    weighted = {key.removeprefix("weight/") for key in keys if key.startswith("weight/")}
    groups: dict[str, list[str]] = {}
    for key in keys:
        head = key.split("/")[0]
        if key.startswith(_PREFIXES) or key in ("loss", "step"):
            continue
        if key in weighted or head in weighted or head.split(".")[0] in TERMS:
            groups.setdefault(head, []).append(key)
    return groups


def term_panels(
    train: Sequence[Line], val: Sequence[Line], towers: Sequence[str], baseline: Sequence[Line] = ()
) -> list[Panel]:
    """The whole loss and each term; the pairs-only baseline dashed, null floors dotted.

    Held-out distances are drawn apart: they are taken over another number of rows, on which their level depends.
    """
    panels = []
    if len(series(train, "loss")[0]):
        caption = "The weighted sum that is minimised. Its level depends on the weights: compare shapes, not values."
        panels.append(Panel("Whole objective", _curve_panel("loss", ["loss"], train, val, towers), caption))
    for head, keys in term_groups(train).items():
        kind = head.split(".")[0]
        title, caption = TERMS.get(kind, (head, "A term of the objective."))
        title += f" {head.removeprefix(kind)}" if head != kind else ""
        weight = _weight_text(train, head, keys)
        floor = next((k for k in (f"{head}_floor", f"{head}/floor") if len(series(train, k)[0])), None)
        if floor:
            caption += (
                " The dotted line is its null floor, the value for two random samples of one distribution at this "
                "batch size: at or below it there is nothing left to pull on."
            )
        svg = _curve_panel(f"term-{head}", keys, train, (), towers, baseline if kind == "clip" else (), floor)
        panels.append(Panel(f"{title}{weight}", svg, caption))
    return panels


def _weight_text(lines: Sequence[Line], head: str, keys: Sequence[str]) -> str:
    for key in (head, *keys):
        _, values = series(lines, f"weight/{key}")
        if len(values):
            first, last = (f"{value:.3g}" for value in (values[0], values[-1]))
            return f" · weight {first}" if first == last else f" · weight {first} → {last}"
    return ""


def _curve_panel(
    name: str,
    keys: Sequence[str],
    train: Sequence[Line],
    val: Sequence[Line],
    towers: Sequence[str],
    baseline: Sequence[Line] = (),
    floor: str | None = None,
) -> str:
    def paint(axes: Axes) -> None:
        shown: list[np.ndarray] = []
        for key in keys:
            colour = _key_colour(key, towers)
            steps, values = series(train, key)
            shown.append(values)
            if len(values) >= 30:
                axes.plot(steps, values, color=colour, linewidth=0.8, alpha=0.3)
            axes.plot(steps, running_mean(values), color=colour, marker="o" if len(values) == 1 else "")
            steps, values = series(val, key)
            shown.append(values)
            axes.plot(steps, values, "o", color=colour, markersize=4, markerfacecolor=COLOURS["paper"])
        for lines, key, role in ((baseline, keys[0], "clip"), (train, floor or "", "muted")):
            steps, values = series(lines, key)
            shown.append(values)
            axes.plot(steps, running_mean(values), color=COLOURS[role], linestyle=DASHES[role], linewidth=1.3)
        _finish(axes, np.concatenate(shown))

    return draw(name, f"{keys[0]} over training steps", paint)


def running_mean(values: np.ndarray) -> np.ndarray:
    """Centred running mean over a twentieth of the points; short series stay as they are."""
    if len(values) < 30:
        return values
    half = max(1, len(values) // 40)
    total = np.concatenate([[0.0], np.cumsum(values)])
    rows = np.arange(len(values))
    low, high = np.maximum(rows - half, 0), np.minimum(rows + half + 1, len(values))
    return (total[high] - total[low]) / (high - low)


def _key_colour(key: str, towers: Sequence[str]) -> str:
    """A key that names one tower has that tower's colour, any other the run's."""
    named = [index for index, tower in enumerate(towers) if tower in key.split("/")[1:]]
    return modality_colour(named[0]) if len(named) == 1 else COLOURS["run"]


def _finish(axes: Axes, values: np.ndarray) -> None:
    """Axis labels, and a logarithmic scale for positive values that span two orders of magnitude."""
    if len(values) and values.min() > 0 and values.max() / values.min() > 100:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.minorticks_off()
    else:
        axes.locator_params(axis="y", nbins=5)
    axes.locator_params(axis="x", nbins=6, integer=True)
    axes.set_xlabel("step")
    axes.set_xlim(left=0)


def validation_panels(
    val: Sequence[Line], towers: Sequence[str], baseline: Sequence[Line] = (), limit: float | None = None
) -> list[Panel]:
    """Held-out retrieval while training, one line a query modality; the baseline dashed, chance dotted."""
    panels = []
    keys = keys_of(val)
    by_query = {
        tower: [key for key in keys if key.startswith(f"retrieval/{tower}->") and key.endswith(f"/R@{CUTOFF}")]
        for tower in towers
    }
    if any(by_query.values()):

        def paint(axes: Axes) -> None:
            steps, values = _mean_series(baseline, [key for found in by_query.values() for key in found])
            axes.plot(steps, values, color=COLOURS["clip"], linestyle=DASHES["clip"], linewidth=1.3)
            for index, tower in enumerate(towers):
                steps, values = _mean_series(val, by_query[tower])
                axes.plot(steps, values, color=modality_colour(index), marker="o", markersize=3.5)
            if limit is not None:
                axes.axhline(limit, color=COLOURS["muted"], linestyle=DASHES["muted"], linewidth=1.2)
            axes.set_ylim(bottom=0)
            axes.set_ylabel("%")
            _finish(axes, np.zeros(1))

        note = (
            "Share of held-out queries whose mate is among the first ten, by the query's modality. Higher is better."
            + (" The dashed line is CLIP on the same pairs, averaged over the directions." if len(baseline) else "")
        )
        panels.append(Panel("Held-out retrieval, R@10", draw("val-recall", "Held-out R@10 by step", paint), note))
    equal = next((key for key in keys if key.endswith("/R@1_equal") and key.count("/") == 1), None)
    if equal:
        name = equal.split("/")[0]
        note = f"The same when all candidates have exactly the query's {name}: what {name} alone cannot explain."
        svg = _simple(
            "val-equal", [(val, equal, "run", "-"), (val, f"{equal}_chance", "muted", DASHES["muted"])], zero=True
        )
        panels.append(Panel(f"Equal-{name} R@1", svg, note))
    for head in ("sdd", "mmd"):
        floor = f"{head}_floor"
        if len(series(val, head)[0]) and len(series(val, floor)[0]):
            short = head.upper()
            note = (
                f"{short} between the modalities on held-out items, beside its null floor: the same figure between two "
                "halves of one modality. At or below the floor there is nothing left to pull on."
            )
            svg = _simple(f"val-{head}", [(val, head, "run", "-"), (val, floor, "muted", DASHES["muted"])], zero=True)
            panels.append(Panel(f"Held-out {short}", svg, note))
    return panels


def geometry_panels(val: Sequence[Line], towers: Sequence[str]) -> list[Panel]:
    """Modality gap, alignment, uniformity, effective rank over validation steps."""
    wanted = (
        ("gap", "Modality gap", "Distance between the modalities' centroids, 0 to 2. Falling is no success by itself."),
        ("alignment", "Alignment", "Mean squared distance of matched pairs, 0 to 4. Lower is closer."),
        ("uniformity", "Uniformity", "How evenly each modality fills the sphere. Lower is more even; 0 is collapse."),
        ("effective_rank", "Effective rank", "How many directions each modality uses. Falling towards 1 is collapse."),
    )
    keys = keys_of(val)
    panels = []
    for head, title, note in wanted:
        found = [key for key in keys if key == head or key.startswith(f"{head}/")]
        if found:
            rows = [(val, key, _key_colour(key, towers), "-") for key in found]
            panels.append(Panel(title, _simple(f"geometry-{head}", rows), note))
    return panels


def diagnostic_panels(train: Sequence[Line], towers: Sequence[str]) -> list[Panel]:
    """Gradient norms by term, learning rate and throughput, as far as they were logged."""
    panels = []
    norms = [key for key in keys_of(train) if key.startswith("grad_norm")]
    for key in norms[:8]:
        rows = [(train, key, _key_colour(key, towers), "-")]
        title = f"Gradient norm · {key.partition('/')[2] or 'whole'}"
        panels.append(Panel(title, _simple(f"norm-{key}", rows)))
    for key, title in (
        ("learning_rate", "Learning rate"),
        ("tau", "Temperature τ"),
        ("rows_per_second", "Rows a second"),
    ):
        if len(series(train, key)[0]):
            panels.append(Panel(title, _simple(f"diagnostic-{key}", [(train, key, "run", "-")])))
    return panels


def _mean_series(lines: Sequence[Line], keys: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    rows = []
    for line in lines:
        values = [value for key in keys if (value := finite(line.get(key))) is not None]
        if values:
            rows.append((float(line["step"]), sum(values) / len(values)))
    return np.array([step for step, _ in rows]), np.array([value for _, value in rows])


def _simple(name: str, rows: Sequence[tuple[Sequence[Line], str, str, Any]], zero: bool = False) -> str:
    """One line for each (lines, key, colour or its role, line style); with `zero` the axis starts there."""

    def paint(axes: Axes) -> None:
        shown = []
        for lines, key, colour, style in rows:
            steps, values = series(lines, key)
            shown.append(values)
            mark = "o" if len(values) <= 30 and style == "-" else ""
            axes.plot(steps, running_mean(values), color=COLOURS.get(colour, colour), linestyle=style, marker=mark,
                      markersize=3.5)  # fmt: skip
        _finish(axes, np.concatenate(shown) if shown else np.zeros(0))
        if zero and axes.get_yscale() == "linear":
            axes.set_ylim(bottom=0)

    return draw(name, f"{rows[0][1]} over steps", paint)
