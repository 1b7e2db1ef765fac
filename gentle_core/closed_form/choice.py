"""Which closed form to take: one that uses pools only where validation favours it clearly."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from gentle_core.closed_form.forms import Form
from gentle_core.evaluate.bootstrap import Difference, paired_bootstrap

CLEAR = 0.3829
"""Level of the interval by which the gain of a form with pools must exceed 0: about half a standard error."""


@attrs.frozen(eq=False)
class Choice:
    """Which form to take.

    Attributes:
        form: the chosen one.
        pairs_only: the best that knows the pairs alone, by validation.
        with_pools: the best that uses unmatched rows; None where there is none.
        gain: its mean recall minus that of `pairs_only` on validation, with an interval of about half a standard error.
        on: what the forms were judged on.
    """

    form: Form
    pairs_only: Form
    with_pools: Form | None
    gain: Difference | None
    on: str = "validation"

    @property
    def reason(self) -> str:
        """In a sentence."""
        if self.with_pools is None or self.gain is None:
            return f"{self.pairs_only.label}: the best on {self.on}; there are no unmatched pools to use"
        change = f"{self.gain.difference:+.1f} points of mean recall on {self.on}"
        if self.form is self.with_pools:
            return f"{self.form.label}: with the pools {change} over the best form on the pairs alone"
        return (
            f"{self.form.label}: the best on the pairs alone. The best form with the pools ({self.with_pools.label}) "
            f"gives {change}, too little to tell it from chance"
        )


def choose(forms: Sequence[Form], seed: int = 0, on: str = "validation") -> Choice:
    """The best form on validation; one that uses pools only where it is better by more than half a standard error.

    Forms with pools have more settings to be lucky with, and pools can harm: hence the handicap.
    """
    alone = max((form for form in forms if not form.pools), key=lambda form: form.recall, default=None)
    if alone is None:
        raise ValueError("no form on the pairs alone to compare with: name ridge, cca or procrustes")
    pooled = max((form for form in forms if form.pools), key=lambda form: form.recall, default=None)
    if pooled is None:
        return Choice(alone, alone, None, None, on)
    gain = paired_bootstrap(pooled.ranks, alone.ranks, level=CLEAR, seed=seed)["mean/recall"]
    return Choice(pooled if gain.low > 0 else alone, alone, pooled, gain, on)
