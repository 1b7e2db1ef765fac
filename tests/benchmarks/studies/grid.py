"""What `gentle baseline` brought in each field at each number of pairs: one table, and a plot.

    python tests/benchmarks/studies/grid.py proteins=studies/few-pairs-proteins scenes=studies/few-pairs-scenes \
        --plot docs/images/few-pairs.svg

Reads the study.json of studies with the methods clip, cca and recommended, as few-pairs-*.toml have them; a field may
be named again where its levels are spread over several studies. Differences are means over draws of pairs with the
half-width of the 95 % interval: to that of CLIP and CCA which is better on validation, and to the same choice without
the unpaired data, which is what the pools brought.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

METHODS = ("clip", "cca", "recommended")
KINDS = {"best rival": "minus the better of CLIP and CCA", "control": "owed to the pools"}
STYLES = {"best rival": ("-", "o"), "control": (":", "s")}
COLOURS = ("#1f77b4", "#d95f02", "#4d9221")
Study = Mapping[str, Any]


def contrasts(study: Study, kind: str) -> list[Mapping[str, float] | None]:
    """Of each level: {"mean", "half", …} of what the recommended method has more than its rival or its control."""
    found: list[Mapping[str, float] | None] = [None] * len(study["levels"])
    for contrast in study["contrasts"]:
        if contrast["kind"] == kind and contrast["metric"] == study["metric"] and contrast["first"] == "recommended":
            found[contrast["level"]] = contrast["found"]
    return found


def rows(field: str, study: Study) -> Iterator[list[str]]:
    gains = {kind: contrasts(study, kind) for kind in KINDS}
    for number, level in enumerate(study["levels"]):
        values = [study["methods"][name]["values"][study["metric"]][number].values() for name in METHODS]
        means = [f"{statistics.fmean(of):.1f} ± {statistics.stdev(of):.1f}" for of in values]
        draws = len(values[-1])
        yield [
            field,
            f"{level['pairs']:,}" + (f", {draws} draws" if draws != 5 else ""),
            *means,
            *(signed(gains[kind][number]) for kind in KINDS),
        ]


def signed(found: Mapping[str, float] | None) -> str:
    if found is None or found["half"] is None:
        return "—"
    return f"{found['mean']:+.2f} ± {found['half']:.2f}".replace("-", "−")


def paint(axes: Axes, studies: Sequence[tuple[str, Study]]) -> None:
    axes.axhline(0.0, color="#888888", linewidth=0.8)
    for number, field in enumerate(dict.fromkeys(field for field, _ in studies)):
        for kind, (line, mark) in STYLES.items():
            there = sorted(
                (level["pairs"] * 1.03 ** (number - 1), found["mean"], found["half"])  # bars beside one another
                for named, study in studies if named == field
                for level, found in zip(study["levels"], contrasts(study, kind), strict=True)
                if found is not None and found["half"] is not None
            )  # fmt: skip
            x, mean, half = zip(*there, strict=True)
            axes.errorbar(x, mean, half, color=COLOURS[number % 3], linestyle=line, marker=mark, markersize=4,
                          capsize=2, linewidth=1.4, elinewidth=0.8, label=f"{field}: {KINDS[kind]}")  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlabel("pairs")
    axes.set_ylabel("points of mean recall")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=7.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="+", metavar="FIELD=FOLDER")
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    studies = []
    for named in given.studies:
        field, _, folder = named.partition("=")
        studies.append((field, json.loads((Path(folder) / "study.json").read_text())))
    print("| | pairs | CLIP, tuned | CCA | gentle baseline | " + " | ".join(KINDS.values()) + " |")
    print("|---" * 7 + "|")
    for field, study in studies:
        for row in rows(field, study):
            print("| " + " | ".join(row) + " |")
    if given.plot:
        with rc_context({"svg.fonttype": "none", "svg.hashsalt": "few-pairs", "font.size": 9.0}):
            figure = Figure(figsize=(6.4, 3.8), layout="constrained")
            paint(figure.add_subplot(), studies)
            figure.savefig(given.plot, metadata={"Date": None})


if __name__ == "__main__":
    main()
