import math

import numpy as np
import pytest

from gentle_core.study.compare import Mean, best, difference


def test_the_interval_is_students():
    found = Mean.of([1.0, 2.0, 4.0])
    deviation = math.sqrt(((1 - 7 / 3) ** 2 + (2 - 7 / 3) ** 2 + (4 - 7 / 3) ** 2) / 2)
    assert found.mean == pytest.approx(7 / 3)
    assert found.deviation == pytest.approx(deviation)
    assert found.half == pytest.approx(4.302652729911275 * deviation / math.sqrt(3))  # t(.975, 2)
    assert not found.clear and Mean.of([4.0, 4.1, 3.9]).clear


def test_the_interval_holds_what_it_says():
    rng = np.random.default_rng(0)
    draws = [Mean.of(rng.normal(1.0, 2.0, size=5)) for _ in range(2000)]
    share = np.mean([abs(d.mean - 1.0) <= d.half for d in draws])
    assert 0.93 < share < 0.97


def test_one_seed_gives_no_interval():
    assert Mean.of([2.0]) == Mean(2.0, None, None, 1)
    assert not Mean.of([2.0]).clear
    assert Mean.of([]) is None


def test_differences_are_taken_seed_by_seed():
    noise = {0: 10.0, 1: 50.0, 2: 90.0}
    ours = {seed: value + 1.0 for seed, value in noise.items()}
    found = difference(ours, noise | {3: 7.0})
    assert found.count == 3 and found.mean == 1.0 and found.half == pytest.approx(0.0, abs=1e-12)
    assert difference({0: 1.0}, {1: 1.0}) is None


def test_best_looks_at_means_and_takes_the_first_of_equals():
    seen = {"a": {0: 1.0, 1: 3.0}, "b": {0: 2.0}, "c": {}}
    assert best(seen) == "a"
    assert best({"a": {0: 1.0}, "b": {0: 2.0}}, lower=True) == "a"
    assert best({"c": {}}) is None
