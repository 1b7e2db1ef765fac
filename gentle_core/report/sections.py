"""Rows of the report's tables, ready for the template: texts and numbers, no markup."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from gentle_core.report import words
from gentle_core.report.figures import Method
from gentle_core.report.gather import Gathered
from gentle_core.report.retrieval import directions, mean_recall, recall_interval
from gentle_core.report.rundir import RunData, table
from gentle_core.report.shortcuts import Shortcut, shortcuts
from gentle_core.report.verdict import find_clip
from gentle_core.report.words import count, finite, fixed

RECALLS = ("R@1", "R@5", "R@10")
STOPPED = {
    "interrupted": "This run was interrupted{at}; figures are those of that moment. "
    "The same command with --resume auto goes on.",
    "failed": "This run failed{at}{why}.",
    "running": "This report was made while the run was going on{at}.",
}


@attrs.frozen
class Cell:
    """A number in a table, and whether it is the best of its column."""

    text: str
    best: bool = False


@attrs.frozen
class Row:
    """A table row: what it is about, its colour's role, and its cells."""

    label: str
    role: str
    cells: tuple[Cell, ...]


@attrs.frozen
class Table:
    """A table of numbers. `ends` are the query's and the target's tower where it is about one direction."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    note: str = ""
    ends: tuple[str, str] | None = None


def roles(baselines: Mapping[str, Any]) -> dict[str, str]:
    """The colour role of each baseline."""
    found = {}
    free = {"clip", "cca"}
    for name in baselines:
        role = "clip" if name == find_clip(baselines) else "cca" if "cca" in name.lower() else "other"
        found[name] = role if role in free else "other"
        free.discard(role)
    return found


def methods(g: Gathered) -> dict[str, tuple[str, Mapping[str, Any]]]:
    """Label to (role, flat metrics): the run first, then its baselines."""
    role = roles(g.baselines)
    return {"This run": ("run", g.metrics)} | {name: (role[name], m) for name, m in g.baselines.items()}


def with_corrections(g: Gathered) -> list[tuple[str, str, Mapping[str, Any]]]:
    """The methods, each followed by its ranking with hubness correction where there is one."""
    found = []
    for label, (role, metrics) in methods(g).items():
        found.append((label, role, metrics))
        if g.corrected.get(label):
            found.append((f"{label}, hubness corrected", role, g.corrected[label]))
    return found


def compared(g: Gathered) -> list[Method]:
    """The methods for the figure, and what sorting by a shortcut alone would reach."""
    found = [
        Method(label, role, value, recall_interval(metrics))
        for label, (role, metrics) in methods(g).items()
        if (value := mean_recall(metrics)) is not None
    ]
    return found + [Method(f"{s.name} alone", "muted", s.oracle[10]) for s in shortcuts(g.metrics) if 10 in s.oracle]


def direction_tables(g: Gathered, family: str = "retrieval") -> list[Table]:
    """One table a direction: R@1/5/10 and median rank of the run, the baselines and chance."""
    found = []
    for name in directions(g.metrics, family):
        query, _, target = name.partition("->")
        prefix = f"{family}/{name}/"
        figures = (*RECALLS, "median_rank")
        known = []
        for label, role, metrics in with_corrections(g):
            values = [finite(metrics.get(f"{prefix}{figure}")) for figure in figures]
            if any_known(values):
                known.append((label, role, values))
        best = _best([values for _, _, values in known])
        rows = [Row(label, role, _cells(values, best)) for label, role, values in known]
        guess = [finite(g.metrics.get(f"{prefix}{figure}_chance")) for figure in figures]
        if any_known(guess):
            rows.append(Row("Chance", "muted", _cells(guess, [None] * len(figures))))
        found.append(Table(f"{query} → {target}", ("", *RECALLS, "median rank"), tuple(rows), ends=(query, target)))
    return found


def any_known(values: Sequence[float | None]) -> bool:
    return any(value is not None for value in values)


def _best(rows: Sequence[Sequence[float | None]]) -> list[float | None]:
    """The best value of each column: the highest recalls, the lowest median rank."""
    best: list[float | None] = []
    for position, column in enumerate(zip(*rows, strict=True)):
        known = [value for value in column if value is not None]
        best.append((min if position == len(RECALLS) else max)(known) if len(known) > 1 else None)
    return best


def _cells(values: Sequence[float | None], best: Sequence[float | None]) -> tuple[Cell, ...]:
    return tuple(Cell(fixed(v), v is not None and v == b) for v, b in zip(values, best, strict=True))


def shortcut_tables(g: Gathered) -> list[tuple[Shortcut, Table]]:
    """For each shortcut: R@1 among candidates of equal value for every method, and the oracle's recalls."""
    found = []
    for shortcut in shortcuts(g.metrics):
        key = f"{shortcut.name}/R@1_equal"
        reached = [(label, role, finite(metrics.get(key))) for label, (role, metrics) in methods(g).items()]
        known = [(label, role, value) for label, role, value in reached if value is not None]
        best = max((value for _, _, value in known), default=0.0)
        rows = [Row(label, role, (Cell(fixed(v), v == best and len(known) > 1),)) for label, role, v in known]
        if shortcut.equal_chance is not None:
            rows.append(Row("Chance", "muted", (Cell(fixed(shortcut.equal_chance)),)))
        queries = shortcut.equal_queries
        many = "" if queries is None else f" ({count(queries)} queries over both directions)"
        note = f"Each query is compared with candidates of exactly its own {shortcut.name}{many}."
        found.append((shortcut, Table(f"R@1 at equal {shortcut.name}", ("", "R@1"), tuple(rows), note)))
    return found


@attrs.frozen
class BatchBar:
    """One tower's rows in a batch (of pairs, of its pool, of pseudo-pairs in its pool), its training items, how often a
    run sees them, and held-out items by split."""

    tower: str
    index: int
    matched: int
    unmatched: int
    pseudo: int
    pairs: int | None
    pool: int | None
    pair_passes: float | None
    pool_passes: float | None
    held_out: tuple[tuple[str, float | None], ...]


def batch_bars(run: RunData) -> list[BatchBar]:
    """What a batch is made of, tower by tower."""
    data = table(run.manifest.get("data"))
    matched = finite(data.get("paired_rows"))
    pools, unmatched = table(data.get("pools")), table(data.get("unpaired_rows"))
    pseudo = finite(data.get("pseudo_rows")) or 0.0
    pairs, steps, held_out = finite(data.get("pairs")), planned_steps(run), table(data.get("held_out"))
    bars = []
    for index, tower in enumerate(run.towers if matched is not None else ()):
        rows, pool = finite(unmatched.get(tower)) or 0.0, finite(pools.get(tower))
        bars.append(
            BatchBar(
                tower=tower,
                index=index,
                matched=int(matched or 0),
                unmatched=int(rows),
                pseudo=int(pseudo),
                pairs=None if pairs is None else int(pairs),
                pool=None if pool is None else int(pool),
                pair_passes=steps * (matched or 0) / pairs if steps and pairs else None,
                pool_passes=steps * (rows + pseudo) / pool if steps and pool else None,
                held_out=tuple((str(split), finite(table(sizes).get(tower))) for split, sizes in held_out.items()),
            )
        )
    return bars


def planned_steps(run: RunData) -> int | None:
    """Steps of the whole run, as planned."""
    for value in (table(run.manifest.get("data")).get("steps"), table(run.resolved.get("train")).get("steps")):
        if (steps := finite(value)) is not None:
            return int(steps)
    return None


def last_step(run: RunData) -> int | None:
    """The last step that left a line."""
    steps = [int(lines[-1]["step"]) for lines in run.lines.values() if lines]
    return max(steps, default=None)


@attrs.frozen
class TowerRow:
    name: str
    index: int
    modality: str
    encoder: str
    training: str
    parameters: str
    weights: str
    licence: str
    random: bool
    citation: str
    facts: tuple[tuple[str, str], ...]


def tower_rows(run: RunData) -> list[TowerRow]:
    """Each tower: what it reads, how large it is, whether it trains, where its weights came from."""
    rows = []
    for index, name in enumerate(run.towers):
        tower = table(table(run.manifest.get("towers")).get(name)) or table(table(run.resolved.get("towers")).get(name))
        facts = table(tower.get("facts"))
        encoder = tower.get("encoder")
        if isinstance(encoder, Mapping):  # from the recipe, where the manifest says nothing
            tower = {**tower, "frozen": encoder.get("freeze")}
            encoder = encoder.get("use")
        frozen, trainable = tower.get("frozen"), finite(tower.get("trainable"))
        training = "frozen encoder" if frozen else "trained" if frozen is not None else words.DASH
        if trainable is not None:
            training += f", {words.compact(trainable)} train"
        source = facts.get("source", facts.get("weights", words.DASH))
        if facts.get("model"):
            source = f"{facts['model']}, {source}"
        shown = ("source", "weights", "model", "licence", "citation", "random")
        rest = {key: value for key, value in facts.items() if key not in shown}
        rows.append(
            TowerRow(
                name=name,
                index=index,
                modality=str(tower.get("modality", words.DASH)),
                encoder=str(encoder or words.DASH),
                training=training,
                parameters=words.compact(tower.get("parameters")),
                weights=str(source),
                licence=str(facts.get("licence") or tower.get("licence") or words.DASH),
                random=facts.get("random") is True,
                citation=str(tower.get("citation") or facts.get("citation") or ""),
                facts=tuple(words.fact_rows(rest)),
            )
        )
    return rows


def troubled(run: RunData) -> bool:
    """Whether the run did not end as it should, or not all of it could be read."""
    return not run.manifest or str(run.manifest.get("status", "")) in STOPPED or bool(run.problems)


def notices(g: Gathered) -> list[str]:
    """Everything a reader must know before any figure, each once."""
    run = g.run
    status, at = str(run.manifest.get("status", "")), last_step(run)
    planned = planned_steps(run)
    found = []
    if status in STOPPED:
        where = "" if at is None else f" at step {count(at)}" + (f" of {count(planned)}" if planned else "")
        why = f": {run.manifest['error']}" if run.manifest.get("error") else ""
        found.append(STOPPED[status].format(at=where, why=why))
    if not run.manifest:
        found.append("The manifest is missing: what exactly was run is not known.")
    recorded = run.manifest.get("notices")
    found += [str(notice) for notice in recorded] if isinstance(recorded, list) else []
    for name, child in run.baselines.items():
        theirs = child.manifest.get("notices")
        found += [f"Baseline {name}: {n}" for n in theirs if n not in found] if isinstance(theirs, list) else []
    return list(dict.fromkeys([*found, *run.problems]))


def headline_facts(run: RunData) -> list[tuple[str, str]]:
    """The line under the title: dataset, objective, steps, seed, time."""
    m, recipe = run.manifest, run.resolved
    steps, done = planned_steps(run), last_step(run)
    form = table(run.results.get("choice")).get("form")  # then nothing was trained
    shown = count(steps) if steps in (done, None) or done is None else f"{count(done)} of {count(steps)}"
    found = [
        ("dataset", table(recipe.get("dataset")).get("use")),
        ("closed form", form),
        ("objective", None if form else table(recipe.get("objective")).get("use")),
        ("steps", None if form else shown),
        ("seed", None if m.get("seed") is None else str(m["seed"])),
        ("time", None if m.get("seconds") is None else words.duration(m["seconds"])),
        ("started", str(m.get("started") or "")[:16].replace("T", " ")),
        ("status", m.get("status")),
    ]
    return [(label, str(value)) for label, value in found if value not in (None, "", words.DASH)]


def version_rows(run: RunData) -> list[tuple[str, str]]:
    """Gentle, its plugins, libraries, source state and host."""
    m = run.manifest
    rows = [("gentle", words.value_text(m.get("gentle")))] if m.get("gentle") else []
    rows += [(f"plugin {name}", words.value_text(value)) for name, value in table(m.get("plugins")).items()]
    rows += [(str(name), str(value)) for name, value in table(m.get("versions")).items()]
    git = m.get("git")
    if isinstance(git, Mapping):
        state = " with changes" if git.get("changed") else ""
        rows.append(("source", f"{words.value_text(git.get('commit'))}{state}"))
    elif git:
        rows.append(("source", str(git)))
    host = m.get("host")
    rows += words.fact_rows({"host": host} if host else {})
    device = table(m.get("data")).get("device")
    return rows + ([("device", str(device))] if device else [])


def command(run: RunData) -> str:
    """The command that made the run, as one line."""
    given = run.manifest.get("command")
    if isinstance(given, (list, tuple)):
        return shlex.join(str(part) for part in given)
    return str(given or "")
