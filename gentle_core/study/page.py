"""A study as a page and as text: tables, paired differences, the curve over the number of pairs, the commands."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import attrs
import jinja2
from markupsafe import Markup
from matplotlib.axes import Axes

from gentle_core.report.svg import COLOURS, draw
from gentle_core.report.words import DASH, count, fixed, signed
from gentle_core.study.compare import Mean
from gentle_core.study.plan import Job
from gentle_core.study.results import Contrast, Results, Searched

_LINES = ("-", (0, (5, 2)), (0, (5, 1.5, 1, 1.5)), (0, (2, 1)))


@attrs.frozen
class Row:
    """A row of a table, its cells as text."""

    label: str
    cells: tuple[str, ...]
    muted: bool = False


def page(results: Results, jobs: Sequence[Job]) -> str:
    """The study as one HTML file that needs nothing else."""
    study = results.plan.study
    style = (Path(__file__).parents[1] / "report" / "style.css").read_text(encoding="utf-8")
    return _environment().get_template("study.html.jinja").render(
        title=study.title, description=study.table.description, style=Markup(style), split=study.table.split,
        metric=study.table.metric, seeds=len(study.table.each_seed), levels=levels(results),
        tables=[(metric, metric_rows(results, metric)) for metric in results.values],
        curve=Markup(curve(results)), keys=_keys(results),
        contrasts=[(metric, rows) for metric in results.values if (rows := contrast_rows(results, metric))],
        verdicts=[sentence(results, c) for c in results.differences() if c.kind != "rival"],
        searches=search_rows(results), warnings=warnings(results), commands=commands(results, jobs), text=study.text,
    )  # fmt: skip


def markdown(results: Results, jobs: Sequence[Job]) -> str:
    """The same as Markdown, for a paper's supplement or a repository."""
    study = results.plan.study
    seeds = len(study.table.each_seed)
    parts = [f"# {study.title}", study.table.description, *warnings(results)]
    for metric in results.values:
        parts.append(f"`{metric}` on {study.table.split!r}, mean ± standard deviation over {seeds} seeds:")
        parts.append(_table(["", *levels(results)], metric_rows(results, metric)))
    for metric in results.values:
        if rows := contrast_rows(results, metric):
            parts.append(f"Paired differences in `{metric}`, mean and 95 % interval (t, {seeds} seeds):")
            parts.append(_table(["pairs", "difference", "beside"], rows))
    if results.searches:
        parts += ["Searched on validation:", _table(["", "taken", "tried"], search_rows(results))]
    parts += ["The runs:", "```bash\n" + "\n".join(commands(results, jobs)) + "\n```"]
    parts += ["The study:", f"```toml\n{study.text.strip()}\n```"]
    return "\n\n".join(part for part in parts if part) + "\n"


def levels(results: Results) -> list[str]:
    """A heading for each level: its pairs, and what the study's file says."""
    return [
        f"{count(pairs)} pairs" + (f" ({paired:g})" if isinstance(paired, float) else "") if pairs is not None
        else f"paired = {paired}"
        for paired, pairs in zip(results.plan.levels, results.pairs, strict=True)
    ]  # fmt: skip


def metric_rows(results: Results, metric: str) -> list[Row]:
    every = range(len(results.plan.levels))
    rows = [
        Row(v.label, tuple(_mean(results.mean(metric, name, level)) for level in every), muted=bool(v.of))
        for name, v in results.plan.variants.items()
    ]
    if metric == results.plan.study.table.metric and any(c is not None for c in results.chance):
        rows.append(Row("chance", tuple(fixed(c) for c in results.chance), muted=True))
    return rows


def contrast_rows(results: Results, metric: str) -> list[Row]:
    heads, label = levels(results), _labels(results)
    return [
        Row(heads[c.level], (_signed(c.found), f"{label[c.first]} − {label[c.second]}"), muted=c.kind == "rival")
        for c in results.differences(metric)
    ]


def search_rows(results: Results) -> list[Row]:
    heads, label = levels(results), _labels(results)
    return [Row(f"{label[s.variant]}, {heads[s.level]}", (_settings(s, s.taken), _tried(s))) for s in results.searches]


def warnings(results: Results) -> list[str]:
    """What a reader must know before the figures."""
    study, found = results.plan.study, []
    chosen = study.table.early_stopping or any(v.search for v in results.plan.variants.values())
    if study.table.split == "val" and chosen:
        found.append("Settings or checkpoints were chosen on the split of these figures: they flatter every method.")
    if len(study.table.each_seed) < 3:
        found.append("Fewer than three seeds: the intervals say little.")
    found += [f"A run gave no figures: {failure}" for failure in results.failures]
    return found


def sentence(results: Results, contrast: Contrast) -> str:
    """A paired difference in words; it is called a gain or a loss only where the interval leaves out 0."""
    label, found = _labels(results), contrast.found
    verdict = "not enough seeds to tell" if found.half is None else "no clear difference"
    if found.clear:
        verdict = "higher" if found.mean > 0 else "lower"
    second = label[contrast.second] + (" (the best rival on validation)" if contrast.kind == "best rival" else "")
    return f"{levels(results)[contrast.level]}: {label[contrast.first]} − {second}: {_signed(found)}, {verdict}"


def commands(results: Results, jobs: Sequence[Job]) -> list[str]:
    """How to repeat each final run by hand, for the first seed; the other seeds differ in train.seed alone."""
    first = results.plan.study.table.each_seed[0]
    return [job.command(results.plan.study) for job in jobs if job.seed == first]


def curve(results: Results) -> str:
    """The metric over the number of pairs, a line a method, bars for the 95 % interval of the mean."""
    metric = results.plan.study.table.metric
    at = [pairs if pairs else 0.5 for pairs in results.pairs]

    def paint(axes: Axes) -> None:
        for number, name in enumerate(results.plan.variants):
            colour, line = COLOURS[_role(number)], _LINES[number // 6 % len(_LINES)]
            aside = 1.015 ** (number - (len(results.plan.variants) - 1) / 2)  # so that bars don't hide one another
            points = [(x * aside, results.mean(metric, name, level)) for level, x in enumerate(at)]
            there = [(x, found) for x, found in points if found is not None]
            if there:
                xs, means = zip(*there, strict=True)
                axes.errorbar(
                    xs, [m.mean for m in means], yerr=[m.half or 0.0 for m in means], color=colour, linestyle=line,
                    marker="o", markersize=4, capsize=2, elinewidth=1.0,
                )  # fmt: skip
        chance = [(x, c) for x, c in zip(at, results.chance, strict=True) if c is not None]
        if chance:
            axes.plot(*zip(*chance, strict=True), color=COLOURS["muted"], linestyle=(0, (1, 2)), linewidth=1.2)
        if len(set(at)) > 1:
            axes.set_xscale("log")
        axes.set_xticks(at, [count(pairs) for pairs in results.pairs])
        axes.minorticks_off()
        axes.set_xlabel("matched pairs")
        axes.set_ylabel(metric)

    return draw("pairs", f"{metric} over the number of pairs", paint, width=6.4, height=3.6)


def _keys(results: Results) -> list[tuple[str, str]]:
    return [(_role(number), v.label) for number, v in enumerate(results.plan.variants.values())]


def _role(number: int) -> str:
    return f"m{number % 6}"


def _labels(results: Results) -> dict[str, str]:
    return {name: variant.label for name, variant in results.plan.variants.items()}


def _mean(found: Mean | None) -> str:
    if found is None:
        return DASH
    return fixed(found.mean) + (f" ± {fixed(found.deviation)}" if found.deviation is not None else "")


def _signed(found: Mean) -> str:
    return signed(found.mean, 2) + (f" ± {fixed(found.half, 2)}" if found.half is not None else "")


def _settings(searched: Searched, number: int) -> str:
    return ", ".join(f"{key} = {value}" for key, value in searched.settings[number].items())


def _tried(searched: Searched) -> str:
    return "; ".join(f"{_settings(searched, n)}: {fixed(v, 2)}" for n, v in enumerate(searched.validation))


def _table(head: Sequence[str], rows: Sequence[Row]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join((row.label, *row.cells)) + " |" for row in rows])


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
