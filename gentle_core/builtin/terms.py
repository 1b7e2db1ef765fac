"""Options of the losses that are one term each, and what follows from them before anything is built."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import attrs

from gentle_core.builtin.asks import UNPAIRED, Lookup
from gentle_core.specs import Need

MIN_SDD_ROWS = 128
"""Below so many rows a tower, two samples of one distribution already differ by some 6e-3 in SDD."""


def _between(low: float, high: float) -> Any:
    return attrs.validators.and_(attrs.validators.ge(low), attrs.validators.le(high))


@attrs.frozen(kw_only=True)
class ClipConfig:
    """Options of `core/clip`.

    Attributes:
        temperature: τ at the start; logits are cosines over τ.
        learn_temperature: learn τ along with the model.
        max_scale: largest 1/τ.
        negatives: "paired": a pair's negatives are the other matched rows. "all": the unmatched rows as well; in a
            shuffled pool some of them are mates in truth.
    """

    temperature: float = attrs.field(default=0.07, validator=attrs.validators.gt(0))
    learn_temperature: bool = True
    max_scale: float = attrs.field(default=100.0, validator=attrs.validators.gt(0))
    negatives: Literal["paired", "all"] = attrs.field(
        default="paired", validator=attrs.validators.in_(("paired", "all"))
    )

    def needs(self, lookup: Lookup | None = None) -> frozenset[Need]:
        pairs: frozenset[Need] = frozenset({"pairs"})
        return pairs | UNPAIRED if self.negatives == "all" else pairs


@attrs.frozen(kw_only=True)
class SslConfig:
    """Options of `core/ssl`.

    Attributes:
        temperature: fixed, and not that of the contrastive loss over pairs.
        form: "ntxent" (both views against all other rows), "simcse" (first views against second views) or "eq7" (as
            printed in the paper, the positive missing from the denominator).
    """

    temperature: float = attrs.field(default=0.05, validator=attrs.validators.gt(0))
    form: Literal["ntxent", "simcse", "eq7"] = attrs.field(
        default="ntxent", validator=attrs.validators.in_(("ntxent", "simcse", "eq7"))
    )


@attrs.frozen(kw_only=True)
class MmdConfig:
    """Options of `core/mmd`.

    Attributes:
        beta: "adversarial": the kernel weights ascend while the model descends. "fixed": they stay at `weights`.
        weights: of the Gaussian and of the polynomial kernel (at the start); scaled to sum to 1.
        floor: the least weight of a kernel under the adversary.
        bandwidth: h of the Gaussian kernel exp(-|x-y|^2/(2h^2)); without it, the median distance in each batch.
        degree, offset: p and c of the polynomial kernel ((x.y+c)/(1+c))^p.
    """

    beta: Literal["adversarial", "fixed"] = attrs.field(
        default="adversarial", validator=attrs.validators.in_(("adversarial", "fixed"))
    )
    weights: tuple[float, float] = attrs.field(default=(0.5, 0.5), converter=tuple)
    floor: float = attrs.field(default=0.05, validator=_between(0, 0.5))
    bandwidth: float | None = attrs.field(default=None, validator=attrs.validators.optional(attrs.validators.gt(0)))
    degree: int = attrs.field(default=2, validator=attrs.validators.ge(1))
    offset: float = attrs.field(default=1.0, validator=attrs.validators.ge(0))

    @weights.validator
    def _on_the_simplex(self, _: Any, value: Sequence[float]) -> None:
        if len(value) != 2 or min(value) < 0 or sum(value) <= 0:
            raise ValueError(f"weights={value!r}: give two numbers, not negative and not both 0")


@attrs.frozen(kw_only=True)
class SddConfig:
    """Options of `core/sdd`.

    Attributes:
        bandwidth: b, the width of the density kernel in units of a set's standard deviation.
        normalise: compare densities normalised over the points; False compares raw densities, which see a gap
            between the modalities.
        exclude_self: leave a point itself out of the density of its own set.
        detach_target: a set's density under itself is a constant target.
    """

    bandwidth: float = attrs.field(default=1.0, validator=attrs.validators.gt(0))
    normalise: bool = True
    exclude_self: bool = False
    detach_target: bool = False

    def hints(self, paired_rows: int | None = None, rows: int | None = None) -> list[str]:
        if rows is not None and rows < MIN_SDD_ROWS:
            return [
                f"SDD sees only {rows} rows of a tower in a batch: two samples of one distribution then differ by "
                f"about {0.75 / max(rows, 1):.1g} already; raise train.paired_rows or train.unpaired_rows "
                f"to {MIN_SDD_ROWS} or more in sum"
            ]
        return []


@attrs.frozen(kw_only=True)
class PseudoPairsConfig:
    """Options of `core/pseudo-pairs`.

    Attributes:
        temperature: τ at the start; logits are cosines over τ.
        learn_temperature: learn τ along with the model; it is not that of the loss over pairs.
        max_scale: largest 1/τ.
    """

    temperature: float = attrs.field(default=0.07, validator=attrs.validators.gt(0))
    learn_temperature: bool = True
    max_scale: float = attrs.field(default=100.0, validator=attrs.validators.gt(0))


@attrs.frozen(kw_only=True)
class KlotConfig:
    """Options of `core/klot`.

    Attributes:
        target: whose plan is to be met. "modalities": over the matched samples, each modality's own plan by the
            other's. "reference": over all rows, the plan of the rows that the teacher of `[pseudo]` gives the batch's
            items; 0 until it has been asked.
        epsilon: of the plans, in units of cosines.
        target_epsilon: of the target's plan; without it, the same.
        steps: Sinkhorn's alternations for each plan.
    """

    target: Literal["modalities", "reference"] = attrs.field(
        default="modalities", validator=attrs.validators.in_(("modalities", "reference"))
    )
    epsilon: float = attrs.field(default=0.05, validator=attrs.validators.gt(0))
    target_epsilon: float | None = attrs.field(
        default=None, validator=attrs.validators.optional(attrs.validators.gt(0))
    )
    steps: int = attrs.field(default=50, validator=attrs.validators.ge(1))

    def needs(self, lookup: Lookup | None = None) -> frozenset[Need]:
        return frozenset({"pairs"}) if self.target == "modalities" else UNPAIRED | {"reference"}


@attrs.frozen(kw_only=True)
class NeighboursConfig:
    """Options of `core/neighbours`.

    Attributes:
        temperature: of the predictions across modalities.
        target_temperature: of the targets within a modality.
    """

    temperature: float = attrs.field(default=0.07, validator=attrs.validators.gt(0))
    target_temperature: float = attrs.field(default=0.1, validator=attrs.validators.gt(0))


@attrs.frozen(kw_only=True)
class SinkhornConfig:
    """Options of `core/sinkhorn`.

    Attributes:
        blur: the distance below which detail is not seen; its square is the entropic regularisation.
        scaling: from 0 to below 1: nearer to 1 is slower and more exact.
    """

    blur: float = attrs.field(default=0.05, validator=attrs.validators.gt(0))
    scaling: float = attrs.field(
        default=0.5, validator=attrs.validators.and_(attrs.validators.gt(0), attrs.validators.lt(1))
    )
