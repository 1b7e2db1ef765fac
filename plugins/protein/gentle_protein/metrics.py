"""Scores of predictions with several labels each."""

from __future__ import annotations

import numpy as np

THRESHOLDS = np.arange(100) / 100
"""0, .01, …, .99"""


def fmax(scores: np.ndarray, labels: np.ndarray) -> float:
    """Protein-centric Fmax (Radivojac et al., Nature Methods 10, 2013) in [0, 1].

    A term is predicted for a protein where its score is above the threshold. Precision is averaged over the proteins
    with at least one prediction, recall over all proteins (one without labels counts as 0); Fmax is the largest
    harmonic mean of the two over the thresholds.

    Args:
        scores: (n, terms), probabilities.
        labels: (n, terms), whether a protein has a term.

    Raises ValueError where the shapes differ or a score is not finite.
    """
    if scores.shape != labels.shape or scores.ndim != 2:
        raise ValueError(f"scores {scores.shape} and labels {labels.shape} must be of one shape (proteins, terms)")
    if not np.isfinite(scores).all():
        raise ValueError("scores must be finite")
    rows, steps = len(scores), len(THRESHOLDS)
    if rows == 0:
        return 0.0
    # How many thresholds lie below a score says for which of them the term is predicted: the first so many.
    below = np.searchsorted(THRESHOLDS, scores.astype(np.float64), side="left")
    cell = below + (steps + 1) * np.arange(rows)[:, None]
    truth = labels.astype(bool)
    predicted = _at_least(np.bincount(cell.ravel(), minlength=rows * (steps + 1)), rows)
    correct = _at_least(np.bincount(cell[truth], minlength=rows * (steps + 1)), rows)

    some = predicted > 0
    precision = np.divide(correct, predicted, where=some, out=np.zeros(correct.shape)).sum(0)
    precision /= np.maximum(some.sum(0), 1)
    recall = (correct / np.maximum(truth.sum(1, keepdims=True), 1)).mean(0)
    both = precision + recall
    return float(np.divide(2 * precision * recall, both, where=both > 0, out=np.zeros(steps)).max())


def _at_least(histogram: np.ndarray, rows: int) -> np.ndarray:
    """(rows, thresholds): in how many of a row's cells the score is above each threshold."""
    counts = histogram.reshape(rows, -1)
    return counts[:, ::-1].cumsum(1)[:, ::-1][:, 1:]
