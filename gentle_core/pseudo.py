"""How pseudo-pairs are chosen. Free of torch, since recipes hold it."""

from __future__ import annotations

from typing import Literal

import attrs
from attrs import validators as v

Search = Literal["auto", "exact", "faiss"]


@attrs.frozen(kw_only=True)
class ProposalSettings:
    """What becomes a pseudo-pair, once a teacher has embedded both pools.

    Attributes:
        neighbours: k, candidates a row.
        csls: neighbours in the hubness correction; 0 for none.
        mutual: keep a candidate only if the row is among its own k as well.
        temperature: shares of a row's candidates are softmax(score / temperature).
        threshold: least corrected cosine of a row's best candidate, from -1.
        share: rows kept, those with the best scores first.
        search: "exact" compares all with all in blocks, "faiss" by an approximate index (the faiss extra), "auto" is
            exact up to 100,000 candidates.
    """

    neighbours: int = attrs.field(default=5, validator=v.ge(1))
    csls: int = attrs.field(default=10, validator=v.ge(0))
    mutual: bool = False
    temperature: float = attrs.field(default=0.1, validator=v.gt(0))
    threshold: float = attrs.field(default=-1.0, validator=[v.ge(-1), v.le(1)])
    share: float = attrs.field(default=1.0, validator=[v.gt(0), v.le(1)])
    search: Search = "auto"
