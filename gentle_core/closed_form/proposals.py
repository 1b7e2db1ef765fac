"""Pseudo-pairs: which rows of two pools a teacher takes for mates.

A teacher embeds both pools; hubs are corrected by CSLS with the pools themselves as banks (which needs no mates
known); each row's best candidates on the other side become its proposals. What is not sure enough is left out.

Shapes: m and n unit rows of the two pools, d dimensions, k proposals a row.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor

from gentle_core.closed_form.hubness import Corrected, Hubness
from gentle_core.errors import ComponentError
from gentle_core.evaluate.arrays import as_tensor, blocks
from gentle_core.pseudo import ProposalSettings

EXACT_ROWS = 100_000
"""Up to so many candidates `search="auto"` compares all rows with all."""


@attrs.frozen(eq=False)
class Proposals:
    """Candidates of the rows of one side, best first.

    Attributes:
        rows: (q,) rows that have any, ascending.
        candidates: (q, k) rows of the other side.
        shares: (q, k) non-negative, rows sum to 1; 0 where a candidate was left out.
        score: (q,) corrected cosine of the best candidate.
    """

    rows: np.ndarray
    candidates: np.ndarray
    shares: np.ndarray
    score: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)


def propose(x: Any, y: Any, settings: ProposalSettings) -> tuple[Proposals, Proposals]:
    """Proposals for the rows of x (m, d) among those of y (n, d), and the other way round. Rows have unit norm.

    Raises:
        ComponentError: `search="faiss"` without faiss.
    """
    x, y = as_tensor(x), as_tensor(y)
    if not len(x) or not len(y):
        return _none(), _none()
    scale = 1.0
    if settings.csls:
        corrected = Corrected.of(Hubness("csls", neighbours=settings.csls), x, y)
        x, y = corrected.lift(x, "u"), corrected.lift(y, "v")
        scale = 1 + 2 * corrected.settings.weight
    near_x = _nearest(x, y, settings)
    near_y = _nearest(y, x, settings)
    return _proposals(near_x, near_y, scale, settings), _proposals(near_y, near_x, scale, settings)


Near = tuple[np.ndarray, np.ndarray]
"""Scores and rows (m, k), best first."""


def _proposals(near: Near, other: Near, scale: float, settings: ProposalSettings) -> Proposals:
    scores, candidates = near[0] * scale, near[1]
    kept = np.ones(scores.shape, dtype=bool)
    if settings.mutual:
        back = {(int(j), i) for j, row in enumerate(other[1]) for i in row.tolist()}
        kept = np.array([[(int(j), i) in back for j in row] for i, row in enumerate(candidates)])
    best = np.where(kept, scores, -np.inf).max(axis=1)
    rows = np.flatnonzero(best >= settings.threshold)
    most = max(1, round(settings.share * len(scores)))
    rows = np.sort(rows[np.argsort(-best[rows], kind="stable")[:most]])
    logits = np.where(kept, (scores - best[:, None]) / settings.temperature, -np.inf)[rows]
    shares = np.exp(logits)
    return Proposals(rows, candidates[rows], shares / shares.sum(axis=1, keepdims=True), best[rows])


def _none() -> Proposals:
    return Proposals(np.empty(0, np.int64), np.empty((0, 1), np.int64), np.empty((0, 1)), np.empty(0))


def _nearest(x: Tensor, y: Tensor, settings: ProposalSettings) -> Near:
    k = min(settings.neighbours, len(y))
    if settings.search == "faiss" or (settings.search == "auto" and len(y) > EXACT_ROWS):
        return _by_index(x, y, k)
    found = [block.topk(k, dim=1) for block in _scores(x, y)]
    return (
        torch.cat([part.values for part in found]).double().cpu().numpy(),
        torch.cat([part.indices for part in found]).cpu().numpy(),
    )


def _scores(x: Tensor, y: Tensor) -> Iterator[Tensor]:
    for part in blocks(len(x), len(y)):
        yield x[part] @ y.T


def _by_index(x: Tensor, y: Tensor, k: int) -> Near:
    """By a graph of small worlds over the candidates (Malkov and Yashunin 2018)."""
    try:
        faiss = importlib.import_module("faiss")
    except ImportError as error:
        raise ComponentError(
            "pseudo-pairs with search = 'faiss' (or 'auto' in pools of "
            f"more than {EXACT_ROWS:,}) need faiss: pip install 'gentle-core[faiss]', or set search = 'exact'"
        ) from error
    index = faiss.IndexHNSWFlat(y.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction, index.hnsw.efSearch = 80, max(64, 4 * k)
    index.add(np.ascontiguousarray(y.float().cpu().numpy()))
    scores, rows = index.search(np.ascontiguousarray(x.float().cpu().numpy()), k)
    return scores.astype(np.float64), rows
