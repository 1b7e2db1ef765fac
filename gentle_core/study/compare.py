"""Figures of a study: means over seeds, and differences between methods seed by seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
import numpy as np
from scipy import stats

LEVEL = 0.95


@attrs.frozen
class Mean:
    """Mean over n seeds, its standard deviation (n − 1) and the half-width of the mean's 95 % interval.

    The interval is Student's t interval; with a single seed there is neither deviation nor interval.
    """

    mean: float
    deviation: float | None
    half: float | None
    count: int

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.half is not None and abs(self.mean) > self.half

    @classmethod
    def of(cls, values: Sequence[float]) -> Mean | None:
        """None of no values."""
        if not len(values):
            return None
        x = np.asarray(values, dtype=np.float64)
        if len(x) == 1:
            return cls(float(x[0]), None, None, 1)
        deviation = float(x.std(ddof=1))
        half = float(stats.t.ppf(0.5 + LEVEL / 2, len(x) - 1)) * deviation / len(x) ** 0.5
        return cls(float(x.mean()), deviation, half, len(x))


Values = Mapping[int, float]
"""A metric by seed."""


def difference(ours: Values, theirs: Values) -> Mean | None:
    """Ours − theirs over the seeds that both have: what the seeds share (pairs, batches, first weights) cancels."""
    return Mean.of([ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())])


def best(validation: Mapping[str, Values], lower: bool = False) -> str | None:
    """The method with the best mean on validation; the first of equals. None where none has a value."""
    means = {name: float(np.mean(list(values.values()))) for name, values in validation.items() if values}
    if not means:
        return None
    return min(means, key=lambda name: means[name] if lower else -means[name])
