"""A study's figures in the form of the paper's tables, as Markdown for docs/explanation/evidence.md.

python tests/benchmarks/studies/tables.py studies/flickr8k studies/rsicd
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

BOTH = ("image->text", "text->image")
RECALL = "retrieval/mean/recall"
CORRECTED = "corrected/" + RECALL
ZERO_SHOT = "classes/zero-shot/top1"
Columns = Mapping[str, str]


def columns(study: Mapping[str, Any]) -> dict[str, Columns]:
    """Tables by their heading; a column's heading, and its metric."""
    found: dict[str, Columns] = {
        "Table 3: one fixed caption an image": {
            f"{way.replace('->', ' → ')} R@{k}": f"retrieval_one/{way}/R@{k}" for way in BOTH for k in (1, 5)
        } | {"mean recall (any)": RECALL, "the same, hubness corrected": CORRECTED},
        "any of the captions": {
            f"{way.replace('->', ' → ')} R@{k}": f"retrieval/{way}/R@{k}" for way in BOTH for k in (1, 5, 10)
        },
        "Table 5: R@3 of small pools": {
            f"{way.replace('->', ' → ')} R@3 of {n}": f"pools/{way}/{n}" for way in BOTH for n in (50, 100)
        },
    }  # fmt: skip
    if any(ZERO_SHOT in method["values"] for method in study["methods"].values()):
        zero_shot = {"top 1": ZERO_SHOT, "mean per class": "classes/zero-shot/mean_per_class"}
        return {"Tables 2 and 8: zero-shot": zero_shot | {"mean recall (any)": RECALL}} | found
    return found


def small_pools(path: Path, sizes: Sequence[int] = (50, 100), draws: int = 200, k: int = 3) -> dict[str, float]:
    """R@3 among 50 and among 100 candidates, one fixed caption an image: the mean over random pools."""
    with np.load(path) as arrays:
        image, text = arrays["image.z"].astype(np.float64), arrays["text.z"].astype(np.float64)
        images, texts = arrays["image.samples"].tolist(), arrays["text.samples"].tolist()
    first: dict[str, int] = {}
    for row, sample in enumerate(texts):
        first.setdefault(sample, row)
    scores = image @ text[[first[sample] for sample in images]].T
    rng, found = np.random.default_rng(0), {}
    for size in sizes:
        hits = []
        for _ in range(draws):
            rows = rng.permutation(len(images))[:size]
            part = scores[np.ix_(rows, rows)]
            own = np.diag(part)
            hits.append([((part >= own[:, None]).sum(1) <= k).mean(), ((part >= own).sum(0) <= k).mean()])
        both = 100 * np.mean(hits, axis=0)
        found |= {f"pools/{way}/{size}": float(value) for way, value in zip(BOTH, both, strict=True)}
    return found


def figures(folder: Path, study: Mapping[str, Any]) -> dict[str, dict[str, list[float]]]:
    """Each method's values over the seeds, by metric."""
    found: dict[str, dict[str, list[float]]] = {}
    for name, method in study["methods"].items():
        found[name] = {metric: list(levels[0].values()) for metric, levels in method["values"].items()}
        for path in sorted(folder.glob(f"runs/{name}/paired-*/seed-*/embeddings/test.npz")):
            for metric, value in small_pools(path).items():
                found[name].setdefault(metric, []).append(value)
    return found


def table(study: Mapping[str, Any], values: Mapping[str, Mapping[str, list[float]]], wanted: Columns) -> Iterator[str]:
    yield "| | " + " | ".join(wanted) + " |"
    yield "|---|" + "---|" * len(wanted)
    for name, method in study["methods"].items():
        cells = [spread(values[name].get(metric, [])) for metric in wanted.values()]
        yield f"| {method['label']} | " + " | ".join(cells) + " |"


def spread(values: Sequence[float]) -> str:
    if not values:
        return "—"
    return f"{statistics.fmean(values):.1f}" + (f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else "")


def differences(study: Mapping[str, Any], metric: str) -> Iterator[str]:
    labels = {name: method["label"] for name, method in study["methods"].items()}
    yield "| difference | mean | 95 % interval |"
    yield "|---|---|---|"
    for contrast in study["contrasts"]:
        found = contrast["found"]
        if contrast["metric"] == metric and found["half"] is not None:
            low, high = found["mean"] - found["half"], found["mean"] + found["half"]
            names = f"{labels[contrast['first']]} − {labels[contrast['second']]}"
            yield f"| {names} | {found['mean']:+.2f} | {low:+.2f} … {high:+.2f} |"


def main() -> None:
    for folder in map(Path, sys.argv[1:]):
        study = json.loads((folder / "study.json").read_text())
        values = figures(folder, study)
        print(f"## {study['study']}\n")
        for heading, wanted in columns(study).items():
            print(f"{heading}:\n\n" + "\n".join(table(study, values, wanted)) + "\n")
        for metric in (RECALL, CORRECTED, ZERO_SHOT):
            if any(contrast["metric"] == metric for contrast in study["contrasts"]):
                print(f"Differences in {metric}:\n\n" + "\n".join(differences(study, metric)) + "\n")
        for search in study["searches"]:
            tried = [f"{dict(s)} → {v:.2f}" for s, v in zip(search["settings"], search["validation"], strict=True)]
            print(f"- {search['variant']}: took {search['settings'][search['taken']]}; " + "; ".join(tried))


if __name__ == "__main__":
    main()
