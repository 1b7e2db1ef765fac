"""Hubness correction: some candidates are near to almost everything and push the right ones down; take that back.

A bank of further rows, never of the queries themselves, tells how near a candidate is to anything: the training pairs,
or the unmatched pools, whose mates nobody needs to know. All methods lower a score by a bias of its candidate (and
symmetrically of its query, which changes no query's order): s(u,v) − w·(bias(u) + bias(v)).

- "csls": the bias is the mean cosine with the k nearest rows of the other modality's bank; w = ½ is the usual form
  (Lample et al. 2018, "Word translation without parallel data").
- "inverted-softmax": τ·log of the mean of exp(s/τ) over the bank (Smith et al. 2017, "Offline bilingual word vectors,
  orthogonal transformations and the inverted softmax"); w = 1 is the usual form, smaller ones correct in part.
- "qb-norm": the same, but only for queries whose best candidate is also the best one of a query in the bank (Bogolin et
  al. 2022, "Cross modal retrieval with querybank normalisation"). It depends on the whole pool of candidates.

Shapes: m and n rows of the two modalities, b and c rows of their banks, d dimensions; all rows are unit vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import attrs
import torch
from torch import Tensor

from gentle_core.closed_form.judge import ALONE, Judge
from gentle_core.errors import DataError
from gentle_core.evaluate.arrays import Ids, as_tensor, blocks
from gentle_core.evaluate.retrieval import KS, TIE, Mates, Ranks, mean_recall, ranks

TOLERANCE = 3 * TIE
"""Corrected scores are sums of three numbers of at most 1: closer ones are ties."""

HubMethod = Literal["none", "csls", "inverted-softmax", "qb-norm"]


@attrs.frozen
class Hubness:
    """A correction and its settings.

    Attributes:
        method: see the module.
        neighbours: k of CSLS.
        temperature: τ of the softmax.
        weight: w, from 0 (none) to 1.
    """

    method: HubMethod = "csls"
    neighbours: int = attrs.field(default=10, validator=attrs.validators.ge(1))
    temperature: float = attrs.field(default=0.1, validator=attrs.validators.gt(0))
    weight: float = attrs.field(default=0.5, validator=[attrs.validators.ge(0), attrs.validators.le(1)])

    @property
    def label(self) -> str:
        if self.method == "csls":
            return f"CSLS, k = {self.neighbours}"
        name = {"inverted-softmax": "inverted softmax", "qb-norm": "QB-norm"}.get(self.method, "no correction")
        return name if self.method == "none" else f"{name}, τ = {self.temperature:g}, weight {self.weight:g}"


GRID = (
    Hubness("none"),
    Hubness("csls", neighbours=5),
    Hubness("csls", neighbours=10),
    Hubness("csls", neighbours=20),
    *(
        Hubness("inverted-softmax", temperature=t, weight=w)
        for t, w in ((0.05, 0.5), (0.1, 0.5), (0.05, 1.0), (0.1, 1.0))
    ),
    Hubness("qb-norm", temperature=0.05, weight=1.0),
    Hubness("qb-norm", temperature=0.1, weight=0.5),
)
"""What is tried on validation data."""


@attrs.frozen(eq=False)
class Corrected:
    """The inner product with a correction against banks (b, d) and (c, d) of unit rows of the two modalities."""

    settings: Hubness
    bank_u: Tensor
    bank_v: Tensor

    @classmethod
    def of(cls, settings: Hubness, bank_u: Any, bank_v: Any) -> Corrected:
        """Banks as arrays or tensors. Either may be empty: then nothing is known of that side's neighbours.

        Raises:
            DataError: both banks are empty.
        """
        u, v = as_tensor(bank_u).double(), as_tensor(bank_v).double()
        if settings.method != "none" and not len(u) and not len(v):
            raise DataError("hubness correction needs a bank: training pairs or unmatched items")
        return cls(settings, u, v)

    def bias(self, rows: Any, of: Literal["u", "v"]) -> Tensor:
        """(m,) bias of rows of modality `of`, times the weight, in [−w, w]: how near the other one's bank is."""
        return _biases(as_tensor(rows).double(), self.bank_v if of == "u" else self.bank_u, [self.settings])[0]

    def scores(self, queries: Any, candidates: Any, of: Literal["u", "v"] = "u") -> Tensor:
        """(m, n) corrected scores of `queries`, rows of modality `of`, with `candidates` of the other one."""
        return self._against(candidates, of)(as_tensor(queries).double(), as_tensor(candidates).double())

    def _against(self, candidates: Any, of: Literal["u", "v"]) -> Any:
        """A scorer of queries against these candidates, whose bias is computed once."""
        v = as_tensor(candidates).double()
        bias = self.bias(v, "v" if of == "u" else "u")
        if self.settings.method != "qb-norm":
            return lambda q, c: q @ c.T - bias
        active = torch.zeros(len(v), dtype=torch.bool, device=v.device)
        bank = (self.bank_u if of == "u" else self.bank_v).to(v.device)
        for part in blocks(len(bank), len(v)):
            active[(bank[part] @ v.T).argmax(dim=1)] = True

        def score(q: Tensor, c: Tensor) -> Tensor:
            plain = q @ c.T
            return torch.where(active[plain.argmax(dim=1)][:, None], plain - bias, plain)

        return score

    def ranks_both(
        self, u: Any, v: Any, samples_u: Ids, samples_v: Ids, names: tuple[str, str] = ("a", "b")
    ) -> dict[str, Ranks]:
        """Ranks of both directions, as `evaluate.retrieval.ranks_both` gives them for the plain inner product."""
        u, v = as_tensor(u).double(), as_tensor(v).double()
        a, b = names
        found = {}
        for name, query, other, ids, of in (
            (f"{a}->{b}", u, v, (samples_u, samples_v), "u"),
            (f"{b}->{a}", v, u, (samples_v, samples_u), "v"),
        ):
            scorer = self._against(other, of)  # type: ignore[arg-type]
            found[name] = ranks(query, other, *ids, scorer, tolerance=TOLERANCE)
        return found

    def lift(self, rows: Any, of: Literal["u", "v"]) -> Tensor:
        """Unit rows (m, d + 4) whose inner products are the corrected scores over 1 + 2w (not for QB-norm).

        Whatever ranks by inner products (an index, zero-shot classification) then ranks with the correction. The two
        last columns only fill the rows up to norm 1, each modality in a column of its own. Within a modality the
        cosines are those of the plain rows, shifted and shrunk, but for the small parts of bias and filling.

        Raises:
            ValueError: QB-norm is no inner product.
        """
        if self.settings.method == "qb-norm":
            raise ValueError("QB-norm depends on the pool of candidates and cannot be put into embeddings")
        x = as_tensor(rows).double()
        if self.settings.method == "none" or not self.settings.weight:
            return x
        w = self.settings.weight
        own, other = -self.bias(x, of) / w**0.5, x.new_full((len(x),), w**0.5)
        pair = (other, own) if of == "v" else (own, other)
        # u·v − β_u − β_v from columns (−β_u/√w, √w) and (√w, −β_v/√w).
        z = torch.cat([x, torch.stack(pair, dim=1)], dim=1) / (1 + 2 * w) ** 0.5
        rest = (1 - z.square().sum(dim=1)).clamp_min(0).sqrt()
        nothing = torch.zeros_like(rest)
        return torch.cat([z, torch.stack((rest, nothing) if of == "u" else (nothing, rest), dim=1)], dim=1)


def _biases(rows: Tensor, bank: Tensor, every: Sequence[Hubness]) -> list[Tensor]:
    """(m,) bias times weight of rows (m, d) by a bank (b, d) of the other modality, for each of the settings."""
    found = [rows.new_zeros(len(rows)) for _ in every]
    wanted = [number for number, settings in enumerate(every) if settings.method != "none"]
    if not wanted or not len(bank):
        return found
    for part in blocks(len(rows), len(bank)):
        nearness = _nearness(rows[part] @ bank.to(rows.device).T, [every[number] for number in wanted])
        for number, near in zip(wanted, nearness, strict=True):
            found[number][part] = every[number].weight * near
    return found


def _nearness(similarity: Tensor, every: Sequence[Hubness]) -> list[Tensor]:
    """(m,) in [−1, 1] from cosines (m, b) with a bank, for each of the settings: what they share is found once."""
    most = min(max((s.neighbours for s in every if s.method == "csls"), default=0), similarity.shape[1])
    nearest = similarity.topk(most, dim=1).values if most else similarity[:, :0]
    count = similarity.new_tensor(float(similarity.shape[1]))
    softened = {
        tau: tau * (torch.logsumexp(similarity / tau, dim=1) - count.log())
        for tau in {s.temperature for s in every if s.method != "csls"}
    }
    return [nearest[:, : s.neighbours].mean(dim=1) if s.method == "csls" else softened[s.temperature] for s in every]


@attrs.frozen(eq=False)
class ChosenHubness:
    """The correction that did best on validation data.

    Attributes:
        corrected: the scorer.
        bank: the name of its bank.
        ranks: of the validation items with it, by direction.
        tried: every setting and its validation mean recall.
    """

    corrected: Corrected
    bank: str
    ranks: dict[str, Ranks]
    tried: list[dict[str, Any]]

    @property
    def facts(self) -> dict[str, Any]:
        """What was chosen, for results and reports."""
        settings = self.corrected.settings
        return {"hubness": settings.method} if settings.method == "none" else {
            "hubness": settings.label, "bank": self.bank,
            "bank_rows": [len(self.corrected.bank_u), len(self.corrected.bank_v)],
        }  # fmt: skip


def choose_hubness(
    banks: dict[str, tuple[Any, Any]],
    u_val: Any,
    v_val: Any,
    samples_u: Ids,
    samples_v: Ids,
    *,
    grid: Sequence[Hubness] = GRID,
    ks: Sequence[int] = KS,
    names: tuple[str, str] = ("x", "y"),
    judge: Judge = ALONE,
) -> ChosenHubness:
    """Choose method, settings and bank by mean recall on validation embeddings; of equals the earlier one.

    Args:
        banks: unit rows of both modalities by the bank's name ("pairs", "unpaired"). No pairing within a bank is used.
        u_val, v_val: unit validation rows with their sample ids.
        grid: what is tried; "none" belongs in it, so that a correction is taken only where validation favours it.
        names: of the two modalities, for the metrics.
        judge: by whose ranks settings are judged.

    Raises:
        DataError: no pair among the validation items.
    """
    u, v = as_tensor(u_val).double(), as_tensor(v_val).double()
    mates = Mates.of(samples_u, samples_v)
    if not len(mates.rows_u):
        raise DataError("no pair among the validation items: a hubness correction cannot be chosen")
    every = {name: tuple(as_tensor(rows).double() for rows in bank) for name, bank in banks.items()}
    biases = {
        name: list(zip(_biases(u, bank_v, grid), _biases(v, bank_u, grid), strict=True))
        for name, (bank_u, bank_v) in every.items()
    }
    held: dict[int, Tensor] = {}

    def scores(part: slice) -> Tensor:
        """One block is kept for all settings, where it is the only one."""
        if part.start not in held:
            held.clear()
            held[part.start] = u[part] @ v.T
        return held[part.start]

    best, chosen, tried = -1.0, None, []
    for number, settings in enumerate(grid):
        for name, bank in every.items() if settings.method != "none" else [("", (u[:0], v[:0]))]:
            corrected = Corrected.of(settings, *bank)
            if settings.method == "qb-norm":
                ranks = corrected.ranks_both(u, v, samples_u, samples_v, names)
            else:
                bias = biases[name][number] if name else None
                ranks = mates.ranks_of_scores(scores, names, TOLERANCE, bias)
            ranks = judge.ranks(ranks)
            recall = mean_recall(ranks, ks)
            tried.append({"hubness": settings.label, "bank": name, "number": number, "recall": recall})
            if recall > best:
                best, chosen = recall, (corrected, name, ranks)
    if chosen is None:
        raise ValueError("nothing to choose from: give at least one correction and one bank")
    return ChosenHubness(*chosen, tried)
