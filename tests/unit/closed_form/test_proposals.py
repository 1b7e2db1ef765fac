import sys

import numpy as np
import pytest

from gentle_core.closed_form.proposals import propose
from gentle_core.errors import ComponentError
from gentle_core.pseudo import ProposalSettings


def unit(rng, n, d=12):
    x = rng.normal(size=(n, d))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def slow(x, y, k, csls):
    """Corrected cosines (m, n) by the formula, one cell at a time."""
    cosine = x @ y.T
    near_x = [np.mean(sorted(row)[-csls:]) for row in cosine] if csls else np.zeros(len(x))
    near_y = [np.mean(sorted(row)[-csls:]) for row in cosine.T] if csls else np.zeros(len(y))
    return np.array([[cosine[i, j] - (near_x[i] + near_y[j]) / 2 for j in range(len(y))] for i in range(len(x))])


@pytest.mark.parametrize("csls", [0, 4])
@pytest.mark.parametrize("mutual", [False, True])
def test_proposals_are_those_of_the_formula(csls, mutual):
    rng = np.random.default_rng(0)
    x, y = unit(rng, 30), unit(rng, 41)
    settings = ProposalSettings(neighbours=3, csls=csls, mutual=mutual, temperature=0.2)
    scores = slow(x, y, 3, csls)
    for found, s in zip(propose(x, y, settings), (scores, scores.T), strict=True):
        best = np.argsort(-s, axis=1)[:, :3]
        back = np.argsort(-s.T, axis=1)[:, :3]
        for row in range(len(s)):
            kept = [j for j in best[row] if not mutual or row in back[j]]
            if not kept:
                assert row not in found.rows
                continue
            at = int(np.flatnonzero(found.rows == row)[0])
            assert found.candidates[at].tolist() == best[row].tolist()
            weights = np.array([np.exp(s[row, j] / 0.2) if j in kept else 0.0 for j in best[row]])
            np.testing.assert_allclose(found.shares[at], weights / weights.sum(), atol=1e-10)
            assert found.score[at] == pytest.approx(max(s[row, j] for j in kept))


def test_the_share_keeps_the_surest_and_the_threshold_cuts():
    rng = np.random.default_rng(1)
    x, y = unit(rng, 20), unit(rng, 20)
    every, _ = propose(x, y, ProposalSettings())
    some, _ = propose(x, y, ProposalSettings(share=0.25))
    assert len(some) == 5 and set(some.rows) == set(every.rows[np.argsort(-every.score)[:5]])
    bound = float(np.median(every.score))
    sure, _ = propose(x, y, ProposalSettings(threshold=bound))
    assert sure.rows.tolist() == every.rows[every.score >= bound].tolist()


def test_identical_pools_propose_themselves():
    x = unit(np.random.default_rng(2), 25)
    found, back = propose(x, x, ProposalSettings(neighbours=1, mutual=True))
    assert found.candidates[:, 0].tolist() == back.candidates[:, 0].tolist() == list(range(25))


def test_small_and_empty_pools():
    x = unit(np.random.default_rng(3), 4)
    found, back = propose(x, x[:2], ProposalSettings(neighbours=5))
    assert found.candidates.shape == (4, 2) and back.candidates.shape == (2, 4)
    none, nothing = propose(x, x[:0], ProposalSettings())
    assert len(none) == len(nothing) == 0


def test_an_index_finds_nearly_the_same():
    pytest.importorskip("faiss", reason="faiss is not installed")
    rng = np.random.default_rng(4)
    x, y = unit(rng, 400, 16), unit(rng, 600, 16)
    exact, _ = propose(x, y, ProposalSettings(search="exact"))
    index, _ = propose(x, y, ProposalSettings(search="faiss"))
    shared = [len(set(a) & set(b)) for a, b in zip(exact.candidates, index.candidates, strict=True)]
    assert np.mean(shared) > 0.95 * exact.candidates.shape[1]


def test_without_faiss_the_error_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    x = unit(np.random.default_rng(5), 10)
    with pytest.raises(ComponentError, match=r"gentle-core\[faiss\]"):
        propose(x, x, ProposalSettings(search="faiss"))
