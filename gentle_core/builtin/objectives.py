"""Options of the losses that are made of other losses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from gentle_core.builtin.asks import UNPAIRED, Child, Lookup, child, needs_of
from gentle_core.schedule import Schedule, always_zero, as_weight
from gentle_core.specs import Need


@attrs.frozen(kw_only=True)
class GentleConfig:
    """Options of `core/gentle`: alpha (CLIP + mu SSL) + delta MMD + eta SDD, Eqs. 8 and 9 of the paper.

    A weight is a number or a table { start, end, steps, shape }. What weighs 0 throughout is neither built nor
    computed, and asks nothing of the batch.

    Attributes:
        alpha: weight of the contrastive and self-supervised part.
        mu: weight of the self-supervised loss of each tower, within that part.
        delta: weight of MK-MMD.
        eta: weight of SDD.
        clip, ssl, mmd, sdd: options of the four losses; `use` puts another registered loss in a place.
    """

    alpha: float | Schedule = attrs.field(default=1.0, converter=as_weight)
    mu: float | Schedule = attrs.field(default=0.15, converter=as_weight)
    delta: float | Schedule = attrs.field(default=0.3, converter=as_weight)
    eta: float | Schedule = attrs.field(default=1.0, converter=as_weight)
    clip: Mapping[str, Any] = attrs.field(factory=dict)
    ssl: Mapping[str, Any] = attrs.field(factory=dict)
    mmd: Mapping[str, Any] = attrs.field(factory=dict)
    sdd: Mapping[str, Any] = attrs.field(factory=dict)

    def children(self) -> list[Child]:
        """The parts whose weight is not 0 throughout. The weight of "ssl" is still to be multiplied by alpha."""
        alive = {
            "clip": (self.alpha, not always_zero(self.alpha)),
            "ssl": (self.mu, not always_zero(self.alpha) and not always_zero(self.mu)),
            "mmd": (self.delta, not always_zero(self.delta)),
            "sdd": (self.eta, not always_zero(self.eta)),
        }
        return [
            child(key, getattr(self, key), f"core/{key}", weight) for key, (weight, needed) in alive.items() if needed
        ]

    def needs(self, lookup: Lookup) -> frozenset[Need]:
        # Without a single pair the contrastive part is 0 and the rest goes on: pairs are wanted, not needed.
        return needs_of(self.children(), lookup) - {"pairs"}

    def hints(self, paired_rows: int | None = None, rows: int | None = None) -> list[str]:
        found = []
        if not always_zero(self.eta) and self.sdd.get("normalise", True):
            if always_zero(self.delta) and paired_rows == 0:
                found.append(
                    "eta > 0 with delta = 0 and no pairs: SDD cannot see a gap between the modalities, and nothing "
                    "else closes it; give delta a value or pair some samples"
                )
            if always_zero(self.mu) or always_zero(self.alpha):
                found.append(
                    "eta > 0 with mu = 0: SDD without the self-supervised loss lowered results in the paper's own "
                    "ablation (Table 4); give mu a value, 0.15 for instance"
                )
        if not always_zero(self.alpha) and paired_rows == 0:
            found.append("alpha > 0 but no pairs: the contrastive loss over pairs is 0 at every step")
        return found


@attrs.frozen(kw_only=True)
class SumConfig:
    """Options of `core/sum`.

    Attributes:
        terms: tables { use, weight, … }: a registered loss, its weight (a number or a schedule; 1 by default), its
            options.
    """

    terms: tuple[Mapping[str, Any], ...] = attrs.field(converter=tuple, validator=attrs.validators.min_len(1))

    def children(self) -> list[Child]:
        """The terms whose weight is not 0 throughout."""
        found = []
        for i, table in enumerate(self.terms):
            options = dict(table)
            weight = as_weight(options.pop("weight", 1.0))
            if not always_zero(weight):
                found.append(child(f"terms[{i}]", options, None, weight))
        return found

    def needs(self, lookup: Lookup) -> frozenset[Need]:
        return needs_of(self.children(), lookup)


@attrs.frozen(kw_only=True)
class OnlyRowsConfig:
    """Options of `core/only-rows`.

    Attributes:
        keep: which rows of a tower the loss sees: "matched", "unmatched" or "all", by tower. A tower that is not named
            keeps all.
        loss: table { use, … }: a registered loss and its options.
    """

    keep: Mapping[str, str] = attrs.field(factory=dict)
    loss: Mapping[str, Any]

    @keep.validator
    def _known(self, _: Any, value: Mapping[str, str]) -> None:
        for tower, rows in value.items():
            if rows not in ("matched", "unmatched", "all"):
                raise ValueError(f"keep.{tower}={rows!r}: choose 'matched', 'unmatched' or 'all'")

    def children(self) -> list[Child]:
        return [child("loss", self.loss, None, 1.0)]

    def needs(self, lookup: Lookup) -> frozenset[Need]:
        found = needs_of(self.children(), lookup)
        return found | UNPAIRED if "unmatched" in self.keep.values() else found
