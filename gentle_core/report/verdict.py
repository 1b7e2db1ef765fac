"""What a run showed, in plain words: a pure function from recorded figures to sentences.

Each sentence states a figure, what it is to be compared with, and how sure the comparison is. Nothing is called
better or worse unless a 95 % interval excludes zero, and nothing is called learned unless chance is excluded.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import attrs

from gentle_core.report import retrieval as r
from gentle_core.report.rundir import SPLITS, table
from gentle_core.report.shortcuts import Shortcut, shortcuts
from gentle_core.report.words import THIN, count, finite, listing, percent, signed

Tone = Literal["good", "even", "bad", "unknown"]
K = r.CUTOFF
FIRST = "ten"
CLIP = "CLIP"
CCA = "CCA, closed form"


@attrs.frozen
class Finding:
    """One question a reader asks: a one-word answer, its tone, and the sentences behind it."""

    question: str
    answer: str
    tone: Tone
    text: str


@attrs.frozen
class Verdict:
    """`title` in one line, `lead` as one paragraph, and the findings question by question."""

    title: str
    lead: str
    findings: tuple[Finding, ...] = ()


@attrs.frozen(kw_only=True)
class Evidence:
    """What `verdict` judges, all of it plain data.

    Attributes:
        metrics: flat metrics of the run on one held-out split.
        split: that split's name.
        baselines: flat metrics on the same split by the baseline's name.
        differences: run minus baseline by name (mean R@10, points); absent where none can be given.
        unpaired_rows: unmatched rows a step over all towers; None where unknown.
        pairs: matched pairs of the training set; None where unknown.
        random_towers: towers whose weights were asked for and not found.
        seeds: how many seeds the figures come from.
        status: of the run.
        step: the step of a validation during training, where there are no final results.
        pending: the recipe asks for CLIP on the same pairs, which has not been trained yet.
        choice: where the run is a choice among closed forms, its `form`, the best form on the `pairs_only`, a `reason`.
    """

    metrics: Mapping[str, Any] = attrs.field(factory=dict)
    split: str = "test"
    baselines: Mapping[str, Mapping[str, Any]] = attrs.field(factory=dict)
    differences: Mapping[str, r.Difference] = attrs.field(factory=dict)
    unpaired_rows: int | None = None
    pairs: int | None = None
    random_towers: Sequence[str] = ()
    seeds: int = 1
    status: str = "finished"
    step: int | None = None
    pending: bool = False
    choice: Mapping[str, Any] = attrs.field(factory=dict)


def verdict(evidence: Evidence) -> Verdict:
    """The verdict on a run; always something, however little is known."""
    if r.mean_recall(evidence.metrics) is None:
        return Verdict("No held-out result yet", _nothing(evidence))
    learned = _learned(evidence)
    clip_name, cca_name = find_clip(evidence.baselines), find_cca(evidence.baselines)
    if evidence.choice:
        cca_name = CCA if CCA in evidence.baselines else None
    unpaired = _unpaired_forms(evidence) if evidence.choice else _unpaired(evidence, clip_name)
    closed = _closed_form(evidence, cca_name)
    lengths = [_shortcut(s, evidence) for s in shortcuts(evidence.metrics)]
    trust = _trust(evidence)
    findings = [learned, unpaired, closed, *lengths, trust]
    lead = [_recall_sentence(evidence)]
    if learned.tone == "bad":
        lead.append("That cannot be told from guessing.")
    if clip_name is not None or evidence.choice:
        lead.append(unpaired.text)
    if cca_name is not None and closed.tone == "bad":
        lead.append(f"{_cca_reached(evidence, cca_name)}, which is better.")
    lead += [finding.text for finding in lengths if finding.tone == "bad"]
    if evidence.random_towers:
        lead.append(_random(evidence.random_towers))
    if evidence.seeds < 2:
        lead.append("This is a single seed.")
    return Verdict(_title(learned, unpaired, closed, lengths, evidence), " ".join(lead), tuple(findings))


def find_clip(names: Iterable[str]) -> str | None:
    """The baseline that is CLIP on the same pairs."""
    return next((n for n in names if n.lower().startswith("clip") and "pairs" in n.lower()), None)


def find_cca(baselines: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The strongest of the baselines that are CCA: on untrained features, or on those of the pairs-only run."""
    found = [name for name in baselines if "cca" in name.lower()]
    return max(found, key=lambda name: r.mean_recall(baselines[name]) or 0.0, default=None)


def choose_split(splits: Mapping[str, Any]) -> str | None:
    """The split to report: test, then val, then whichever there is with retrieval figures."""
    order = [*SPLITS, *splits]
    return next((name for name in order if r.mean_recall(table(splits.get(name))) is not None), None)


def _nothing(e: Evidence) -> str:
    why = {
        "interrupted": "The run was interrupted before its first evaluation.",
        "failed": "The run failed before its first evaluation.",
        "running": "The run has not reached its first evaluation.",
    }.get(e.status, "The run directory holds no retrieval figures.")
    return f"{why} The sections below show what was recorded."


def _recall_sentence(e: Evidence) -> str:
    """ "On 800 held-out pairs the right structure is among the first ten for 38.0 % of the sequence queries …"."""
    names = r.directions(e.metrics)
    pool = r.pool_size(e.metrics)
    where = f"Among {count(pool)} held-out candidates" if pool else "On held-out items"
    if e.split == "val":
        where += " (validation split)"
    if e.step is not None:
        where += f", at step {count(e.step)} during training"
    floor = r.chance(e.metrics)
    guess = "" if floor is None else f" (chance {percent(floor)})"
    shares = {name: finite(e.metrics.get(f"retrieval/{name}/R@{K}")) for name in names}
    if len(names) > 2 or None in shares.values() or not names:
        over = f", averaged over {len(names)} directions" if len(names) > 1 else ""
        share = percent(r.mean_recall(e.metrics))
        return f"{where}, the right partner is among the first {FIRST} for {share} of the queries{over}{guess}."
    parts: list[str] = []
    for name in names:
        query, target = name.split("->", 1)
        among = f" is among the first {FIRST}" if not parts else ""
        parts.append(f"the right {target}{among} for {percent(shares[name])} of the {query} queries")
    return f"{where}, {listing(parts)}{guess}."


def _learned(e: Evidence) -> Finding:
    question = "Better than chance?"
    value, floor, n = r.mean_recall(e.metrics), r.chance(e.metrics), r.query_count(e.metrics)
    assert value is not None
    if floor is None or n is None:
        return Finding(question, "Unknown", "unknown", f"R@{K} is {percent(value)}; the chance level was not recorded.")
    p = floor / 100.0
    bound = floor + 100.0 * r.Z95 * math.sqrt(p * (1 - p) / n)
    figures = f"R@{K} is {percent(value)}, averaged over both directions; guessing gives {percent(floor)}"
    if len(r.directions(e.metrics)) != 2:
        figures = figures.replace(", averaged over both directions", "")
    if value <= bound:
        text = f"{figures}, and with {f'{count(n)} queries'} up to {percent(bound)} by luck."
        return Finding(question, "No", "bad", text)
    times = value / floor if floor else math.inf
    text = f"{figures}: {times:.1f} times as much." if times < 10 else f"{figures}: {times:.0f} times as much."
    # In a small pool guessing is good already, and no model can be many times better: the way to 100 % counts too.
    closed = (value - floor) / (100.0 - floor) if floor < 100.0 else 0.0
    if times >= 4 or closed >= 0.25:
        return Finding(question, "Yes", "good", text)
    return Finding(question, "Barely" if times < 2 and closed < 0.1 else "Somewhat", "even", text)


def _interval(d: r.Difference, other: str) -> str:
    text = f"this run minus {other}: {signed(d.value)} points, 95{THIN}% interval {signed(d.low)}…{signed(d.high)}"
    return text if d.paired else f"{text}, estimated from the averages alone"


def _unpaired(e: Evidence, name: str | None) -> Finding:
    question = "Does the unpaired data help?"
    none = e.unpaired_rows == 0
    if name is None:
        if e.pending:
            text = "Not yet: CLIP on the same pairs is trained once the run itself is done."
        elif none:
            text = "This run used matched pairs alone, so it says nothing about unpaired data."
        else:
            text = "Not tested: CLIP on the same pairs was not run beside it ([baseline] pairs_only = true does that)."
        return Finding(question, "Not yet" if e.pending else "Not tested", "unknown", text)
    reached = f"CLIP on the same pairs reaches {percent(r.mean_recall(e.baselines[name]))}"
    d = e.differences.get(name)
    if none:
        text = f"{reached}; this run used no unpaired rows either, so nothing is learned about unpaired data"
        return Finding(question, "Not tested", "unknown", f"{text} ({_interval(d, CLIP)})." if d else f"{text}.")
    if d is None:
        text = f"{reached}; too few held-out queries to say whether the difference is more than luck."
        return Finding(question, "Unknown", "unknown", text)
    interval = _interval(d, CLIP)
    if d.sign > 0:
        return Finding(question, "Yes, here", "good", f"{reached}: the unpaired terms helped here ({interval}).")
    if d.sign < 0:
        return Finding(question, "It harms", "bad", f"{reached}: the unpaired terms did harm here ({interval}).")
    text = f"{reached}: the unpaired terms brought nothing measurable here ({interval})."
    return Finding(question, "Not measurably", "even", text)


def _unpaired_forms(e: Evidence) -> Finding:
    """Of a closed form: beside the best that knows the pairs alone."""
    question = "Does the unpaired data help?"
    form, control = str(e.choice.get("form")), str(e.choice.get("pairs_only"))
    if form == control:
        return Finding(question, "Not taken", "even", f"{e.choice.get('reason')}.")
    reached = f"{control}, the best on the pairs alone by validation, reaches "
    reached += percent(r.mean_recall(e.baselines.get(control, {})))
    d = e.differences.get(control)
    if d is None:
        return Finding(question, "Unknown", "unknown", f"{reached}; too few queries to say more.")
    answer, tone = {1: ("Yes, here", "good"), -1: ("It harms", "bad"), 0: ("Not measurably", "even")}[d.sign]
    text = f"{reached} ({_interval(d, 'it')})."
    return Finding(question, answer, tone, text)  # type: ignore[arg-type]


def _closed_form(e: Evidence, name: str | None) -> Finding:
    question = "Better than CCA?"
    if name is None:
        text = "This run is CCA." if e.choice.get("form") == CCA else "CCA was not fitted beside this run."
        return Finding(question, "Not tested", "unknown", text)
    reached = _cca_reached(e, name)
    d = e.differences.get(name)
    if d is None:
        text = f"{reached}; too few held-out queries to say whether the difference is more than luck."
        return Finding(question, "Unknown", "unknown", text)
    interval = _interval(d, "CCA")
    if d.sign < 0:
        return Finding(question, "No", "bad", f"{reached}, which is better than this run ({interval}).")
    if d.sign > 0:
        return Finding(question, "Yes", "good", f"{reached}, which is below this run ({interval}).")
    return Finding(question, "Not clearly", "even", f"{reached}: no measurable difference ({interval}).")


def _cca_reached(e: Evidence, name: str) -> str:
    label = "Closed-form CCA on the same pairs" if name.startswith("CCA, closed") else name
    return f"{label} reaches {percent(r.mean_recall(e.baselines[name]))}"


def _shortcut(s: Shortcut, e: Evidence) -> Finding:
    question = f"Is it only a {s.name} shortcut?"
    if s.equal is None or s.equal_chance is None:
        return Finding(question, "Unknown", "unknown", f"Retrieval among items of equal {s.name} was not measured.")
    queries = "" if s.equal_queries is None else f", {count(s.equal_queries)} queries"
    equal = (
        f"Among candidates of exactly the same {s.name} the right one comes first for {percent(s.equal)} "
        f"(chance {percent(s.equal_chance)}{queries})"
    )
    oracle, reached = s.oracle.get(K), r.mean_recall(e.metrics)
    caution = ""
    if oracle is not None and reached is not None:
        verb = "more than this run reaches, so R@10 alone proves little" if oracle > reached else "less than this run"
        caution = f" Sorting by {s.name} alone would give R@{K} {percent(oracle)}: {verb}."
    if s.verdict == "beyond":
        return Finding(question, "No", "good", f"{equal}, so the embeddings know more than the {s.name}.{caution}")
    text = f"{equal}, which is no better than guessing: {s.name} explains the retrieval.{caution}"
    return Finding(question, "Yes", "bad", text)


def _random(towers: Sequence[str]) -> str:
    which = f"tower {towers[0]}" if len(towers) == 1 else f"towers {listing(towers)}"
    return f"No pretrained weights were found for {which}, which started from random ones: read every figure so."


def _trust(e: Evidence) -> Finding:
    question = "How sure is this?"
    notes = []
    if e.seeds < 2:
        notes.append(
            "The intervals cover the choice of held-out items, not the luck of the training's seed: "
            "repeat with at least three seeds before claiming a difference."
        )
    else:
        notes.append(f"Averaged over {count(e.seeds)} seeds.")
    if e.split == "val":
        notes.append("These are validation figures: anything that was tuned or selected on them flatters them.")
    if e.random_towers:
        notes.append(_random(e.random_towers))
    if e.status in ("interrupted", "failed", "running"):
        notes.append(f"The run is not complete (status: {e.status}).")
    answer = "One seed" if e.seeds < 2 else f"{count(e.seeds)} seeds"
    return Finding(question, answer, "even" if e.seeds < 3 or len(notes) > 1 else "good", " ".join(notes))


def _title(learned: Finding, unpaired: Finding, closed: Finding, lengths: Sequence[Finding], e: Evidence) -> str:
    if learned.tone == "bad":
        return "Nothing was learned that held-out data can show"
    if any(finding.tone == "bad" for finding in lengths):
        names = listing(s.name for s in shortcuts(e.metrics) if s.verdict == "alone")
        return f"Above chance, but {names} explains it"
    start = {"Barely": "Barely above chance", "Somewhat": "Above chance", "Yes": "The towers were aligned"}.get(
        learned.answer, "Retrieval was measured"
    )
    end = {
        "Yes, here": "and the unpaired data helped",
        "It harms": "but the unpaired data did harm",
        "Not measurably": "but the unpaired data brought nothing measurable",
        "Unknown": "and whether unpaired data helped cannot be told",
    }.get(unpaired.answer)
    if end is None and e.pending:
        end = "and the baselines are still to come"
    if end is None:
        end = "from matched pairs alone" if e.unpaired_rows == 0 else "and the use of unpaired data was not tested"
    tail = "; CCA does better" if closed.tone == "bad" else ""
    comma = "" if e.unpaired_rows == 0 and end.startswith("from") else ","
    return f"{start}{comma} {end}{tail}"
