"""Two-sample tests: level where the sets are alike, power where they are not, and a plain loop."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics.pairwise import rbf_kernel

from gentle_core.evaluate.two_sample import _components, discrepancy, scaled, separation


def rows(n: int, seed: int, shift: float = 0.0, d: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d)) + shift


def test_sets_of_one_distribution_are_not_told_apart():
    found = [separation(rows(120, 2 * s), rows(200, 2 * s + 1), seed=s) for s in range(8)]
    auc = np.array([f.auc for f in found])
    assert abs(auc.mean() - 0.5) < 0.03 and (np.abs(auc - 0.5) < 4 * found[0].noise).all()
    p = [discrepancy(rows(60, 2 * s), rows(80, 2 * s + 1), seed=s, permutations=99).p for s in range(20)]
    assert np.mean(np.array(p) <= 0.1) <= 0.3 and np.mean(p) > 0.3


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_a_shift_is_seen_whatever_the_units(scale):
    x, y = rows(100, 0) * scale, rows(150, 1, 0.8) * scale
    assert separation(x, y).auc > 0.9
    found = discrepancy(x, y)
    assert found.p == pytest.approx(1 / 201) and found.value > 3 * found.expected


def test_a_difference_in_spread_or_correlations_is_seen_where_means_are_the_same():
    x, y = rows(150, 0), 2.5 * rows(150, 1)
    assert discrepancy(x, y).p < 0.01 and separation(x, y).auc > 0.9
    turned = rows(300, 2) * np.arange(1.0, 9.0)
    mixed = turned @ np.linalg.qr(rows(8, 3))[0]
    mixed = (mixed - mixed.mean(axis=0)) / mixed.std(axis=0)
    x, y = rows(60, 4), mixed @ np.linalg.cholesky(0.9 + 0.1 * np.eye(8)).T
    y = (y - y.mean(axis=0)) / y.std(axis=0) * x.std(axis=0) + x.mean(axis=0)
    assert separation(x, y).auc > 0.9


def test_mmd_is_that_of_the_kernel_matrices():
    x, y = rows(12, 0), rows(9, 1)
    a, b = scaled(x, y)
    pooled = np.concatenate([a, b])
    distances = [np.sum((p - q) ** 2) for i, p in enumerate(pooled) for q in pooled[i + 1 :]]
    gamma = 1 / (2 * np.median(distances))
    expected = rbf_kernel(a, a, gamma).mean() + rbf_kernel(b, b, gamma).mean() - 2 * rbf_kernel(a, b, gamma).mean()
    assert discrepancy(x, y).value == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("n", "d"), [(40, 12), (12, 40)])
def test_components_are_those_of_a_singular_value_decomposition(n, d):
    centred = rows(n, 0, d=d) * np.arange(1, d + 1)
    centred -= centred.mean(axis=0)
    expected = centred @ np.linalg.svd(centred, full_matrices=False)[2][:5].T
    expected /= expected.std(axis=0)
    found = _components(centred, 5)
    assert found.shape == (n, 5)
    assert np.abs((found * expected).mean(axis=0)) == pytest.approx(1.0, abs=1e-12)


def test_odd_input():
    constant = np.ones((30, 3))
    assert separation(constant, constant).auc == 0.5
    assert discrepancy(constant, constant).p == 1
    with pytest.raises(ValueError, match="3 and 50 rows"):
        separation(rows(3, 0), rows(50, 1))
