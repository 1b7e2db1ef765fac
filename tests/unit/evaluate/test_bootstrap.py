from __future__ import annotations

import numpy as np
import pytest

from gentle_core.evaluate.bootstrap import paired_bootstrap
from gentle_core.evaluate.retrieval import Ranks


def as_ranks(rank, samples=None, candidates=100) -> Ranks:
    rank = np.asarray(rank)
    samples = list(range(len(rank))) if samples is None else list(samples)
    return Ranks(rank, np.arange(len(rank)), samples, np.ones(len(rank), dtype=int), candidates, 0)


def slow_interval(first, second, samples, ks, draws, seed):
    """Draw samples by hand and recompute mean recall from the queries that were drawn."""
    rng = np.random.default_rng(seed)
    names = sorted(set(samples))
    differences = []
    for _ in range(draws):
        drawn = rng.choice(len(names), size=len(names))
        rows = [i for d in drawn for i, s in enumerate(samples) if s == names[d]]
        recall = [np.mean([np.mean(r[rows] <= k) for k in ks]) for r in (first, second)]
        differences.append(100 * (recall[0] - recall[1]))
    return np.quantile(differences, [0.025, 0.975])


def test_figures_are_the_observed_recalls():
    rng = np.random.default_rng(0)
    a = {"x->y": as_ranks(rng.integers(1, 20, 40)), "y->x": as_ranks(rng.integers(1, 20, 40))}
    b = {"x->y": as_ranks(rng.integers(1, 30, 40)), "y->x": as_ranks(rng.integers(1, 30, 40))}
    found = paired_bootstrap(a, b, ks=(1, 10), draws=100)
    for name in a:
        figure = found[f"{name}/R@10"]
        assert figure.first == pytest.approx(a[name].recall(10))
        assert figure.second == pytest.approx(b[name].recall(10))
        assert figure.difference == pytest.approx(figure.first - figure.second)
    assert found["mean/recall"].first == pytest.approx(np.mean([a[n].recall(k) for n in a for k in (1, 10)]))
    assert found["mean/R@1"].second == pytest.approx(np.mean([b[n].recall(1) for n in b]))
    assert found["mean/R@10"].low < found["mean/R@10"].difference < found["mean/R@10"].high


def test_interval_agrees_with_a_slow_cluster_bootstrap():
    rng = np.random.default_rng(1)
    samples = np.repeat(np.arange(30), 3)
    common = rng.integers(1, 20, size=30)[samples]
    first, second = (np.clip(common + rng.integers(-3, 4, 90), 1, None) for _ in range(2))
    found = paired_bootstrap(
        {"a->b": as_ranks(first, samples)}, {"a->b": as_ranks(second, samples)}, ks=(5, 10), draws=4000
    )["mean/recall"]
    low, high = slow_interval(first, second, samples.tolist(), (5, 10), 2000, seed=3)
    assert found.low == pytest.approx(low, abs=0.8)
    assert found.high == pytest.approx(high, abs=0.8)


def test_samples_not_queries_are_drawn():
    """Ten identical captions an image are one observation, not ten: the interval must be that of the images."""
    rng = np.random.default_rng(2)
    first, second = rng.integers(1, 20, size=(2, 40))
    alone = paired_bootstrap({"d": as_ranks(first)}, {"d": as_ranks(second)}, ks=(10,))["d/R@10"]
    ten = np.repeat(np.arange(40), 10)
    many = paired_bootstrap({"d": as_ranks(first[ten], ten)}, {"d": as_ranks(second[ten], ten)}, ks=(10,))["d/R@10"]
    assert many == alone


def test_both_directions_of_a_sample_are_drawn_together():
    rank = np.where(np.arange(50) % 2, 1, 50)
    worse = np.full(50, 50)
    one = paired_bootstrap({"d": as_ranks(rank)}, {"d": as_ranks(worse)}, ks=(1,))["mean/R@1"]
    two = paired_bootstrap(
        {"d": as_ranks(rank), "e": as_ranks(rank)}, {"d": as_ranks(worse), "e": as_ranks(worse)}, ks=(1,)
    )["mean/R@1"]
    assert (two.low, two.high) == pytest.approx((one.low, one.high))


def test_equal_models_do_not_differ_and_clearly_different_ones_do():
    rank = np.random.default_rng(3).integers(1, 30, 80)
    same = paired_bootstrap({"d": as_ranks(rank)}, {"d": as_ranks(rank)})["mean/recall"]
    assert (same.difference, same.low, same.high) == (0.0, 0.0, 0.0)
    assert not same.clear
    better = paired_bootstrap({"d": as_ranks(np.ones(80))}, {"d": as_ranks(rank)})["mean/recall"]
    assert better.clear and better.low > 0
    assert paired_bootstrap({"d": as_ranks(rank)}, {"d": as_ranks(np.ones(80))})["mean/recall"].clear


def test_coverage_of_the_interval():
    """Two models of equal ability: about one interval in twenty leaves out 0."""
    rng = np.random.default_rng(4)
    outside = 0
    for i in range(200):
        first, second = (as_ranks(np.where(rng.random(150) < 0.4, 1, 9)) for _ in range(2))
        outside += paired_bootstrap({"d": first}, {"d": second}, ks=(1,), draws=300, seed=i)["d/R@1"].clear
    assert 2 <= outside <= 24


def test_a_direction_with_few_queries_survives():
    few, many = as_ranks([1, 5], samples=[0, 1]), as_ranks(np.arange(1, 31))
    found = paired_bootstrap({"d": few, "e": many}, {"d": few, "e": many}, draws=200)
    assert np.isfinite([f.low for f in found.values()]).all()
    assert paired_bootstrap({"d": as_ranks([])}, {"d": as_ranks([])}) == {}


def test_different_queries_are_refused():
    with pytest.raises(ValueError, match="not ranked on the same queries"):
        paired_bootstrap({"d": as_ranks([1, 2])}, {"d": as_ranks([1, 2], samples=[5, 6])})
    with pytest.raises(ValueError, match="not ranked on the same queries"):
        paired_bootstrap({"d": as_ranks([1, 2])}, {"d": as_ranks([1, 2], candidates=50)})
    with pytest.raises(ValueError, match="directions differ"):
        paired_bootstrap({"d": as_ranks([1])}, {"e": as_ranks([1])})
