from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from sklearn.cross_decomposition import CCA
from sklearn.linear_model import Ridge

from gentle_core.closed_form.linear import Spectrum, cca, procrustes, ridge_regression
from gentle_core.closed_form.moments import Moments
from gentle_core.closed_form.select import fit_select
from gentle_core.errors import DataError
from gentle_core.evaluate.retrieval import retrieval_both


def related(n: int, p: int = 7, q: int = 5, shared: int = 3, noise: float = 0.7, seed: int = 0):
    """Two noisy linear views of a few shared factors, with offsets and unequal scales."""
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=(n, shared))
    mix_x, mix_y = np.random.default_rng(99).normal(size=(2, shared, max(p, q)))
    x = factors @ mix_x[:, :p] + noise * rng.normal(size=(n, p))
    y = factors @ mix_y[:, :q] + noise * rng.normal(size=(n, q))
    return 10 + x * np.linspace(0.1, 5, p), y * np.linspace(3, 0.2, q) - 4


@pytest.mark.parametrize("p, q", [(9, 14), (14, 9)])
def test_the_first_columns_alone_are_those_of_the_whole(p, q):
    moments = Moments.of(*related(60, p, q, shared=6))
    whole, some = cca(moments, 0.3), cca(moments, 0.3, 4)
    np.testing.assert_allclose(some.strength, whole.strength[:4], rtol=1e-9)
    sign = np.sign((some.x_map * whole.x_map[:, :4]).sum(axis=0))
    np.testing.assert_allclose(some.x_map * sign, whole.x_map[:, :4], rtol=1e-7, atol=1e-10)
    np.testing.assert_allclose(some.y_map * sign, whole.y_map[:, :4], rtol=1e-7, atol=1e-10)


def test_directions_without_pairs_cost_nothing_and_change_nothing():
    """More features than pairs: the plain whole-matrix form gives the same correlations and projections."""
    x, y = related(12, p=30, q=20)
    found = cca(Moments.of(x, y), 0.5)
    u, v = ((z - z.mean(0)) / z.std(0) for z in (x, y))
    roots = []
    for z in (u, v):
        covariance = z.T @ z / len(z)
        roots.append(np.linalg.inv(scipy.linalg.sqrtm(covariance + 0.5 * np.trace(covariance) / len(covariance)
                                                      * np.eye(len(covariance))).real))  # fmt: skip
    left, strength, right = np.linalg.svd(roots[0] @ (u.T @ v / 12) @ roots[1])
    k = 11  # centred: one less than there are pairs
    np.testing.assert_allclose(found.strength[:k], strength[:k], rtol=1e-9)
    assert len(found.strength) < 20
    expected = [abs(u @ roots[0] @ left[:, :k]), abs(v @ roots[1] @ right[:k].T)]
    np.testing.assert_allclose(abs(found.project_x(x)[:, :k]), expected[0], rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(abs(found.project_y(y)[:, :k]), expected[1], rtol=1e-6, atol=1e-8)


def brute_force_cca(x: np.ndarray, y: np.ndarray, c: float):
    """Correlations and x-weights by the generalised eigenproblem Cxy Cyy⁻¹ Cyx a = ρ² Cxx a on standardised columns."""
    x, y = ((m - m.mean(0)) / m.std(0) for m in (x, y))
    cxx, cyy, cxy = x.T @ x / len(x), y.T @ y / len(y), x.T @ y / len(x)
    cxx += c * np.mean(np.linalg.eigvalsh(cxx)) * np.eye(len(cxx))
    cyy += c * np.mean(np.linalg.eigvalsh(cyy)) * np.eye(len(cyy))
    values, vectors = scipy.linalg.eigh(cxy @ np.linalg.solve(cyy, cxy.T), cxx)
    return np.sqrt(np.clip(values[::-1], 0, None)), vectors[:, ::-1]


@pytest.mark.parametrize("block", [1, 7, 64, 1000])
def test_streamed_moments_are_the_whole_ones(block):
    x, y = related(200)
    x += 1e6  # a mean that a naive sum of squares would drown in
    streamed = Moments.stream((x[i : i + block], torch.from_numpy(y[i : i + block])) for i in range(0, 200, block))
    assert streamed.count == 200
    centred_x, centred_y = x - x.mean(0), y - y.mean(0)
    np.testing.assert_allclose(streamed.mean_x, x.mean(0), rtol=1e-14)
    np.testing.assert_allclose(streamed.xx, centred_x.T @ centred_x, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(streamed.xy, centred_x.T @ centred_y, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(streamed.yy, centred_y.T @ centred_y, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("c", [0.0, 0.1, 3.0])
def test_cca_agrees_with_the_generalised_eigenproblem(c):
    x, y = related(300)
    found = cca(Moments.of(x, y), ridge=c)
    correlations, weights = brute_force_cca(x, y, c)
    np.testing.assert_allclose(found.strength, correlations[:5], atol=1e-8)
    # Columns agree up to sign; compare the projections of the leading, well separated ones.
    ours, theirs = found.project_x(x)[:, :3], ((x - x.mean(0)) / x.std(0) @ weights)[:, :3]
    np.testing.assert_allclose(np.abs(ours), np.abs(theirs), atol=1e-6)


def test_unregularised_correlations_are_those_of_sklearn():
    x, y = related(400, noise=1.5)
    found = cca(Moments.of(x, y), ridge=1e-9)
    left, right = CCA(n_components=3, max_iter=5000, tol=1e-12).fit_transform(x, y)
    expected = [np.corrcoef(left[:, i], right[:, i])[0, 1] for i in range(3)]
    np.testing.assert_allclose(found.strength[:3], expected, atol=1e-5)
    a, b = found.project_x(x), found.project_y(y)
    np.testing.assert_allclose([np.corrcoef(a[:, i], b[:, i])[0, 1] for i in range(5)], found.strength, atol=1e-7)
    np.testing.assert_allclose(a.T @ a / 400, np.eye(5), atol=1e-6)


def test_classical_cca_does_not_see_invertible_maps_of_either_side():
    x, y = related(300)
    mix = np.random.default_rng(1).normal(size=(7, 7))
    plain, mixed = cca(Moments.of(x, y), ridge=0.0), cca(Moments.of(x @ mix + 3, y), ridge=0.0)
    np.testing.assert_allclose(plain.strength, mixed.strength, atol=1e-9)
    scores = plain.embed_x(x) @ plain.embed_y(y).T
    np.testing.assert_allclose(mixed.embed_x(x @ mix + 3) @ mixed.embed_y(y).T, scores, atol=1e-6)


def test_weights_and_truncation():
    x, y = related(100)
    full = cca(Moments.of(x, y), ridge=0.1)
    cut = full.weighted(power=2.0, dimension=3)
    raw = full.project_x(x)[:, :3] * full.strength[:3] ** 2
    np.testing.assert_allclose(cut.embed_x(x), raw / np.linalg.norm(raw, axis=1, keepdims=True), atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(cut.embed_y(y), axis=1), 1.0)
    np.testing.assert_allclose(full.weighted().embed_y(y), full.embed_y(y))


def test_constant_columns_and_fewer_rows_than_columns_stay_finite():
    x, y = related(4)
    x[:, 2] = 5.0
    for fitted in (cca(Moments.of(x, y), 0.1), cca(Moments.of(x, y), 0.0), ridge_regression(Moments.of(x, y), 0.0)):
        assert np.isfinite(fitted.embed_x(x)).all() and np.isfinite(fitted.embed_y(y)).all()
    np.testing.assert_allclose(cca(Moments.of(x, y), 0.0).strength[:3], 1.0)  # three degrees of freedom, all fitted


def test_ridge_regression_agrees_with_sklearn():
    x, y = related(150)
    s_x, s_y = (x - x.mean(0)) / x.std(0), (y - y.mean(0)) / y.std(0)
    forward = Ridge(alpha=0.3 * 150, fit_intercept=False).fit(s_x, s_y).predict(s_x)  # the mean eigenvalue is 1
    backward = Ridge(alpha=0.3 * 150, fit_intercept=False).fit(s_y, s_x).predict(s_y)

    def cosines(a, b):
        return (a / np.linalg.norm(a, axis=1, keepdims=True)) @ (b / np.linalg.norm(b, axis=1, keepdims=True)).T

    moments = Moments.of(x, y)
    for direction, expected in {
        "x->y": cosines(forward, s_y),
        "y->x": cosines(s_x, backward),
        "both": (cosines(forward, s_y) + cosines(s_x, backward)) / 2,
    }.items():
        fitted = ridge_regression(moments, 0.3, direction)
        np.testing.assert_allclose(fitted.embed_x(x) @ fitted.embed_y(y).T, expected, atol=1e-9)
        np.testing.assert_allclose(np.linalg.norm(fitted.embed_x(x), axis=1), 1.0)


def test_procrustes_is_the_best_rotation():
    x, y = related(120, p=5, q=5)
    fitted = procrustes(Spectrum.of(Moments.of(x, y), standardize=False))
    rotation, _ = scipy.linalg.orthogonal_procrustes(x - x.mean(0), y - y.mean(0))
    turned, y_c = (x - x.mean(0)) @ rotation, y - y.mean(0)
    cosine = (turned * y_c).sum(1) / np.linalg.norm(turned, axis=1) / np.linalg.norm(y_c, axis=1)
    np.testing.assert_allclose((fitted.embed_x(x) * fitted.embed_y(y)).sum(1), cosine, atol=1e-10)


@pytest.mark.parametrize("method", ["cca", "ridge", "procrustes"])
def test_selection_takes_the_best_on_validation_and_uses_training_statistics(method):
    x, y = related(300, p=12, q=10, shared=6)
    x_val, y_val = related(80, p=12, q=10, shared=6, seed=1)
    found = fit_select(x, y, x_val, y_val, method=method, dimensions=(2, 4))
    assert found.settings | {"recall": found.metrics["retrieval/mean/recall"]} in found.tried
    assert found.metrics["retrieval/mean/recall"] == max(t["recall"] for t in found.tried)
    assert len(found.tried) == {"cca": 7 * 3 + 2 * 3 * 4, "ridge": 7, "procrustes": 3 * 5}[method]
    a = found.alignment
    again = retrieval_both(a.embed_x(x_val), a.embed_y(y_val), range(80), range(80), ("x", "y"))
    assert again == pytest.approx(found.metrics)
    assert again["retrieval/mean/recall"] > 3 * again["retrieval/mean/recall_chance"]
    np.testing.assert_allclose(a.embed_x(x_val[:1]), a.embed_x(x_val)[:1])  # no statistic of the embedded rows


def test_selection_with_several_captions_an_image():
    x, y = related(200)
    x_val, y_val = related(30, seed=2)
    captions = np.repeat(y_val, 2, axis=0)
    found = fit_select(x, y, x_val, captions, samples_x_val=range(30), samples_y_val=np.repeat(np.arange(30), 2))
    assert found.metrics["retrieval/x->y/candidates"] == 60
    assert found.metrics["retrieval/x->y/R@1_chance"] == pytest.approx(100 / 30)


def test_shuffled_pairs_align_nothing():
    x, y = related(400)
    x_val, y_val = related(100, seed=3)
    y = np.random.default_rng(0).permutation(y)
    found = fit_select(x, y, x_val, y_val, ridges=(1.0,), powers=(1.0,), dimensions=())
    assert found.metrics["retrieval/mean/R@10"] < 20  # chance is 10


def test_errors_say_what_is_missing():
    x, y = related(10)
    with pytest.raises(DataError, match="no pairs"):
        Moments.of(x[:0], y[:0])
    with pytest.raises(DataError, match="1 pair"):
        cca(Moments.of(x[:1], y[:1]))
    with pytest.raises(DataError, match="no pair among the validation"):
        fit_select(x, y, x, y, samples_x_val=range(10), samples_y_val=range(20, 30))
    with pytest.raises(ValueError, match="rows must be pairs"):
        Moments.of(x, y[:5])
    assert not math.isnan(cca(Moments.of(x, y)).strength[0])
