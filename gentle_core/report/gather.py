"""Brings a run directory's pieces together: which split is reported, which methods are compared, how sure it is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import attrs

from gentle_core.report import retrieval as r
from gentle_core.report.rundir import SPLITS, Points, RunData, table
from gentle_core.report.verdict import Evidence, choose_split
from gentle_core.report.words import finite

CLIP_NAME = "CLIP, pairs only"
FOLDERS = {
    CLIP_NAME: "pairs_only",
    "CCA, closed form": "cca",
    "CCA on the pairs-only features": "cca_pairs_only_features",
    "CCA on this run's features": "cca_own_features",
}
"""Where each baseline leaves its embeddings, under `baselines/`."""


@attrs.frozen(kw_only=True, eq=False)
class Gathered:
    """What the sections draw on.

    Attributes:
        split: the reported held-out split; None where nothing was evaluated.
        step: step of the evaluation, where it is one from during the training.
        metrics: flat metrics of the run on that split.
        baselines: flat metrics of each baseline on that split.
        corrected: retrieval figures with hubness correction on that split, by "This run" or a baseline's name.
        embeddings: the run's embeddings of that split by tower, or of another split where that one has none.
        ranks: ranks by direction of the run, and of the baselines whose embeddings are there.
    """

    run: RunData
    split: str | None
    step: int | None
    metrics: Mapping[str, Any]
    baselines: Mapping[str, Mapping[str, Any]]
    embeddings: Mapping[str, Points]
    ranks: Mapping[str, r.Ranks]
    baseline_ranks: Mapping[str, Mapping[str, r.Ranks]]
    corrected: Mapping[str, Mapping[str, Any]] = attrs.field(factory=dict)

    @property
    def evidence(self) -> Evidence:
        manifest = self.run.manifest
        data = table(manifest.get("data"))
        facts = table(self.run.results.get("facts"))
        pairs = finite(data.get("pairs"))
        return Evidence(
            metrics=self.metrics,
            split=self.split or "",
            baselines=self.baselines,
            differences=self.differences,
            unpaired_rows=unpaired_rows(data),
            pairs=None if pairs is None else int(pairs),
            random_towers=random_towers(manifest),
            seeds=int(finite(facts.get("seeds")) or 1),
            status=str(manifest.get("status", "finished")),
            step=self.step,
            choice=table(self.run.results.get("choice")),
            pending=not self.baselines and self._asks_for_pairs_only and manifest.get("status") != "finished",
        )

    @property
    def _asks_for_pairs_only(self) -> bool:
        return table(self.run.resolved.get("baseline")).get("pairs_only") is True

    @property
    def differences(self) -> dict[str, r.Difference]:
        """Run minus baseline: as recorded, or on the same queries where both rankings are known, or from averages."""
        found = {}
        recorded = table(self.run.results.get("comparisons"))
        for name, metrics in self.baselines.items():
            difference = r.recorded_difference(table(recorded.get(name)).get(self.split or ""))
            difference = difference or r.paired_difference(self.ranks, self.baseline_ranks.get(name, {}))
            difference = difference or r.independent_difference(self.metrics, metrics)
            if difference:
                found[name] = difference
        return found


def gather(run: RunData) -> Gathered:
    """Everything the report says about held-out data."""
    splits = table(run.results.get("splits"))
    split, step = choose_split(splits), None
    metrics: Mapping[str, Any] = table(splits.get(split)) if split else {}
    if split is None:
        # No final results: the last evaluation during training is the best there is.
        last = {name: lines[-1] for name, lines in run.lines.items() if name != "train"}
        split = choose_split(last)
        if split is not None:
            metrics, step = last[split], int(last[split]["step"])
    baselines = _baselines(run, split) if split is not None and step is None else {}
    held = [name for name in (split or "", *SPLITS, *run.embeddings) if name in run.embeddings]
    embeddings = run.embeddings[held[0]] if held else {}
    return Gathered(
        run=run,
        split=split,
        step=step,
        metrics=metrics,
        baselines=baselines,
        embeddings=embeddings,
        ranks=_ranks(embeddings, metrics) if step is None else {},
        baseline_ranks={
            name: _ranks(child.embeddings.get(split or "", {}), baselines[name])
            for name in baselines
            if (child := baseline_run(run, name)) is not None
        },
        corrected={
            str(name): table(table(table(found).get("splits")).get(split or ""))
            for name, found in table(run.results.get("corrected")).items()
        },
    )


def _baselines(run: RunData, split: str) -> dict[str, Mapping[str, Any]]:
    """Baselines with retrieval figures on `split`: those in results.json, then those in folders of their own."""
    found: dict[str, Mapping[str, Any]] = {}
    for name, splits in table(run.results.get("baselines")).items():
        metrics = table(table(splits).get(split))
        if r.mean_recall(metrics) is not None:
            found[str(name)] = metrics
    names = {folder: name for name, folder in FOLDERS.items()}
    for folder, child in run.baselines.items():
        metrics = table(table(child.results.get("splits")).get(split))
        name = names.get(folder, folder.replace("_", " "))
        if r.mean_recall(metrics) is not None and name not in found:
            found[name] = metrics
    return found


def baseline_run(run: RunData, name: str) -> RunData | None:
    """The folder behind a baseline's name: a known one, or the name with underscores for all but letters and digits."""
    return run.baselines.get(FOLDERS.get(name) or re.sub(r"[^\w+]+", "_", name).strip("_"))


def _ranks(embeddings: Mapping[str, Points], metrics: Mapping[str, Any]) -> Mapping[str, r.Ranks]:
    found = r.all_ranks(embeddings)
    found = {name: found[name] for name in r.directions(metrics) if name in found}
    return found if r.agrees(found, metrics) else {}


def unpaired_rows(data: Mapping[str, Any]) -> int | None:
    """Rows a step from the unmatched pools over all towers, those of pseudo-pairs included."""
    rows, pseudo = data.get("unpaired_rows"), finite(data.get("pseudo_rows")) or 0.0
    if isinstance(rows, Mapping):
        known = [value for value in map(finite, rows.values()) if value is not None]
        return int(sum(known) + pseudo * len(known)) if known or rows == {} else None
    number = finite(rows)
    return None if number is None else int(number + pseudo)


def random_towers(manifest: Mapping[str, Any]) -> list[str]:
    """Towers that wanted pretrained weights and started from random ones: `"random": true` in their facts, and not
    `"wanted": true`, which says that the recipe asked for them."""
    facts = {str(name): table(table(tower).get("facts")) for name, tower in table(manifest.get("towers")).items()}
    return [name for name, found in facts.items() if found.get("random") is True and found.get("wanted") is not True]
