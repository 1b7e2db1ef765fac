"""Label propagation against a plain loop and the closed solution, and what it must not know."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gentle_core.closed_form import graph as module
from gentle_core.closed_form.graph import Propagation, largest, neighbours, propagate_both, spread


def unit(n: int, d: int = 5, seed: int = 0) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.from_numpy(np.random.default_rng(seed).normal(size=(n, d))), dim=1)


def plain_step(settings: Propagation, nodes):
    """S as a dense array, edge by edge."""
    n = len(nodes)
    w = np.zeros((n, n))
    for i in range(n):
        others = sorted((j for j in range(n) if j != i), key=lambda j: -float(nodes[i] @ nodes[j]))
        for j in others[: settings.neighbours]:
            w[i, j] = math.exp(float(nodes[i] @ nodes[j]) / settings.temperature)
    w = np.maximum(w, w.T)
    d = w.sum(1)
    return w / np.sqrt(d)[:, None] / np.sqrt(d)


SETTINGS = [Propagation(neighbours=3), Propagation(4, 0.7, 0.2, 3, 0.5, True)]
LABELS = np.array([0, 1, 1, 2, *[-1] * 16])


@pytest.mark.parametrize("settings", SETTINGS)
def test_profiles_are_those_of_a_plain_loop(settings):
    nodes = unit(20)
    step, start = plain_step(settings, nodes), np.zeros((20, 3))
    for i, label in enumerate(LABELS[:4]):
        start[i, label] = 1
    expected = start
    for _ in range(settings.rounds):
        expected = settings.strength * step @ expected + (1 - settings.strength) * start
    np.testing.assert_allclose(spread(settings, nodes, LABELS, 3).toarray(), expected, atol=1e-14)


def test_many_rounds_reach_the_solution_of_the_linear_system():
    settings = Propagation(neighbours=4, strength=0.6, rounds=80)
    nodes, start = unit(20), np.zeros((20, 3))
    start[np.arange(4), LABELS[:4]] = 1
    expected = np.linalg.solve(np.eye(20) - 0.6 * plain_step(settings, nodes), 0.4 * start)
    np.testing.assert_allclose(spread(settings, nodes, LABELS, 3).toarray(), expected, atol=1e-10)


@pytest.mark.parametrize("settings", SETTINGS)
def test_scores_mix_the_cosines_of_embeddings_and_profiles(settings):
    x, y, pool_x, pool_y = unit(3), unit(4, seed=1), unit(20, seed=2), unit(15, seed=3)
    a, b = propagate_both(settings, (x, y), (np.arange(3), np.array([0, 1, 1, 2])), (pool_x, pool_y))
    new_x, new_y = unit(6, seed=4), unit(7, seed=5)

    def profiles(graph, rows):
        found = []
        for row in rows:
            near = sorted(range(len(graph.nodes)), key=lambda j: -float(row @ graph.nodes[j]))[: settings.neighbours]
            weights = [math.exp(float(row @ graph.nodes[j]) / settings.temperature) for j in near]
            f = sum(w * graph.profiles.toarray()[j] for j, w in zip(near, weights, strict=True))
            f = np.sqrt(f) if settings.root else f
            found.append(f / max(np.linalg.norm(f), 1e-300))
        return np.array(found)

    expected = (1 - settings.share) * (new_x @ new_y.T).numpy()
    expected += settings.share * profiles(a, new_x) @ profiles(b, new_y).T
    z_x, z_y = a.embed(new_x), b.embed(new_y)
    np.testing.assert_allclose((z_x @ z_y.T).numpy(), expected, atol=1e-12)
    for z in (z_x, z_y):
        np.testing.assert_allclose(z.norm(dim=1).numpy(), 1.0, atol=1e-12)
    torch.testing.assert_close(a.embed(new_x[2:3]), z_x[2:3])  # inductive: the other new rows do not matter


def test_blocks_change_nothing(monkeypatch):
    nodes, rows = unit(30), unit(9, seed=1)
    whole = neighbours(rows, nodes, 4, 0.1).toarray(), neighbours(nodes, nodes, 4, 0.1, itself=False).toarray()
    monkeypatch.setattr("gentle_core.evaluate.arrays.BLOCK_ENTRIES", 60)
    again = neighbours(rows, nodes, 4, 0.1).toarray(), neighbours(nodes, nodes, 4, 0.1, itself=False).toarray()
    for a, b in zip(whole, again, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_the_largest_entries_of_each_row_are_kept():
    dense = np.random.default_rng(0).random((6, 9)) * (np.random.default_rng(1).random((6, 9)) < 0.7)
    kept = largest(module.sp.csr_array(dense), 3).toarray()
    for row, found in zip(dense, kept, strict=True):
        assert sorted(found[found > 0]) == pytest.approx(sorted(row)[-3:][-np.count_nonzero(row) :])


@pytest.mark.parametrize("entries", [1 << 22, 20])
def test_of_equal_entries_those_in_the_first_columns_are_kept(entries, monkeypatch):
    monkeypatch.setattr("gentle_core.evaluate.arrays.BLOCK_ENTRIES", entries)
    rng = np.random.default_rng(0)
    dense = rng.integers(0, 4, size=(40, 12)).astype(float)
    expected = np.zeros_like(dense)
    for i, row in enumerate(dense):
        for j in sorted(np.flatnonzero(row), key=lambda j: (-row[j], j))[:5]:
            expected[i, j] = row[j]
    order = rng.permutation(12)
    unsorted = module.sp.csr_array(dense[:, order])
    unsorted.indices = order[unsorted.indices].astype(unsorted.indices.dtype)  # columns in no order
    np.testing.assert_array_equal(largest(unsorted, 5).toarray(), expected)
    assert largest(module.sp.csr_array((3, 4)), 2).nnz == 0


@pytest.mark.parametrize("root", [False, True])
def test_profiles_are_projected_to_their_leading_directions(root, monkeypatch):
    """Against the singular vectors of the dense profiles; the approximation for many labels is close to them."""
    monkeypatch.setattr(module, "WIDEST", 15)
    profiles = [largest(module.sp.csr_array(np.random.default_rng(i).random((70, 40)) ** 8), 12) for i in range(2)]
    dense = np.concatenate([(p.sqrt() if root else p).toarray() for p in profiles])
    dense /= np.linalg.norm(dense, axis=1, keepdims=True)
    _, strength, right = np.linalg.svd(dense, full_matrices=False)
    exact = module.basis_of(profiles, root)
    assert exact is not None
    np.testing.assert_allclose(exact.T @ exact, np.eye(15), atol=1e-12)
    np.testing.assert_allclose(exact @ exact.T, right[:15].T @ right[:15], atol=1e-9)
    monkeypatch.setattr(module, "GRAM_LABELS", 39)
    close = module.basis_of(profiles, root)
    assert close is not None and np.square(dense @ close).sum() > 0.98 * np.square(strength[:15]).sum()
    monkeypatch.setattr(module, "WIDEST", 40)
    assert module.basis_of(profiles, root) is None


def test_projected_profiles_keep_their_cosines(monkeypatch):
    x, y = unit(40, 6), unit(40, 6, seed=1)
    whole = propagate_both(Propagation(5), (x, y), (np.arange(40), np.arange(40)), (x[:0], y[:0]))
    monkeypatch.setattr(module, "WIDEST", 39)
    short = propagate_both(Propagation(5), (x, y), (np.arange(40), np.arange(40)), (x[:0], y[:0]))
    assert short[0].basis.shape == (40, 39)
    scores = [(a.embed(unit(8, 6, seed=2)) @ b.embed(unit(9, 6, seed=3)).T).numpy() for a, b in (whole, short)]
    np.testing.assert_allclose(scores[1], scores[0], atol=0.02)


def test_few_nodes_are_enough():
    lonely = propagate_both(Propagation(5), (unit(1), unit(1)), (np.zeros(1, int),) * 2, (unit(0), unit(0)))
    assert lonely[0].embed(unit(4)).isfinite().all()


def test_the_order_of_the_pools_changes_nothing():
    """Their mates are in the same rows at first, and in others afterwards."""
    x, y, pool_x, pool_y, new = unit(8), unit(8, seed=1), unit(30, seed=2), unit(30, seed=3), unit(4, seed=4)
    order = torch.from_numpy(np.random.default_rng(0).permutation(30))
    labels = (np.arange(8), np.arange(8))
    once = propagate_both(Propagation(4), (x, y), labels, (pool_x, pool_y))
    again = propagate_both(Propagation(4), (x, y), labels, (pool_x, pool_y[order]))
    for a, b in zip(once, again, strict=True):
        one, other = a.embed(new), b.embed(new)
        torch.testing.assert_close(one[:, :-2], other[:, :-2], rtol=0, atol=1e-12)
        # What fills a row up to norm 1 is the root of a difference: of a rounding error, if that is all there is.
        torch.testing.assert_close(one[:, -2:].square(), other[:, -2:].square(), rtol=0, atol=1e-12)


def test_the_pool_carries_a_label_to_where_no_pair_is_near():
    """An arc from the first pair to a far item, which the second pair is nearer to but for the pool along the arc."""
    angles = torch.linspace(0.2, 1.5, 8).double()
    along = torch.stack([angles.cos(), angles.sin(), 0 * angles], dim=1)
    pairs = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.5, 0.75**0.5]]).double()
    settings = Propagation(neighbours=2, strength=0.9, temperature=0.05, rounds=40, share=1.0)
    for pool, right in ((along, True), (along[:0], False)):
        a, b = propagate_both(settings, (pairs, pairs), (np.arange(2),) * 2, (pool, pool))
        score = (a.embed(along[-1:]) @ b.embed(pairs).T)[0]
        assert bool(score[0] > score[1]) is right
