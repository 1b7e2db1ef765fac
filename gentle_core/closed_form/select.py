"""Fits whose settings (ridge, column weights, dimension) are chosen by retrieval on validation data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import attrs
import numpy as np

from gentle_core.closed_form.judge import ALONE, Judge
from gentle_core.closed_form.linear import Alignment, Method, Spectrum, cca, procrustes, ridge_regression
from gentle_core.closed_form.moments import Moments
from gentle_core.errors import DataError
from gentle_core.evaluate.arrays import Ids
from gentle_core.evaluate.retrieval import KS, Mates, Ranks, describe_all, mean_recall

RIDGES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
POWERS = (0.0, 0.5, 1.0, 2.0, 3.0)
DIMENSIONS = (32, 128, 512)
FINALISTS = 2
"""Ridges with which all powers are tried."""


@attrs.frozen(eq=False)
class Selected:
    """An alignment whose settings were chosen on validation data.

    Attributes:
        alignment: the maps, with weights and dimension applied.
        settings: what was chosen: "ridge" (c), "power" (p), "dimension".
        ranks: of the validation rows, by direction "x->y" and "y->x".
        metrics: retrieval on the validation data, as `retrieval_both` names it, x being "x" and y "y".
        tried: every setting and its validation mean recall (percent), in the order of the search.
    """

    alignment: Alignment
    settings: dict[str, float]
    ranks: dict[str, Ranks]
    metrics: dict[str, float]
    tried: list[dict[str, float]]


def fit_select(
    x_train: Any,
    y_train: Any,
    x_val: Any,
    y_val: Any,
    *,
    samples_x_val: Ids | None = None,
    samples_y_val: Ids | None = None,
    method: Method = "cca",
    ridges: Sequence[float] = RIDGES,
    powers: Sequence[float] = POWERS,
    dimensions: Sequence[int] = DIMENSIONS,
    ks: Sequence[int] = KS,
    standardize: bool = True,
    judge: Judge = ALONE,
) -> Selected:
    """Fit on paired rows and choose ridge c, weight power p and dimension by mean recall on validation data.

    Args:
        x_train, y_train: (n, p), (n, q): row i of one is a pair with row i of the other (repeat rows where a sample
            has several items: `arrays.matched_rows` gives their indices).
        x_val, y_val: (m, p), (l, q) validation features.
        samples_x_val, samples_y_val: their sample ids; by position where absent.
        dimensions: tried where smaller than the full dimension, which is always tried.
        judge: by whose ranks settings are judged.

    Every ridge is tried with one power and all dimensions, the `FINALISTS` best ridges with the other powers too.
    Of settings with equal mean recall, the one with the higher mean reciprocal rank wins, then the first tried.
    The best of many settings is a little too good on the data that chose it: report other data where there are any.
    Raises:
        DataError: fewer than two pairs, or no validation pair.
    """
    mates = Mates.of(
        range(len(x_val)) if samples_x_val is None else samples_x_val,
        range(len(y_val)) if samples_y_val is None else samples_y_val,
    )
    if not len(mates.rows_u):
        raise DataError("no pair among the validation items: the settings of a closed form cannot be chosen")
    spectrum = Spectrum.of(Moments.of(x_train, y_train), standardize)
    best = (-1.0, -1.0)
    chosen: tuple[Alignment, dict[str, float], dict[str, Ranks]] | None = None
    tried: list[dict[str, float]] = []
    fits = []
    for full, found_by in _fits(spectrum, method, ridges):
        # Weights and truncation act on columns: project the validation rows once a fit.
        fits.append((full, found_by, full.project_x(x_val), full.project_y(y_val)))
    first = 1.0 if 1.0 in powers else next(iter(powers))
    reached = [-1.0] * len(fits)
    rounds: list[tuple[int, tuple[float, ...]]] = [(number, (first,)) for number in range(len(fits))]
    while rounds:
        number, among = rounds.pop(0)
        full, found_by, x, y = fits[number]
        widest = judge.least(len(full.strength))
        for setting in _weightings(full, among, [d for d in dimensions if d < widest]):
            weighted = full.weighted(**setting) if setting else full
            z_x, z_y = (weighted.unit(full.weigh(z, **setting) if setting else z) for z in (x, y))
            ranks = judge.ranks(mates.ranks_of_rows(z_x, z_y, ("x", "y")))
            settings, recall = found_by | setting, mean_recall(ranks, ks)
            score = (recall, sum(float(np.mean(1.0 / direction.rank)) for direction in ranks.values()))
            tried.append(settings | {"recall": recall})
            reached[number] = max(reached[number], recall)
            if score > best:
                best, chosen = score, (weighted, settings, ranks)
        if not rounds and among == (first,) and len(powers) > 1 and len(full.strength):
            order = sorted(range(len(fits)), key=lambda n: -reached[n])
            rounds = [(n, tuple(power for power in powers if power != first)) for n in order[:FINALISTS]]
    if chosen is None:
        raise ValueError("nothing to choose from: give at least one ridge and one power")
    alignment, settings, ranks = chosen
    return Selected(alignment, settings, ranks, describe_all(ranks, ks), tried)


def _fits(spectrum: Spectrum, method: Method, ridges: Sequence[float]) -> Iterator[tuple[Alignment, dict[str, float]]]:
    """The costly part: one fit a ridge."""
    if method == "procrustes":
        yield procrustes(spectrum), {}
        return
    fit = cca if method == "cca" else ridge_regression
    for ridge in ridges:
        yield fit(spectrum, ridge), {"ridge": ridge}


def _weightings(full: Alignment, powers: Sequence[float], dimensions: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Every dimension, the full one as well, and power of a fit; ridge regression has neither."""
    k = len(full.strength)
    if not k:
        yield {}
        return
    for dimension in [*dimensions, k]:
        for power in powers:
            yield {"power": power, "dimension": dimension}
