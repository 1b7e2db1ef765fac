from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from gentle_core.errors import DataError
from gentle_core.evaluate.shortcuts import attribute_r2, equal_attribute_recall, oracle_recall


def unit(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    z = rng.normal(size=(n, d))
    return z / np.linalg.norm(z, axis=1, keepdims=True)


def oracle_by_enumeration(attribute_u, attribute_v, samples_u, samples_v, k):
    """Mean over queries and over all orders of the candidates, sorted stably by |log a - log b|."""
    hits = []
    for a, sample in zip(attribute_u, samples_u, strict=True):
        if sample not in samples_v:
            continue
        for order in itertools.permutations(range(len(samples_v))):
            ranked = sorted(order, key=lambda j: round(abs(math.log(a) - math.log(attribute_v[j])), 9))
            hits.append(any(samples_v[j] == sample for j in ranked[:k]))
    return 100 * sum(hits) / len(hits)


@pytest.mark.parametrize("k", [1, 2, 3, 6])
def test_oracle_is_the_mean_over_all_orders_of_ties(k):
    attribute_u, samples_u = [50, 80, 80, 100], ["a", "b", "c", "d"]
    # a's mate stands behind three others and ties with x (50 lies midway between 25 and 100 in log); c has two items,
    # which tie with b's; d's mate stands behind four.
    attribute_v, samples_v = [100, 80, 80, 130, 25, 80], ["a", "b", "c", "d", "x", "c"]
    found = oracle_recall(attribute_u, attribute_v, samples_u, samples_v, ks=(k,))
    assert found[f"R@{k}"] == pytest.approx(oracle_by_enumeration(attribute_u, attribute_v, samples_u, samples_v, k))


def test_oracle_in_closed_form():
    rng = np.random.default_rng(0)
    lengths = rng.integers(40, 165, size=300)
    found = oracle_recall(lengths, lengths, range(300), range(300))
    assert found["R@1"] == pytest.approx(100 * len(np.unique(lengths)) / 300)
    counts = np.unique(lengths, return_counts=True)[1]
    assert found["R@5"] == pytest.approx(100 * np.minimum(counts, 5).sum() / 300)
    against = oracle_recall(lengths, lengths, range(300), range(300), ties="against")
    assert against["R@1"] == pytest.approx(100 * (counts == 1).sum() / 300)
    assert oracle_recall([1], [1], ["a"], ["b"]) == {}


def test_attributes_that_have_no_log_are_refused():
    with pytest.raises(DataError, match="positive and finite"):
        oracle_recall([0, 1], [1, 1], "ab", "ab")
    with pytest.raises(DataError, match="not numbers"):
        oracle_recall(["long", "short"], [1, 1], "ab", "ab")


def test_equal_attribute_recall_agrees_with_a_loop():
    rng = np.random.default_rng(1)
    lengths = np.repeat([40, 41, 42, 43], [4, 5, 9, 12])
    ids = [f"s{i}" for i in range(30)]
    u = unit(rng, 30, 5)
    v = u + 0.6 * unit(rng, 30, 5)
    lengths_v = lengths.copy()
    lengths_v[-1] = 42  # its mate is in another pool, and it is a distractor there
    hits, chances = [], []
    for i in range(30):
        pool = [j for j in range(30) if lengths_v[j] == lengths[i]]
        if len(pool) >= 5 and i in pool:
            hits.append(all(u[i] @ v[i] > u[i] @ v[j] for j in pool if j != i))
            chances.append(1 / len(pool))
    found = equal_attribute_recall(u, v, ids, ids, lengths, lengths_v)
    assert found.queries == len(hits) == 25
    assert 0 < sum(hits) < len(hits)
    assert found.recall == pytest.approx(100 * np.mean(hits))
    assert found.chance == pytest.approx(100 * np.mean(chances))


def test_equal_attribute_recall_sees_through_a_model_of_the_attribute_alone():
    lengths = np.repeat(np.arange(40, 60), 6)
    angle = np.linspace(0, 3, 20)[np.repeat(np.arange(20), 6)]
    z = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    found = equal_attribute_recall(z, z, range(120), range(120), lengths, lengths)
    assert found.recall == 0.0  # all candidates tie
    assert found.chance == pytest.approx(100 / 6)
    assert found.pool == 6
    assert equal_attribute_recall(z, z, range(120), range(120), range(1, 121), range(1, 121)) is None


def test_r2_of_known_mixtures():
    rng = np.random.default_rng(2)
    z = rng.normal(size=(400, 6))
    signal = z @ rng.normal(size=6)
    signal /= signal.std()
    noise = rng.normal(size=400)
    assert attribute_r2(z, np.exp(signal)) == pytest.approx(1.0, abs=1e-6)
    assert attribute_r2(z, np.exp(signal + noise)) == pytest.approx(0.5, abs=0.1)
    assert attribute_r2(z, np.exp(noise)) < 0.03
    assert math.isnan(attribute_r2(z, np.full(400, 7.0)))
    assert math.isnan(attribute_r2(z[:9], np.exp(noise[:9])))


def test_r2_with_more_columns_than_rows_does_not_pretend():
    rng = np.random.default_rng(3)
    assert attribute_r2(rng.normal(size=(60, 200)), np.exp(rng.normal(size=60))) < 0.2


def test_r2_keeps_groups_together():
    """Every sample twice: a split that parts twins could learn each sample by heart."""
    rng = np.random.default_rng(4)
    z = np.repeat(np.eye(40), 2, axis=0)
    y = np.exp(np.repeat(rng.normal(size=40), 2))
    assert attribute_r2(z, y, groups=np.repeat(np.arange(40), 2)) < 0.1
    assert attribute_r2(z, y) > 0.5
