from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from gentle_core.errors import DataError
from gentle_core.evaluate.probes import accuracy, knn_accuracy, knn_predict, linear_probe, multilabel_probe


def blobs(n: int, seed: int, spread: float = 1.0, classes: int = 4, d: int = 6):
    centres = np.random.default_rng(42).normal(size=(classes, d)) * 1.5
    rng = np.random.default_rng(seed)
    label = rng.integers(0, classes, size=n)
    x = (centres[label] + spread * rng.normal(size=(n, d))) * np.logspace(-2, 2, d) + 3
    return x, np.array([f"class-{i}" for i in label])


def loop_knn(train, labels, query, k, skip_self=False):
    result = []
    for i, x in enumerate(query):
        cosine = [
            (x @ y) / np.linalg.norm(x) / np.linalg.norm(y) if not (skip_self and i == j) else -9
            for j, y in enumerate(train)
        ]
        best = sorted(range(len(train)), key=lambda j: -cosine[j])[:k]
        votes = Counter(labels[j] for j in best)
        result.append(max(votes, key=lambda c: (votes[c], sum(cosine[j] for j in best if labels[j] == c))))
    return result


@pytest.mark.parametrize("k", [1, 2, 5])
def test_knn_agrees_with_a_loop(k):
    x, y = blobs(60, 0)
    query, truth = blobs(25, 1)
    expected = loop_knn(x, y, query, k)
    assert knn_predict(x, y, query, k) == expected
    assert knn_predict(x, y, query, k, block=4) == expected
    assert knn_accuracy(x, y, query, truth, k) == pytest.approx(100 * np.mean(np.array(expected) == truth))
    assert knn_predict(x, y, k=k, block=7) == loop_knn(x, y, x, k, skip_self=True)


def test_leave_one_out_never_sees_itself():
    assert knn_accuracy(np.eye(3), ["a", "b", "c"]) == 0.0
    assert knn_accuracy(np.eye(3), ["a", "b", "c"], np.eye(3), ["a", "b", "c"]) == 100.0
    with pytest.raises(DataError, match="at least one labelled row"):
        knn_accuracy(np.eye(1), ["a"])


@pytest.mark.parametrize("c", [0.01, 1.0])
def test_linear_probe_agrees_with_sklearn(c):
    x, y = blobs(150, 0, spread=2.0)
    x_val, y_val = blobs(60, 1, spread=2.0)
    scaler = StandardScaler().fit(x)
    reference = LogisticRegression(C=c, tol=1e-10, max_iter=5000).fit(scaler.transform(x), y)
    found = linear_probe(x, y, x_val, y_val, x_val, y_val, strengths=(c,))
    order = [found.classes.index(name) for name in reference.classes_]
    ours = found.probe.logits(x_val).softmax(dim=1).numpy()[:, order]
    np.testing.assert_allclose(ours, reference.predict_proba(scaler.transform(x_val)), atol=1e-4)
    assert found.accuracy == pytest.approx(100 * reference.score(scaler.transform(x_val), y_val))
    assert found.accuracy == accuracy(found.predictions, y_val)


def test_strength_is_chosen_on_validation_alone():
    x, y = blobs(60, 0, spread=2.5)
    x_val, y_val = blobs(80, 1, spread=2.5)
    x_test, y_test = blobs(80, 2, spread=2.5)
    found = linear_probe(x, y, x_val, y_val, x_test, y_test)
    assert found.validation[found.strength] == max(found.validation.values())
    assert len(set(found.validation.values())) > 1
    turned = linear_probe(x, y, x_val, y_val, x_test, y_test[::-1])
    assert turned.strength == found.strength and turned.predictions == found.predictions
    alone = linear_probe(x, y, x_val, y_val, strengths=(found.strength,))
    assert alone.accuracy is None
    # The warm start changes nothing but the time.
    np.testing.assert_allclose(alone.probe.weight, found.probe.weight, atol=2e-3)


def test_unseen_labels_are_errors_and_one_class_is_refused():
    x, y = blobs(40, 0)
    found = linear_probe(x, y, x, y, x[:2], ["never", y[1]], strengths=(1.0,))
    assert found.accuracy in (0.0, 50.0)
    with pytest.raises(DataError, match="at least two classes"):
        linear_probe(x, ["same"] * 40, x, y)


def test_constant_and_tiny_features_do_not_break_the_probe():
    x, y = blobs(80, 0)
    x = np.concatenate([x, np.full((80, 1), 7.0)], axis=1).astype(np.float32)
    found = linear_probe(torch.from_numpy(x), y, x, y, x, y)
    assert torch.isfinite(found.probe.weight).all()
    assert found.accuracy > 70


def test_multilabel_probe_agrees_with_one_regression_a_term():
    rng = np.random.default_rng(0)
    x, x_val = rng.normal(size=(200, 5)), rng.normal(size=(50, 5))
    mix = rng.normal(size=(5, 3))
    y, y_val = ((m @ mix + rng.normal(size=(len(m), 3)) > 0.5).astype(float) for m in (x, x_val))
    found = multilabel_probe(x, y, x_val, y_val, x_val, strengths=(0.1,))
    scaler = StandardScaler().fit(x)
    for term in range(3):
        reference = LogisticRegression(C=0.1, tol=1e-10).fit(scaler.transform(x), y[:, term])
        expected = reference.predict_proba(scaler.transform(x_val))[:, 1]
        np.testing.assert_allclose(found.scores[:, term], expected, atol=1e-4)
    np.testing.assert_allclose(found.scores, found.val_scores)


def test_multilabel_selection_uses_the_callers_figure():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(60, 4)), rng.integers(0, 2, size=(60, 2))
    y[:, 1] = 0  # a term without a positive
    calls = []

    def select(scores, targets):
        calls.append((scores.shape, targets.shape))
        return -np.abs(scores - 0.5).mean()

    found = multilabel_probe(x, y, x[:10], y[:10], select=select, strengths=(1e-3, 1.0))
    assert calls == [((10, 2), (10, 2))] * 2
    assert found.scores is None
    assert np.isfinite(found.val_scores).all()
    assert found.validation[found.strength] == max(found.validation.values())


def test_probes_work_inside_inference_mode():
    x, y = blobs(60, 0)
    expected = linear_probe(torch.from_numpy(x), y, x, y, x, strengths=(1.0,)).predictions
    with torch.inference_mode():
        z = torch.from_numpy(x) * 1.0
        assert linear_probe(z, y, z, y, z, strengths=(1.0,)).predictions == expected
        targets = torch.from_numpy((y == "class-1").astype(float)[:, None]) * 1.0
        assert multilabel_probe(z, targets, z, targets, strengths=(1.0,)).val_scores.shape == (60, 1)
