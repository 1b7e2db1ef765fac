"""From a run directory to one HTML file that needs nothing else."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import attrs
import jinja2
from markupsafe import Markup

from gentle_core.errors import GentleError
from gentle_core.report import curves, examples, figures, maps, sections, words
from gentle_core.report.figures import Key, Panel
from gentle_core.report.gather import CLIP_NAME, Gathered, gather
from gentle_core.report.retrieval import chance
from gentle_core.report.rundir import RunData, read_run, table
from gentle_core.report.verdict import verdict
from gentle_core.report.words import finite

FILE = "report.html"


def build_report(run_dir: Path) -> Path:
    """Write `report.html` into a run directory and return its path.

    The page is made from the directory's files alone; parts that are missing are left out and said to be missing.
    The same directory gives the same bytes.

    Raises:
        DataError: `run_dir` is no run directory.
        GentleError: the file cannot be written.
    """
    run_dir = Path(run_dir)
    page = render(read_run(run_dir))
    target, partial = run_dir / FILE, run_dir / f".{FILE}.partial"
    try:
        partial.write_text(page, encoding="utf-8", newline="\n")
        os.replace(partial, target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise GentleError(f"cannot write {target}: {error.strerror or error}") from error
    return target


def render(run: RunData) -> str:
    """The page as text."""
    g = gather(run)
    here = Path(__file__).parent
    template = _environment().get_template("template.html.jinja")
    return template.render(
        title=str(run.resolved.get("name") or run.path.resolve().name),
        description=str(run.resolved.get("description") or ""),
        style=Markup((here / "style.css").read_text(encoding="utf-8")),
        headline_facts=sections.headline_facts(run),
        notices=sections.notices(g),
        troubled=sections.troubled(run),
        verdict=verdict(g.evidence),
        split=g.split,
        step=g.step,
        comparison_title="Beside the baselines" if g.baselines else "Retrieval",
        direction_tables=sections.direction_tables(g),
        one_item_tables=sections.direction_tables(g, "retrieval_one"),
        shortcut_tables=sections.shortcut_tables(g),
        comparison=_comparison(g),
        learning=_learning(g),
        geometry=curves.geometry_panels(run.lines.get("val", []), run.towers),
        diagnostics=curves.diagnostic_panels(run.lines.get("train", []), run.towers),
        picture=_picture(g),
        examples=_examples(g),
        towers=run.towers,
        bars=sections.batch_bars(run),
        data=table(run.manifest.get("data")),
        dataset_facts=words.fact_rows(table(run.manifest.get("dataset"))),
        tower_rows=sections.tower_rows(run),
        resolved=run.resolved_text,
        recipe=run.recipe_text,
        versions=sections.version_rows(run),
        command=sections.command(run),
        seed=run.manifest.get("seed"),
        result_facts=words.fact_rows(table(run.results.get("facts"))),
    )


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = {"fixed": words.fixed, "percent": words.percent, "count": words.count, "listing": words.listing}
    environment.filters.update(filters)
    # Drawings are made here and their texts escaped by the writer, so they are the one thing that passes unescaped.
    environment.filters["drawing"] = Markup
    return environment


def _comparison(g: Gathered) -> list[Panel]:
    """The figures beside the comparison table."""
    panels = []
    shown = sections.compared(g)
    if shown:
        caption = (
            "Dots are the share of held-out queries whose mate is among the first ten, bars their 95 % interval over "
            "the choice of held-out items. The dotted line is chance."
        )
        if g.baselines:
            caption += (
                " Overlapping bars are no proof of equality: the interval of the difference above compares the same "
                "queries and is sharper."
            )
        svg = figures.compare_methods(shown, chance(g.metrics))
        panels.append(Panel("Recall among the first ten", svg, caption))
    roles = sections.roles(g.baselines)
    named = [("This run", "run", g.ranks)] + [(name, roles[name], ranks) for name, ranks in g.baseline_ranks.items()]
    named = [entry for entry in named if entry[2]]
    ranked = [(role, ranks) for _, role, ranks in named]
    if ranked:
        caption = (
            "How the share grows with the number of candidates one is willing to look at (logarithmic). "
            "The higher and the further left, the better; the dotted curve is chance."
        )
        marks = {"run": "line", "clip": "dash", "cca": "dashdot", "other": "dash"}
        keys = tuple(Key(role, marks.get(role, "dots"), name) for name, role, _ in named)
        keys += (Key("muted", "dots", "Chance"),)
        panels.append(Panel("Recall at every cut-off", figures.recall_at_every_k(ranked), caption, keys))
    return panels


def _learning(g: Gathered) -> Mapping[str, Any]:
    run = g.run
    train, val = run.lines.get("train", []), run.lines.get("val", [])
    other = _pairs_only(g)
    other_train, other_val = (other.lines.get(split, []) if other else [] for split in ("train", "val"))
    keys = [Key(f"m{index % 6}", "line", tower) for index, tower in enumerate(run.towers)]
    if other_train or other_val:
        keys.append(Key("clip", "dash", CLIP_NAME))
    keys.append(Key("muted", "dots", "chance or null floor"))
    return {
        "validation": curves.validation_panels(val, run.towers, other_val, chance(val[-1]) if val else None),
        "terms": curves.term_panels(train, val, run.towers, other_train),
        "keys": keys,
    }


def _pairs_only(g: Gathered) -> RunData | None:
    """The run directory of CLIP on the same pairs, for its curves."""
    return g.run.baselines.get("pairs_only")


@attrs.frozen(kw_only=True)
class Picture:
    """The 2-D map and what is said beside it.

    Attributes:
        svg, keys: the drawing and its legend.
        method, explained, points, lines: how the plane came about, how many points it shows, how many pairs are joined.
        pair: the two towers whose centroids lie `gap` apart; None where only one has embeddings.
        histogram: similarities of matched pairs (mean `matched`) and of random pairs (mean `strangers`); may be empty.
    """

    svg: str
    keys: tuple[Key, ...]
    method: str
    explained: float | None
    points: int
    lines: int
    pair: tuple[str, str] | None = None
    gap: float | None = None
    histogram: str = ""
    matched: float | None = None
    strangers: float | None = None


def _picture(g: Gathered) -> Picture | None:
    method = table(g.run.resolved.get("report")).get("map", "pca")
    plan = None if method == "none" else maps.project(g.embeddings, "tsne" if method == "tsne" else "pca")
    if plan is None:
        return None
    shown = [tower for tower in plan.coordinates if len(g.embeddings[tower])]
    picture = Picture(
        svg=maps.map_svg(plan, g.run.towers),
        keys=tuple(Key(f"m{(p := _place(g.run.towers, t))}", "", t, maps.SYMBOLS[p]) for t in shown),
        method=plan.method,
        explained=plan.explained,
        points=sum(map(len, plan.coordinates.values())),
        lines=len(maps.pair_lines(plan)[0]) if len(plan.coordinates) > 1 else 0,
    )
    order = [tower for tower in g.run.towers if tower in shown] or shown
    if len(order) < 2:
        return picture
    u, v = (g.embeddings[tower] for tower in order[:2])
    picture = attrs.evolve(picture, pair=(order[0], order[1]), gap=maps.centroid_gap(u, v))
    matched, strangers = figures.similarities(u, v)
    if not len(matched) or not len(strangers):
        return picture
    histogram = figures.similarity_histogram(matched, strangers)
    return attrs.evolve(picture, histogram=histogram, matched=float(matched.mean()), strangers=float(strangers.mean()))


def _place(towers: list[str], name: str) -> int:
    return towers.index(name) % 6 if name in towers else 0


def _examples(g: Gathered) -> list[examples.Example]:
    number = finite(table(g.run.resolved.get("report")).get("examples"))
    limit = 6 if number is None else int(number)
    recorded = examples.recorded_examples(g.run.results.get("examples"), limit, g.embeddings)
    return recorded or examples.derive_examples(g.embeddings, limit)
