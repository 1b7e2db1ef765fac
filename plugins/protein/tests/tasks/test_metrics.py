"""Fmax against the definition, written as loops."""

from __future__ import annotations

import numpy as np
import pytest

from gentle_protein.metrics import fmax


def fmax_by_loops(scores, labels):
    best = 0.0
    for step in range(100):
        threshold = step / 100
        precisions, recall = [], 0.0
        for score, label in zip(scores, labels, strict=True):
            predicted = [float(s) > threshold for s in score]
            correct = sum(p and bool(t) for p, t in zip(predicted, label, strict=True))
            if sum(predicted) > 0:
                precisions.append(correct / sum(predicted))
            if sum(label) > 0:
                recall += correct / sum(label)
        precision = sum(precisions) / len(precisions) if precisions else 0.0
        recall /= len(scores)
        if precision + recall > 0:
            best = max(best, 2 * precision * recall / (precision + recall))
    return best


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_agrees_with_loops(seed, dtype):
    rng = np.random.default_rng(seed)
    labels = rng.random((23, 17)) < 0.15
    labels[3] = False  # a protein without terms counts for recall
    scores = np.clip(0.4 * labels + rng.normal(0.3, 0.25, labels.shape), 0, 1).astype(dtype)
    scores[5] = 0  # one without predictions does not count for precision
    assert fmax(scores, labels) == pytest.approx(fmax_by_loops(scores, labels), abs=1e-12)


def test_scores_on_a_threshold_are_not_above_it():
    rng = np.random.default_rng(0)
    labels = rng.random((40, 9)) < 0.3
    scores = rng.integers(0, 101, labels.shape) / 100
    assert fmax(scores, labels) == pytest.approx(fmax_by_loops(scores, labels), abs=1e-12)


def test_values_by_hand():
    labels = np.array([[1, 0], [1, 1]], dtype=bool)
    assert fmax(labels * 1.0, labels) == 1.0
    assert fmax(np.zeros((2, 2)), labels) == 0.0  # 0 is not above the threshold 0
    # Everything predicted: precision (1/2 + 1) / 2, recall 1.
    assert fmax(np.ones((2, 2)), labels) == pytest.approx(2 * 0.75 / 1.75)
    assert fmax(np.zeros((0, 4)), np.zeros((0, 4), bool)) == 0.0


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="one shape"):
        fmax(np.zeros((2, 3)), np.zeros((2, 4), bool))
    with pytest.raises(ValueError, match="finite"):
        fmax(np.full((1, 1), np.nan), np.ones((1, 1), bool))
