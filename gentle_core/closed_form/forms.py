"""Every closed form on the same features, each with its settings chosen on validation, and a choice among them.

A `Fitted` form is a pipeline from features to unit embeddings: a linear map, then perhaps a propagation over a graph,
then perhaps a hubness correction. An `Ensemble` averages the cosines of several. What makes use of unmatched rows is
marked, and has a twin that does without, so that the gain of the pools can be read off; `choose` takes it only where
validation favours it clearly.

Validation pairs are used for choices alone. The pools come without any pairing.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar

import attrs
import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from gentle_core.closed_form.graph import (
    Graph,
    Propagation,
    basis_of,
    dense_unit,
    nearest,
    nodes_of,
    profiles_of,
    with_basis,
)
from gentle_core.closed_form.hubness import GRID, Corrected, Hubness, choose_hubness
from gentle_core.closed_form.judge import ALONE, Judge
from gentle_core.closed_form.linear import Alignment
from gentle_core.closed_form.select import RIDGES, Selected, fit_select
from gentle_core.closed_form.transport import OtEm, OtEmData, ot_em_rounds
from gentle_core.errors import DataError
from gentle_core.evaluate.arrays import as_tensor, matched_rows
from gentle_core.evaluate.bootstrap import Difference, paired_bootstrap
from gentle_core.evaluate.retrieval import TIE, Mates, Ranks, mean_recall

Side = Literal["x", "y"]

LABELS = {
    "ridge": "Ridge, closed form",
    "cca": "CCA, closed form",
    "procrustes": "Procrustes, closed form",
    "propagation": "Label propagation on CCA",
    "ot-em": "OT-EM CCA",
    "ensemble": "Cosines averaged",
}
TRAINED = "Trained heads"
ONLY_PAIRS = " (pairs only)"

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

CLEAR = 0.3829
"""Level of the interval by which the gain of a form with pools must exceed 0: about half a standard error."""


@attrs.frozen(eq=False)
class Features:
    """What forms are fitted and chosen on.

    Attributes:
        items_x, items_y: features (N_x, p), (N_y, q) of the paired training items.
        labels_x, labels_y: (N_x,), (N_y,) the number of each one's sample, from 0: equal numbers are pairs.
        pool_x, pool_y: (n, p), (m, q) features of the unmatched pools, in any order.
        x_val, y_val: validation features, with `samples_x_val`, `samples_y_val` for their sample ids.
        joint: how many columns of x and y, the last ones, are a trained model's joint embeddings. They are not features
            to fit on, but a form of their own.
        joint_saw_pools: whether unmatched rows took part in that model's training.
        judge: by whose ranks settings are judged; those of the validation items here.
    """

    items_x: Tensor
    items_y: Tensor
    labels_x: np.ndarray
    labels_y: np.ndarray
    pool_x: Tensor
    pool_y: Tensor
    x_val: Tensor
    y_val: Tensor
    samples_x_val: Sequence[Any]
    samples_y_val: Sequence[Any]
    joint: tuple[int, int] = (0, 0)
    joint_saw_pools: bool = True
    judge: Judge = ALONE
    x: Tensor = attrs.field(init=False)
    """(N, p), (N, q) features of the pairs, row by row: a sample with several items pairs in every combination."""
    y: Tensor = attrs.field(init=False)
    mates: Mates = attrs.field(init=False)
    """Of the validation items."""

    def __attrs_post_init__(self) -> None:
        rows = matched_rows(self.labels_x, self.labels_y)
        for side, items, chosen in zip("xy", (self.items_x, self.items_y), rows, strict=True):
            object.__setattr__(self, side, items[torch.from_numpy(chosen)])
        object.__setattr__(self, "mates", Mates.of(self.samples_x_val, self.samples_y_val))

    @property
    def has_pools(self) -> bool:
        return len(self.pool_x) > 0 or len(self.pool_y) > 0

    @property
    def widths(self) -> tuple[int, int]:
        """How many columns are features to fit on."""
        return self.items_x.shape[1] - self.joint[0], self.items_y.shape[1] - self.joint[1]

    def to_fit(self) -> Features:
        """The same without the joint embeddings."""
        if not any(self.joint):
            return self
        p, q = self.widths
        columns = {"items_x": p, "pool_x": p, "x_val": p, "items_y": q, "pool_y": q, "y_val": q}
        return attrs.evolve(self, joint=(0, 0), **{name: getattr(self, name)[:, :k] for name, k in columns.items()})


@attrs.frozen(eq=False, kw_only=True)
class Form:
    """What takes features of two modalities into one space: a closed form, a trained model's heads, or an average.

    Attributes:
        name, label: "ot-em", "OT-EM CCA".
        pools: whether unmatched rows took part.
        settings: what was chosen.
        hubness: a correction on top.
        ranks: of the validation items, by direction.
        seconds: what fitting and choosing took.
    """

    name: str
    label: str
    pools: bool
    settings: Mapping[str, Any]
    hubness: Corrected | None = None
    ranks: Mapping[str, Ranks] = attrs.field(factory=dict)
    seconds: float = 0.0

    def plain(self, features: Any, side: Side) -> Tensor:
        """Unit embeddings (n, k) float64 of features (n, p), without the hubness correction."""
        raise NotImplementedError

    def embed(self, features: Any, side: Side) -> Tensor:
        """Unit embeddings float64 whose inner products are the scores, correction included."""
        z = self.plain(features, side)
        return z if self.hubness is None else self.hubness.lift(z, "u" if side == "x" else "v")

    @property
    def recall(self) -> float:
        """Mean recall on validation, percent."""
        return mean_recall(self.ranks)


F = TypeVar("F", bound=Form)


@attrs.frozen(eq=False, kw_only=True)
class Fitted(Form):
    """A closed form, fitted.

    Attributes:
        map: features to unit embeddings.
        graphs: a propagation on top, for x and y.
    """

    map: Alignment
    graphs: tuple[Graph, Graph] | None = None

    def plain(self, features: Any, side: Side) -> Tensor:
        seen = features[:, : len(self.map.x_map if side == "x" else self.map.y_map)]  # joint embeddings come after
        z = torch.from_numpy(self.map.embed_x(seen) if side == "x" else self.map.embed_y(seen))
        return z if self.graphs is None else self.graphs[side == "y"].embed(z)


@attrs.frozen(eq=False, kw_only=True)
class Trained(Form):
    """The joint embeddings of a trained model, which follow the first `skip` columns of x and y."""

    skip: tuple[int, int]

    def plain(self, features: Any, side: Side) -> Tensor:
        z = as_tensor(features)[:, self.skip[side == "y"] :].double()
        return z / z.norm(dim=1, keepdim=True).clamp_min(1e-300)


@attrs.frozen(eq=False, kw_only=True)
class Ensemble(Form):
    """The mean of the members' cosines, each without its own hubness correction."""

    members: tuple[Form, ...]

    def plain(self, features: Any, side: Side) -> Tensor:
        return self.joined([member.plain(features, side) for member in self.members])

    def joined(self, parts: Sequence[Tensor]) -> Tensor:
        """From the members' unit embeddings."""
        return torch.cat(list(parts), dim=1) / len(parts) ** 0.5


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


def drawn(data: Features, rows: int, seed: int) -> tuple[Tensor, Tensor]:
    """At most so many rows of each pool, each drawn on its own."""
    found = []
    for number, pool in enumerate((data.pool_x, data.pool_y)):
        chosen = np.random.default_rng((seed, number)).permutation(len(pool))[:rows]
        found.append(pool[torch.from_numpy(np.sort(chosen))])
    return found[0], found[1]


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


# -- on disk ---------------------------------------------------------------------------------------------------------


def to_arrays(form: Form, prefix: str = "") -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """A form as arrays and JSON-ready facts; `from_arrays` makes it whole again."""
    arrays: dict[str, np.ndarray] = {}
    facts: dict[str, Any] = {
        "name": form.name, "label": form.label, "pools": form.pools, "settings": dict(form.settings), "hubness": None,
    }  # fmt: skip
    if form.hubness is not None:
        facts["hubness"] = attrs.asdict(form.hubness.settings)
        arrays |= {"bank_x": form.hubness.bank_u.numpy(), "bank_y": form.hubness.bank_v.numpy()}
    if isinstance(form, Fitted):
        m = form.map
        arrays |= {key: getattr(m, key) for key in ("mean_x", "mean_y", "x_map", "y_map", "strength")}
        facts |= {"method": m.method, "groups": list(m.groups), "graph": None}
        if form.graphs is not None:
            facts["graph"] = attrs.asdict(form.graphs[0].settings)
            facts["profiles"] = form.graphs[0].profiles.shape[1]
            if form.graphs[0].basis is not None:
                arrays["basis"] = form.graphs[0].basis
            for side, graph in zip("xy", form.graphs, strict=True):
                sparse = graph.profiles
                arrays |= {f"nodes_{side}": graph.nodes.numpy(), f"profiles_{side}": sparse.data}
                arrays |= {f"indices_{side}": sparse.indices, f"ends_{side}": sparse.indptr}
    elif isinstance(form, Trained):
        facts["skip"] = list(form.skip)
    else:
        assert isinstance(form, Ensemble)
        facts["members"] = []
        for number, member in enumerate(form.members):
            inner, of_member = to_arrays(member, f"{number}.")
            arrays |= inner
            facts["members"].append(of_member)
    return {prefix + key: np.ascontiguousarray(value) for key, value in arrays.items()}, facts


def from_arrays(arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> Form:
    """The inverse of `to_arrays`, without ranks."""
    a = dict(arrays)
    common = {key: facts[key] for key in ("name", "label", "pools", "settings")}
    if facts["hubness"]:
        common["hubness"] = Corrected.of(Hubness(**facts["hubness"]), a["bank_x"], a["bank_y"])
    if "members" in facts:
        members = []
        for number, of_member in enumerate(facts["members"]):
            start = f"{number}."
            own = {key.removeprefix(start): value for key, value in a.items() if key.startswith(start)}
            members.append(from_arrays(own, of_member))
        return Ensemble(**common, members=tuple(members))
    if "skip" in facts:
        return Trained(**common, skip=(facts["skip"][0], facts["skip"][1]))
    mapping = Alignment(
        facts["method"], a["mean_x"], a["mean_y"], a["x_map"], a["y_map"], a["strength"], tuple(facts["groups"])
    )
    graphs = None
    if facts["graph"]:
        settings, made = Propagation(**facts["graph"]), []
        for number, side in enumerate("xy"):
            nodes = as_tensor(a[f"nodes_{side}"])
            content = (a[f"profiles_{side}"], a[f"indices_{side}"], a[f"ends_{side}"])
            profiles = sp.csr_array(content, shape=(len(nodes), facts["profiles"]))
            made.append(Graph(settings, nodes, profiles, a.get("basis"), number))
        graphs = (made[0], made[1])
    return Fitted(**common, map=mapping, graphs=graphs)
