"""Sinkhorn and OT-EM CCA against plain float64 loops, and the pools' mates, which must not matter."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gentle_core.closed_form.linear import Spectrum, cca
from gentle_core.closed_form.moments import Moments
from gentle_core.closed_form.transport import OtEm, OtEmData, ot_em, ot_em_rounds, sinkhorn_plan


def plain_plan(similarity, epsilon: float, steps: int):
    """In log space, entry by entry."""
    n, m = similarity.shape
    f, g = [0.0] * n, [0.0] * m

    def log_sum(values):
        top = max(values)
        return top + math.log(sum(math.exp(v - top) for v in values))

    for _ in range(steps):
        f = [-math.log(n) - log_sum([similarity[i, j] / epsilon + g[j] for j in range(m)]) for i in range(n)]
        g = [-math.log(m) - log_sum([similarity[i, j] / epsilon + f[i] for i in range(n)]) for j in range(m)]
    return np.array([[math.exp(similarity[i, j] / epsilon + f[i] + g[j]) for j in range(m)] for i in range(n)])


def test_the_plan_is_that_of_a_plain_loop():
    similarity = np.random.default_rng(0).uniform(-1, 1, size=(7, 5))
    plan = sinkhorn_plan(torch.from_numpy(similarity), 0.1, steps=2000, tolerance=0).numpy()
    np.testing.assert_allclose(plan, plain_plan(similarity, 0.1, 2000), atol=1e-12)
    np.testing.assert_allclose(plan.sum(axis=0), 1 / 5, atol=1e-12)
    np.testing.assert_allclose(plan.sum(axis=1), 1 / 7, atol=1e-12)


def test_the_plan_agrees_with_pot():
    ot = pytest.importorskip("ot", reason="POT is not installed")
    similarity = np.random.default_rng(1).uniform(-1, 1, size=(30, 40))
    expected = ot.sinkhorn(np.full(30, 1 / 30), np.full(40, 1 / 40), -similarity, 0.2, stopThr=1e-12)
    plan = sinkhorn_plan(torch.from_numpy(similarity), 0.2, 1000, 1e-10)
    np.testing.assert_allclose(plan.numpy(), expected, atol=1e-9)


def test_a_small_epsilon_stays_finite_in_float32():
    similarity = torch.from_numpy(np.random.default_rng(2).uniform(-1, 1, size=(50, 60))).float()
    plan = sinkhorn_plan(similarity, 0.005)
    assert plan.isfinite().all() and plan.sum().item() == pytest.approx(1, abs=1e-3)


def data(pairs: int = 25, pool: int = 300, seed: int = 0):
    """Two noisy linear views of shared factors with unequal strengths; pools in different orders."""
    rng = np.random.default_rng(seed)
    factors = rng.gamma(1.0, size=(pairs + pool + 200, 10)) * np.linspace(3, 0.7, 10)
    x = factors @ rng.normal(size=(10, 30)) + 0.5 * rng.normal(size=(len(factors), 30))
    y = factors @ rng.normal(size=(10, 25)) + 0.5 * rng.normal(size=(len(factors), 25))
    return [(z[:pairs], z[pairs : pairs + pool], z[pairs + pool :]) for z in (x, y)]


def test_a_share_of_zero_is_the_cca_of_the_pairs_with_mixed_covariances():
    (x, pool_x, _), (y, pool_y, _) = data()
    prepared = OtEmData.of(x, y, pool_x, pool_y)
    plain = cca(Moments.of(x, y), 0.3).weighted(2.0)
    found = ot_em(prepared, OtEm(share=0.0, mixing=0.0, ridge=0.3))
    np.testing.assert_allclose(found.embed_x(x), plain.embed_x(x), atol=1e-10)
    every_x, every_y = np.concatenate([x, pool_x]), np.concatenate([y, pool_y])
    cov = [0.5 * np.cov(a.T, bias=True) + 0.5 * np.cov(b.T, bias=True) for a, b in ((x, every_x), (y, every_y))]
    means = [0.5 * a.mean(0) + 0.5 * b.mean(0) for a, b in ((x, every_x), (y, every_y))]
    xy = (x - x.mean(0)).T @ (y - y.mean(0)) / len(x)
    mixed = cca(Spectrum.of_covariances(*means, *cov, xy), 0.3).weighted(2.0)
    found = ot_em(prepared, OtEm(share=0.0, mixing=0.5, ridge=0.3))
    np.testing.assert_allclose(found.embed_y(y), mixed.embed_y(y), atol=1e-8)


def test_a_turn_is_what_the_formula_says():
    (x, pool_x, _), (y, pool_y, _) = data(pool=20)
    prepared, settings = OtEmData.of(x, y, pool_x, pool_y), OtEm(0.4, 0.1, 1, 0.5, 1.0)
    first, second = ot_em_rounds(prepared, settings)
    plan = plain_plan(first.embed_x(pool_x) @ first.embed_y(pool_y).T, 0.1, 300)
    u, v = pool_x - pool_x.mean(0), pool_y - pool_y.mean(0)
    soft = sum(plan[i, j] * np.outer(u[i], v[j]) for i in range(20) for j in range(20))
    xy = 0.6 * (x - x.mean(0)).T @ (y - y.mean(0)) / len(x) + 0.4 * soft
    expected = cca(prepared.spectrum(0.5).with_cross(xy), 1.0).weighted(2.0)
    np.testing.assert_allclose(second.strength[:5], expected.strength[:5], rtol=2e-3)
    scores = [f.embed_x(x) @ f.embed_y(y).T for f in (second, expected)]
    np.testing.assert_allclose(scores[0], scores[1], atol=0.02)


def test_the_order_of_a_pool_changes_nothing():
    """Whose mate is in which row of the other pool is not used."""
    (x, pool_x, held_x), (y, pool_y, held_y) = data()
    order = np.random.default_rng(5).permutation(len(pool_y))
    once, again = (ot_em(OtEmData.of(x, y, pool_x, p), OtEm(rounds=2)) for p in (pool_y, pool_y[order]))
    scores = [f.embed_x(held_x) @ f.embed_y(held_y).T for f in (once, again)]
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-3)  # float32 sums in another order


def test_pools_help_where_pairs_are_few():
    (x, pool_x, held_x), (y, pool_y, held_y) = data(pairs=8)
    prepared = OtEmData.of(x, y, pool_x, pool_y)

    def hits(f):
        score = f.embed_x(held_x) @ f.embed_y(held_y).T
        return float(np.mean(score.argmax(axis=1) == np.arange(len(score))))

    alone = max(hits(cca(Moments.of(x, y), r).weighted(2.0)) for r in (0.1, 0.3, 1.0, 3.0, 10.0))
    assert hits(ot_em(prepared, OtEm(0.5, 0.04, 5, 0.5, 0.3))) > alone + 0.2


def test_without_a_pool_it_ends_at_once():
    (x, pool_x, _), (y, pool_y, _) = data()
    assert len(list(ot_em_rounds(OtEmData.of(x, y, pool_x[:0], pool_y), OtEm()))) == 1
