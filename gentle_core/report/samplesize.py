"""The figure of `gentle sample-size`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from matplotlib.figure import Figure

from gentle_core.errors import DataError


class Point(Protocol):
    """One size on a curve: rows of a batch, and the difference in % of that at two rows."""

    @property
    def size(self) -> int: ...
    @property
    def percent(self) -> float: ...


def draw(curves: Mapping[str, Sequence[Point]], percent: float, path: Path) -> None:
    """The difference by size, one line a set, and what is small enough; .svg, .png or .pdf.

    Raises:
        DataError: the file cannot be written.
    """
    figure = Figure(figsize=(5.5, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for name, curve in curves.items():
        axes.plot([p.size for p in curve], [p.percent for p in curve], "o-", markersize=4, label=name)
    axes.axhline(percent, color="grey", linestyle=":", label=f"{percent:g} %")
    sizes = sorted({point.size for curve in curves.values() for point in curve})
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(sizes, labels=[str(size) for size in sizes])
    axes.set_xlabel("rows of a batch")
    axes.set_ylabel("difference of two batches, % of that at two rows")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.legend(frameon=False)
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error}") from error
