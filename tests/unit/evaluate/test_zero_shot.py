from __future__ import annotations

import numpy as np
import pytest
import torch

from gentle_core.errors import DataError
from gentle_core.evaluate.zero_shot import class_directions, classify, figures


def test_directions_are_the_mean_of_unit_prompts_whatever_their_length():
    prompts = torch.tensor([[[2.0, 0.0], [0.0, 5.0]], [[0.0, -1.0], [0.0, -9.0]]])
    found = class_directions(prompts)
    expected = torch.tensor([[0.5**0.5, 0.5**0.5], [0.0, -1.0]], dtype=torch.float64)
    torch.testing.assert_close(found, expected)


def test_figures_equal_a_loop():
    rng = np.random.default_rng(0)
    classes = [f"c{i}" for i in range(7)]
    items, directions = rng.normal(size=(60, 4)), torch.from_numpy(rng.normal(size=(7, 4)))
    labels = [classes[i] for i in rng.integers(0, 6, 60)]  # the last class has no items
    seen = rng.random(60) < 0.3
    m = figures(classify(items, directions, labels, classes), seen)
    ranked = [sorted(range(7), key=lambda k: -float(items[i] @ directions[k].numpy())) for i in range(60)]
    right = [classes[row[0]] == label for row, label in zip(ranked, labels, strict=True)]
    top5 = [label in [classes[k] for k in row[:5]] for row, label in zip(ranked, labels, strict=True)]
    assert m["zero-shot/top1"] == pytest.approx(100 * sum(right) / 60)
    assert m["zero-shot/top5"] == pytest.approx(100 * sum(top5) / 60)
    by_class = {c: [r for r, label in zip(right, labels, strict=True) if label == c] for c in classes[:6]}
    assert m["zero-shot/mean_per_class"] == pytest.approx(
        100 * sum(sum(rows) / len(rows) for rows in by_class.values()) / 6
    )
    assert {key.rpartition("/")[2] for key in m if "/class/" in key} == set(classes[:6])
    counts = np.array(m["confusion"]["counts"])
    for i, c in enumerate(classes):
        for j in range(7):
            pairs = [row[0] == j for row, label in zip(ranked, labels, strict=True) if label == c]
            assert counts[i, j] == sum(pairs)
    fresh = [r for r, was in zip(right, seen, strict=True) if not was]
    assert m["zero-shot/top1_unseen"] == pytest.approx(100 * sum(fresh) / len(fresh))
    assert m["zero-shot/seen_in_training"] == seen.sum() and m["zero-shot/top1_chance"] == pytest.approx(100 / 7)
    assert m["zero-shot/majority"] == pytest.approx(100 * max(labels.count(c) for c in classes) / 60)


def test_a_collapsed_model_names_one_class():
    m = figures(classify(np.ones((9, 3)), torch.ones(3, 3, dtype=torch.float64), ["a", "b", "c"] * 3, ["a", "b", "c"]))
    assert m["zero-shot/top1"] == pytest.approx(100 / 3)
    assert m["confusion"]["counts"] == [[3, 0, 0]] * 3
    assert "zero-shot/top5" not in m and "zero-shot/seen_in_training" not in m


def test_no_items():
    with pytest.raises(DataError, match="no labelled items"):
        classify(np.empty((0, 3)), torch.ones(2, 3), [], ["a", "b"])
