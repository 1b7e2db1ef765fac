"""Every closed form on the same features, each with its settings chosen on validation.

What makes use of unmatched rows is marked, and has a twin that does without, so that the gain of the pools can be read
off. Validation pairs are used for choices alone. The pools come without any pairing.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import attrs
import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from gentle_core.closed_form.features import Features, drawn
from gentle_core.closed_form.forms import LABELS, ONLY_PAIRS, TRAINED, Ensemble, Fitted, Form, Trained
from gentle_core.closed_form.graph import (
    Propagation,
    basis_of,
    dense_unit,
    nearest,
    nodes_of,
    profiles_of,
    with_basis,
)
from gentle_core.closed_form.hubness import GRID, choose_hubness
from gentle_core.closed_form.linear import Alignment
from gentle_core.closed_form.select import RIDGES, Selected, fit_select
from gentle_core.closed_form.transport import OtEm, OtEmData, ot_em_rounds
from gentle_core.errors import DataError
from gentle_core.evaluate.retrieval import TIE, Ranks, mean_recall

LIFTABLE = tuple(settings for settings in GRID if settings.method != "qb-norm")
"""Corrections that can be put into embeddings."""

GRAPHS = tuple(Propagation(neighbours=k, strength=alpha) for k, alpha in itertools.product((5, 15), (0.5, 0.9)))
PROFILE_SHARES = (0.15, 0.3, 0.5)
"""Of the label propagation; profiles as they are and their roots are tried."""

BANK_ROWS, GRAPH_ROWS = 2500, 8000
"""Largest number of unmatched rows of a modality in a bank, and in a graph; drawn from larger pools."""

SHARES, EPSILONS, ROUNDS, MIXINGS = (0.3, 0.5), (0.04, 0.08), 5, (0.0, 0.5)
"""Of OT-EM CCA; a share of 0 is tried with every mixing and ridge."""

MEMBERS = 4
"""Forms in an average, at most."""

F = TypeVar("F", bound=Form)


def fit_forms(
    data: Features,
    forms: Iterable[str] = tuple(LABELS),
    *,
    hubness: bool = True,
    seed: int = 0,
    tell: Callable[[str], None] = lambda _: None,
) -> list[Form]:
    """All forms of these names, those with pools beside their twins without, and corrected ones beside plain ones.

    With joint embeddings among the features, the trained heads are one form more.

    Args:
        forms: keys of `LABELS`. Forms that build on CCA fit it, but only what is named is returned.
        hubness: also each of CCA, propagation, OT-EM, heads and averages with a correction, by each bank.
        seed: of the rows that are drawn from large pools.
        tell: told what is being fitted.

    Raises:
        DataError: fewer than two pairs, or no pair among the validation items.
    """
    wanted = list(forms)
    if unknown := set(wanted) - set(LABELS):
        raise DataError(f"no closed form is called {', '.join(sorted(unknown))}; there are {', '.join(LABELS)}")
    if len(data.x) < 2:
        raise DataError(f"{len(data.x)} training pairs: closed forms need at least two")
    if not len(data.mates.rows_u):
        raise DataError("no pair among the validation items: the settings of a closed form cannot be chosen")
    bases: list[Form] = []
    seen = data.to_fit()
    for name in ("ridge", "procrustes"):
        if name in wanted:
            tell(LABELS[name])
            bases.append(_linear(seen, name)[0])
    if {"cca", "propagation", "ot-em"} & set(wanted):
        tell(LABELS["cca"])
        cca, selected = _linear(seen, "cca")
        bases += [cca] if "cca" in wanted else []
        if "propagation" in wanted:
            tell(LABELS["propagation"])
            bases.append(_propagation(seen, cca, False, seed))
            bases += [_propagation(seen, cca, True, seed)] if data.has_pools else []
        if "ot-em" in wanted and data.has_pools:
            tell(LABELS["ot-em"])
            bases.append(_ot_em(seen, selected, seed))
    if any(data.joint):
        form = Trained(name="trained", label=TRAINED, pools=data.joint_saw_pools, settings={}, skip=data.widths)
        bases.append(_finish(data, form, time.perf_counter()))
    plain = _Plain.of(data, seed)
    if "ensemble" in wanted:
        averages = [_ensemble(data, bases, pools, plain) for pools in (False, True)]
        bases += [average for average in averages if average is not None]
    found: list[Form] = []
    for base in bases:
        found.append(base)
        if hubness and base.name not in ("ridge", "procrustes"):
            found += corrected(data, base, seed, plain)
    order = [*LABELS, "trained"]
    return sorted(found, key=lambda form: order.index(form.name))


@attrs.frozen(eq=False)
class _Plain:
    """Plain embeddings of the rows that all forms are asked for: validation items and banks.

    Those of a propagation are kept: finding the nodes next to new rows costs more than all linear maps together.
    """

    rows: Mapping[str, tuple[Tensor, Tensor]]
    _kept: dict[tuple[Form, str], tuple[Tensor, Tensor]] = attrs.field(factory=dict)

    @classmethod
    def of(cls, data: Features, seed: int) -> _Plain:
        rows = {"val": (data.x_val, data.y_val), "pairs": (data.items_x, data.items_y)}
        return cls(rows | ({"unpaired": drawn(data, BANK_ROWS, seed)} if data.has_pools else {}))

    def embed(self, form: Form, name: str) -> tuple[Tensor, Tensor]:
        if isinstance(form, Ensemble):
            parts = [self.embed(member, name) for member in form.members]
            return form.joined([x for x, _ in parts]), form.joined([y for _, y in parts])
        if (kept := self._kept.get((form, name))) is not None:
            return kept
        x, y = self.rows[name]
        found = form.plain(x, "x"), form.plain(y, "y")
        if isinstance(form, Fitted) and form.graphs is not None:
            self._kept[form, name] = found
        return found


def _val_ranks(data: Features, x: Any, y: Any) -> dict[str, Ranks]:
    return data.judge.ranks(data.mates.ranks_of_rows(x, y, ("x", "y")))


def _finish(data: Features, form: F, began: float) -> F:
    ranks = _val_ranks(data, form.embed(data.x_val, "x"), form.embed(data.y_val, "y"))
    return attrs.evolve(form, ranks=ranks, seconds=time.perf_counter() - began)


def _linear(data: Features, name: str) -> tuple[Fitted, Selected]:
    began = time.perf_counter()
    selected = fit_select(
        data.x, data.y, data.x_val, data.y_val, samples_x_val=data.samples_x_val, samples_y_val=data.samples_y_val,
        method=name, judge=data.judge,  # type: ignore[arg-type]
    )  # fmt: skip
    form = Fitted(
        name=name, label=LABELS[name], pools=False, settings=selected.settings, map=selected.alignment,
        ranks=selected.ranks, seconds=time.perf_counter() - began,
    )  # fmt: skip
    return form, selected


@attrs.define(eq=False)
class _Mixed:
    """Scores by unit embeddings and unit profiles of both modalities; the products of one block serve all shares."""

    embeddings: Sequence[Tensor]
    profiles: Sequence[Tensor]
    _held: tuple[int, Tensor, Tensor] | None = None

    def at(self, share: float) -> Callable[[slice], Tensor]:
        def scores(part: slice) -> Tensor:
            if self._held is None or self._held[0] != part.start:
                cosine, of_profiles = (x[part] @ y.T for x, y in (self.embeddings, self.profiles))
                self._held = (part.start, cosine, of_profiles)
            return (1 - share) * self._held[1] + share * self._held[2]

        return scores


def profile_ranks(
    data: Features, val: tuple[Tensor, Tensor], profiles: list[sp.csr_array], of_val: Sequence[sp.csr_array]
) -> Iterator[tuple[tuple[bool, float, np.ndarray | None], dict[str, Ranks]]]:
    """Ranks of the validation items by `Graph.combine`'s rows, for each root and share, with the basis.

    Scores are sums of two products that all shares have in common.

    Args:
        val: unit embeddings of the validation items of both modalities.
        profiles: of the nodes.
        of_val: of the validation items.
    """
    for root in (False, True):
        basis = basis_of(profiles, root)
        mixed = _Mixed(val, [torch.from_numpy(dense_unit(profile, root, basis)) for profile in of_val])
        for share in PROFILE_SHARES:
            ranks = data.mates.ranks_of_scores(mixed.at(share), ("x", "y"), TIE)
            yield (root, share, basis), data.judge.ranks(ranks)


def _propagation(data: Features, cca: Fitted, pools: bool, seed: int) -> Fitted:
    """Propagation over the graphs of the pairs, or of pairs and pools."""
    began = time.perf_counter()
    pairs = (cca.plain(data.items_x, "x"), cca.plain(data.items_y, "y"))
    pool_x, pool_y = drawn(data, GRAPH_ROWS if pools else 0, seed)
    pool = (cca.plain(pool_x, "x"), cca.plain(pool_y, "y"))
    val = (cca.plain(data.x_val, "x"), cca.plain(data.y_val, "y"))
    # All settings have their nearest neighbours in common.
    nodes, most = nodes_of(pairs, pool), max(start.neighbours for start in GRAPHS)
    near = (nearest(nodes[0], nodes[0], most, itself=False), nearest(nodes[1], nodes[1], most, itself=False))
    near_val = [nearest(z, own, most) for z, own in zip(val, nodes, strict=True)]
    labels = (data.labels_x, data.labels_y)
    best, chosen = -1.0, None
    for start in GRAPHS:
        profiles = profiles_of(start, nodes, labels, near)
        plain = with_basis(start, nodes, profiles, None)
        of_val = [graph.profile(z, found) for graph, z, found in zip(plain, val, near_val, strict=True)]
        for (root, share, basis), ranks in profile_ranks(data, val, profiles, of_val):
            if (recall := mean_recall(ranks)) > best:
                settings = attrs.evolve(start, root=root, share=share)
                best, chosen = recall, (with_basis(settings, nodes, profiles, basis), ranks)
    assert chosen is not None
    graphs, ranks = chosen
    settings = graphs[0].settings
    label = LABELS["propagation"] + ("" if pools else ONLY_PAIRS)
    said = {key: getattr(settings, key) for key in ("neighbours", "strength", "share", "root")}
    return Fitted(
        name="propagation", label=label, pools=pools, settings={**cca.settings, **said}, map=cca.map, graphs=graphs,
        ranks=ranks, seconds=time.perf_counter() - began,
    )  # fmt: skip


def _ot_em(data: Features, selected: Selected, seed: int) -> Fitted:
    """OT-EM CCA, with the weights and the dimension of the chosen CCA.

    First ridge and mixing alone (a share of 0), then two turns of matching from the best ridge of each mixing, then
    more turns and other shares from the best two of these, and the ridges next to the best.
    """
    began = time.perf_counter()
    prepared = OtEmData.of(data.x, data.y, data.pool_x, data.pool_y, seed=seed)
    power, dimension = selected.settings["power"], int(selected.settings["dimension"])
    tried: list[tuple[float, OtEm, Alignment]] = []
    begun: dict[OtEm, Iterator[tuple[int, Alignment]]] = {}
    """By settings with all turns: what more turns of the same go on from."""

    def attempt(settings: OtEm) -> None:
        whole = attrs.evolve(settings, rounds=ROUNDS)
        if whole not in begun:
            begun[whole] = enumerate(ot_em_rounds(prepared, whole))
        while not any(t[1] == settings for t in tried) and (found := next(begun[whole], None)):
            turn, fitted = found
            if turn > 1 or not settings.share:
                ranks = _val_ranks(data, fitted.embed_x(data.x_val), fitted.embed_y(data.y_val))
                tried.append((mean_recall(ranks), attrs.evolve(settings, rounds=turn), fitted))

    def best(count: int, wanted: Callable[[OtEm], bool]) -> list[OtEm]:
        return [t[1] for t in sorted((t for t in tried if wanted(t[1])), key=lambda entry: -entry[0])[:count]]

    for mixing, ridge in itertools.product(MIXINGS, RIDGES[2:]):
        attempt(OtEm(0.0, EPSILONS[0], 0, mixing, ridge, power, dimension))
    starts = [start for mixing in MIXINGS for start in best(1, lambda s, a=mixing: s.mixing == a)]  # type: ignore[misc]
    for start, epsilon in itertools.product(starts, EPSILONS):
        attempt(attrs.evolve(start, share=SHARES[-1], epsilon=epsilon, rounds=2))
    for start, share in itertools.product(best(2, lambda s: s.share > 0), SHARES):
        attempt(attrs.evolve(start, share=share, rounds=ROUNDS))
    for leader in best(1, lambda s: s.share > 0):
        for ridge in (leader.ridge / 3, leader.ridge * 3):
            attempt(attrs.evolve(leader, ridge=ridge, rounds=ROUNDS))
    # A share of 0 without mixing is the CCA beside it.
    _, settings, fitted = max((t for t in tried if t[1].share or t[1].mixing), key=lambda entry: entry[0])
    said = {"l": settings.share, "a": settings.mixing, "ridge": settings.ridge, "power": power, "dimension": dimension}
    if settings.share:
        said |= {"epsilon": settings.epsilon, "rounds": settings.rounds}
    form = Fitted(name="ot-em", label=LABELS["ot-em"], pools=True, settings=said, map=fitted)
    return _finish(data, form, began)


def _ensemble(data: Features, bases: Sequence[Form], pools: bool, plain: _Plain) -> Ensemble | None:
    """The mean cosine of the forms that do best together on validation: the best one, then each that helps most.

    With `pools` among all forms (None where none of those taken uses them), else among those on the pairs alone.
    """
    began = time.perf_counter()
    rest = sorted((form for form in bases if pools or not form.pools), key=lambda form: -form.recall)
    if not rest:
        return None
    val = [plain.embed(form, "val") for form in rest]
    taken, best = [0], rest[0].recall
    while len(taken) < MEMBERS:
        tried = {}
        for number in set(range(len(rest))) - set(taken):
            # Equal shares need no weights: ranks do not depend on the rows' common length.
            rows = (torch.cat([val[i][side] for i in (*taken, number)], dim=1) for side in (0, 1))
            tried[number] = mean_recall(_val_ranks(data, *rows))
        leader = max(tried, key=lambda number: tried[number], default=None)
        if leader is None or tried[leader] <= best:
            break
        taken.append(leader)
        best = tried[leader]
    members = tuple(rest[i] for i in taken)
    if len(members) < 2 or pools != any(member.pools for member in members):
        return None
    label = LABELS["ensemble"] + ("" if pools else ONLY_PAIRS)
    settings = {"of": [member.label for member in members]}
    form = Ensemble(name="ensemble", label=label, pools=pools, settings=settings, members=members)
    ranks = _val_ranks(data, *plain.embed(form, "val"))
    return attrs.evolve(form, ranks=ranks, seconds=time.perf_counter() - began)


def corrected(data: Features, base: F, seed: int = 0, plain: _Plain | None = None) -> list[F]:
    """`base` with the hubness correction that validation favours, by each bank; nothing where that is none."""
    found = []
    plain = _Plain.of(data, seed) if plain is None else plain
    val = plain.embed(base, "val")
    for bank in [name for name in plain.rows if name != "val"]:
        began = time.perf_counter()
        chosen = choose_hubness(
            {bank: plain.embed(base, bank)},
            *val,
            data.samples_x_val,
            data.samples_y_val,
            grid=LIFTABLE,
            judge=data.judge,
        )
        if chosen.corrected.settings.method == "none":
            continue
        form = attrs.evolve(
            base, label=f"{base.label} + hubness ({bank})", pools=base.pools or bank == "unpaired",
            settings={**base.settings, **chosen.facts}, hubness=chosen.corrected, ranks=chosen.ranks,
            seconds=time.perf_counter() - began,
        )  # fmt: skip
        found.append(form)
    return found
