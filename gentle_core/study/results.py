"""What a study found, in plain numbers: the source of its table, its plot and its page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import numpy as np

from gentle_core.study.compare import Mean, Values, best, difference
from gentle_core.study.execute import Outcome
from gentle_core.study.plan import Plan, Variant


@attrs.frozen
class Searched:
    """What a search saw: validation means by combination, and the one that was taken."""

    variant: str
    level: int
    settings: tuple[Mapping[str, Any], ...]
    validation: tuple[float | None, ...]
    taken: int


@attrs.frozen
class Contrast:
    """A paired difference over seeds: `first` − `second`. `kind` is "control", "rival", or "best rival"."""

    metric: str
    level: int
    first: str
    second: str
    kind: str
    found: Mean


@attrs.frozen
class Results:
    """All figures of a study.

    Attributes:
        pairs: matched pairs at each level.
        values: metric → variant → level → seed → value, on the split of comparison.
        chance: of the study's metric, by level; None where it has none.
        failures: runs without figures, one line each.
    """

    plan: Plan
    pairs: tuple[int | None, ...]
    values: Mapping[str, Mapping[str, tuple[Values, ...]]]
    validation: Mapping[str, tuple[Values, ...]]
    chance: tuple[float | None, ...]
    searches: tuple[Searched, ...]
    contrasts: tuple[Contrast, ...]
    failures: tuple[str, ...]

    def differences(self, metric: str = "") -> list[Contrast]:
        """The paired differences in a metric; the study's own by default."""
        wanted = metric or self.plan.study.table.metric
        return [contrast for contrast in self.contrasts if contrast.metric == wanted]

    def mean(self, metric: str, variant: str, level: int) -> Mean | None:
        return Mean.of(list(self.values[metric][variant][level].values()))

    def as_json(self) -> dict[str, Any]:
        """JSON-ready, with each seed's value."""
        table = self.plan.study.table
        return {
            "study": self.plan.study.title,
            "metric": table.metric,
            "split": table.split,
            "levels": [{"paired": p, "pairs": n} for p, n in zip(self.plan.levels, self.pairs, strict=True)],
            "methods": {
                name: {
                    "label": variant.label, "control_of": variant.of or None,
                    "values": {
                        metric: [{str(seed): v for seed, v in level.items()} for level in by_variant[name]]
                        for metric, by_variant in self.values.items()
                    },
                }
                for name, variant in self.plan.variants.items()
            },
            "searches": [attrs.asdict(s) for s in self.searches],
            "contrasts": [attrs.asdict(c) for c in self.contrasts],
            "failures": list(self.failures),
        }  # fmt: skip


def choose(plan: Plan, outcomes: Sequence[Outcome], lower: bool) -> tuple[Searched, ...]:
    """The best combination of every search, by the mean over its seeds on validation."""
    found = []
    for variant in plan.variants.values():
        grid = variant.grid()
        for level in range(len(plan.levels)):
            mine = [o for o in outcomes if o.job.variant == variant.name and o.job.level == level]
            if not mine:
                continue
            seen = {
                str(n): _values([o for o in mine if o.job.choice == n], "val", plan.study.table.criterion)
                for n in range(len(grid))
            }
            means = tuple(float(np.mean(list(v.values()))) if v else None for v in seen.values())
            found.append(Searched(variant.name, level, tuple(grid), means, int(best(seen, lower) or 0)))
    return tuple(found)


def collect(plan: Plan, outcomes: Sequence[Outcome], searches: Sequence[Searched], lower: bool) -> Results:
    """Order the outcomes of the final runs, and compare them."""
    table, levels = plan.study.table, range(len(plan.levels))

    def values(split: str, metric: str) -> dict[str, tuple[Values, ...]]:
        return {
            name: tuple(
                _values([o for o in outcomes if o.job.variant == name and o.job.level == level], split, metric)
                for level in levels
            )
            for name in plan.variants
        }

    def own(outcome: Outcome) -> bool:
        return plan.variants[outcome.job.variant].paired is not None

    metrics = dict.fromkeys((table.metric, *table.also))
    found = {metric: values(table.split, metric) for metric in metrics}
    validation = values("val", table.criterion)
    chances = values(table.split, f"{table.metric}_chance")
    failures = [f"{o.job.folder}: {o.error}" for o in outcomes if o.error]
    failures += [
        f"{o.job.folder}: there is no {table.metric!r} on {table.split!r}"
        for o in outcomes
        if not o.error and table.metric not in o.metrics.get(table.split, {})
    ]
    return Results(
        plan=plan,
        pairs=tuple(
            next((o.rows.pairs for o in outcomes if o.rows and o.job.level == at and not own(o)), None) for at in levels
        ),
        values=found,
        validation=validation,
        chance=tuple(next((v for by in chances.values() for v in by[at].values()), None) for at in levels),
        searches=tuple(searches),
        contrasts=tuple(
            c
            for metric in metrics
            for at in levels
            for c in _contrasts(plan, metric, found[metric], validation, at, lower)
        ),
        failures=tuple(failures),
    )


def _contrasts(
    plan: Plan,
    metric: str,
    values: Mapping[str, tuple[Values, ...]],
    validation: Mapping[str, tuple[Values, ...]],
    level: int,
    lower: bool,
) -> list[Contrast]:
    rivals = plan.study.table.rivals
    strongest = best({name: validation[name][level] for name in rivals}, lower)
    wanted: list[tuple[Variant, str, str]] = []
    for variant in plan.variants.values():
        if variant.of or variant.name in rivals:
            continue
        wanted += [(variant, c.name, "control") for c in plan.variants.values() if c.of == variant.name]
        wanted += [
            (variant, rival, "best rival" if rival == strongest and len(rivals) > 1 else "rival") for rival in rivals
        ]
    found = []
    for variant, other, kind in wanted:
        mean = difference(values[variant.name][level], values[other][level])
        if mean is not None:
            found.append(Contrast(metric, level, variant.name, other, kind, mean))
    return found


def _values(outcomes: Sequence[Outcome], split: str, metric: str) -> Values:
    return {o.job.seed: o.metrics[split][metric] for o in outcomes if metric in o.metrics.get(split, {})}
