"""Label propagation over nearest-neighbour graphs within each modality, for embeddings of any origin.

The labels are the pairs' own samples. In each modality they spread from the paired rows over that modality's graph,
through unmatched rows,

    F ← α·S·F + (1 − α)·Y,   S = D^-½ W D^-½      (Zhou et al. 2004, "Learning with local and global consistency"),

until every row has a profile: to which pairs it is near, along its own modality's graph. Profiles of the two modalities
speak of the same pairs and can be compared; their cosine is added to that of the embeddings. A new item takes its
profile from its nearest nodes, without a new fit. No pairing of unmatched rows enters, and each graph is made alone.

Everything is sparse: k neighbours a node, and the `KEPT` largest entries of a profile.
Shapes: n nodes, m new rows, d dimensions, N labels.
"""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import scipy.linalg
import scipy.sparse as sp
import torch
from torch import Tensor

from gentle_core.evaluate.arrays import as_tensor, blocks

KEPT = 64
"""Entries of a node's profile that are kept from round to round."""
WIDEST = 512
"""Numbers to which profiles over more labels are projected, by the leading directions of both modalities' profiles."""
GRAM_LABELS = 3000
"""Up to so many labels these come from the N × N matrix of the profiles' inner products: exact, and faster there."""


@attrs.frozen
class Propagation:
    """Settings of a propagation.

    Attributes:
        neighbours: k of the graphs.
        strength: α, from 0 (labels stay where they are) to below 1.
        temperature: edges weigh exp(cosine / temperature).
        rounds: how often labels are passed on.
        share: of the profiles in the final cosine, beside the embeddings.
        root: take the square roots of profiles, which evens large and small entries out.
    """

    neighbours: int = 15
    strength: float = 0.5
    temperature: float = 0.1
    rounds: int = 5
    share: float = 0.3
    root: bool = False


@attrs.frozen(eq=False)
class Near:
    """The nodes with the largest inner products with each of m rows, best first: (m, k) nodes and inner products."""

    nodes: np.ndarray
    products: np.ndarray
    total: int
    """Number of all nodes."""

    def edges(self, count: int, temperature: float) -> sp.csr_array:
        """Weights (m, n) of the edges to the first `count` of them: exp(product / temperature)."""
        nodes, products = self.nodes[:, :count], self.products[:, :count]
        ends = np.arange(len(nodes) + 1) * nodes.shape[1]
        weight = np.exp(products / temperature)
        return sp.csr_array((weight.ravel(), nodes.ravel(), ends), shape=(len(nodes), self.total))


def nearest(rows: Tensor, nodes: Tensor, count: int, *, itself: bool = True) -> Near:
    """The `count` nearest nodes of each row. With `itself` False, where `rows` are the nodes, no row is its own."""
    k = max(0, min(count, len(nodes) - (not itself)))
    found, products = np.empty((len(rows), k), dtype=np.int64), np.empty((len(rows), k))
    for part in blocks(len(rows), len(nodes)) if k else ():
        similarity = rows[part] @ nodes.T
        if not itself:
            own = torch.arange(len(similarity), device=rows.device)
            similarity[own, own + part.start] = -torch.inf
        best = similarity.topk(k, dim=1)
        found[part] = best.indices.cpu().numpy()
        products[part] = best.values.double().cpu().numpy()
    return Near(found, products, len(nodes))


def neighbours(rows: Tensor, nodes: Tensor, count: int, temperature: float, *, itself: bool = True) -> sp.csr_array:
    """Edge weights (m, n) to the `count` nearest nodes."""
    return nearest(rows, nodes, count, itself=itself).edges(count, temperature)


def spread(
    settings: Propagation,
    nodes: Tensor,
    labels: np.ndarray,
    count: int,
    kept: int | None = None,
    near: Near | None = None,
) -> sp.csr_array:
    """Profiles (n, N) of all nodes.

    Args:
        nodes: (n, d) unit embeddings.
        labels: (n,) number of each node's sample among the `count` pairs, −1 for unmatched nodes.
        kept: entries of a profile; `KEPT` by default.
        near: the nodes' neighbours, as many as the settings want or more, where they are known.
    """
    near = nearest(nodes, nodes, settings.neighbours, itself=False) if near is None else near
    directed = near.edges(settings.neighbours, settings.temperature)
    weight = directed.maximum(directed.T).tocsr()
    degree = np.asarray(weight.sum(axis=1)).ravel()
    scale = sp.dia_array(((np.maximum(degree, 1e-300) ** -0.5)[None], [0]), shape=weight.shape)
    step = (scale @ weight @ scale).tocsr() * settings.strength
    known = np.flatnonzero(labels >= 0)
    start = sp.csr_array((np.ones(len(known)), (known, labels[known])), shape=(len(nodes), count))
    own = start * (1 - settings.strength)
    found = start
    for _ in range(settings.rounds):
        found = largest((step @ found + own).tocsr(), KEPT if kept is None else kept)
    return found


def largest(matrix: sp.csr_array, count: int) -> sp.csr_array:
    """The `count` largest entries of each row; of equal ones those in the first columns."""
    lengths = np.diff(matrix.indptr)
    long = np.flatnonzero(lengths > count)
    kept = np.ones(len(matrix.data), dtype=bool)
    for part in blocks(len(long), int(lengths.max(initial=1))):
        width = lengths[long[part]]
        inside = np.arange(width.max()) < width[:, None]
        places = (matrix.indptr[long[part]][:, None] + np.arange(width.max()))[inside]
        value = np.full(inside.shape, -np.inf)
        value[inside] = matrix.data[places]
        limit = np.partition(value, inside.shape[1] - count, axis=1)[:, [inside.shape[1] - count]]
        taken = value >= limit
        for row in np.flatnonzero(taken.sum(axis=1) > count):  # ties at the limit
            equal = np.flatnonzero(value[row] == limit[row])
            column = matrix.indices[matrix.indptr[long[part][row]] + equal]
            spare = count - int((value[row] > limit[row]).sum())
            taken[row, equal[np.argsort(column, kind="stable")[spare:]]] = False
        kept[places] = taken[inside]
    ends = np.concatenate([[0], np.cumsum(np.minimum(lengths, count))])
    return sp.csr_array((matrix.data[kept], matrix.indices[kept], ends), shape=matrix.shape)


@attrs.frozen(eq=False)
class Graph:
    """One modality's graph after propagation.

    Attributes:
        nodes: (n, d) unit embeddings by which neighbours are found.
        profiles: (n, N).
        basis: (N, r) onto which profiles are projected; None where they are used as they are.
        side: 0 or 1: which of two last columns fills the rows up to norm 1.
    """

    settings: Propagation
    nodes: Tensor
    profiles: sp.csr_array
    basis: np.ndarray | None
    side: int

    def embed(self, rows: Any) -> Tensor:
        """Unit rows (m, d + r + 2) of new items given by unit embeddings (m, d).

        Inner products between the two modalities are (1 − share)·cosine + share·cosine of the profiles.
        """
        return self.combine(rows, self.profile(rows))

    def profile(self, rows: Any, near: Near | None = None) -> sp.csr_array:
        """Profiles (m, N) of new items, whose nearest nodes may be known."""
        s = self.settings
        near = nearest(as_tensor(rows).to(self.nodes), self.nodes, s.neighbours) if near is None else near
        return (near.edges(s.neighbours, s.temperature) @ self.profiles).tocsr()

    def combine(self, rows: Any, profile: sp.csr_array) -> Tensor:
        """`embed`, with the profiles given."""
        x, share = as_tensor(rows).to(self.nodes), self.settings.share
        dense = torch.from_numpy(dense_unit(profile, self.settings.root, self.basis)).to(x)
        z = torch.cat([(1 - share) ** 0.5 * x, share**0.5 * dense], dim=1)
        fill = x.new_zeros(len(x), 2)
        fill[:, self.side] = (1 - z.square().sum(dim=1)).clamp_min(0).sqrt()
        return torch.cat([z, fill], dim=1)


def dense_unit(profile: sp.csr_array, root: bool, basis: np.ndarray | None) -> np.ndarray:
    """Unit profiles (m, N), or their roots, as dense rows; (m, r) on a basis (N, r)."""
    if root:
        profile = profile.sqrt()
    norm = np.sqrt(np.asarray(profile.multiply(profile).sum(axis=1)).ravel())
    found = profile @ basis if basis is not None else profile.toarray()
    return found / np.maximum(norm, 1e-300)[:, None]


def propagate_both(
    settings: Propagation,
    pairs: tuple[Any, Any],
    labels: tuple[np.ndarray, np.ndarray],
    pools: tuple[Any, Any],
) -> tuple[Graph, Graph]:
    """Both modalities' graphs.

    Args:
        pairs: unit embeddings (N_x, d), (N_y, d) of the paired items of each modality.
        labels: sample numbers (N_x,), (N_y,) from 0: equal numbers are pairs.
        pools: unit embeddings of the unmatched items, in any order and number.
    """
    nodes = nodes_of(pairs, pools)
    profiles = profiles_of(settings, nodes, labels)
    return with_basis(settings, nodes, profiles, basis_of(profiles, settings.root))


def profiles_of(
    settings: Propagation,
    nodes: list[Tensor],
    labels: tuple[np.ndarray, np.ndarray],
    near: tuple[Near, Near] | None = None,
) -> list[sp.csr_array]:
    """Profiles of both modalities' nodes (`nodes_of`), of which the first ones have `labels`.

    Args:
        near: the nodes' neighbours, where they are known.
    """
    count = int(max(labels[0].max(initial=-1), labels[1].max(initial=-1))) + 1
    found = []
    for number, (own, x) in enumerate(zip(labels, nodes, strict=True)):
        every = np.concatenate([own, np.full(len(x) - len(own), -1)])
        found.append(spread(settings, x, every, count, near=None if near is None else near[number]))
    return found


def nodes_of(pairs: tuple[Any, Any], pools: tuple[Any, Any]) -> list[Tensor]:
    """The nodes of both graphs: paired items, then unmatched ones."""
    return [torch.cat([as_tensor(p), as_tensor(q).to(as_tensor(p))]) for p, q in zip(pairs, pools, strict=True)]


def with_basis(
    settings: Propagation, nodes: list[Tensor], profiles: list[sp.csr_array], basis: np.ndarray | None
) -> tuple[Graph, Graph]:
    """Graphs of profiles that are there already, and their `basis_of`."""
    return Graph(settings, nodes[0], profiles[0], basis, 0), Graph(settings, nodes[1], profiles[1], basis, 1)


def basis_of(profiles: list[sp.csr_array], root: bool) -> np.ndarray | None:
    """(N, WIDEST) leading right singular directions of the unit profiles, or their roots, of both modalities.

    None where profiles are narrow enough without. Up to `GRAM_LABELS` labels they are exact.
    """
    labels = profiles[0].shape[1]
    if labels <= WIDEST:
        return None
    rows = []
    for profile in profiles:
        shown = profile.sqrt() if root else profile
        norm = np.sqrt(np.asarray(shown.multiply(shown).sum(axis=1)).ravel())
        rows.append(sp.dia_array(((1 / np.maximum(norm, 1e-12))[None], [0]), shape=(len(norm), len(norm))) @ shown)
    every = sp.vstack(rows).tocsr()
    if labels <= GRAM_LABELS:
        _, vectors = scipy.linalg.eigh((every.T @ every).toarray(), subset_by_index=(labels - WIDEST, labels - 1))
        return np.ascontiguousarray(vectors[:, ::-1])
    from sklearn.utils.extmath import randomized_svd

    _, _, right = randomized_svd(every, WIDEST, n_iter=2, random_state=0)
    return np.ascontiguousarray(right.T)
