"""Ranks, intervals and differences that the report works out itself."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gentle_core.report import retrieval as r
from gentle_core.report.rundir import Points


def points(z: np.ndarray, samples: list[str] | None = None) -> Points:
    items = np.array([f"i{row}" for row in range(len(z))])
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    return Points(unit.astype(np.float32), items, np.array(samples) if samples else items)


def slow_ranks(u: Points, v: Points) -> list[int]:
    """One query at a time, one candidate at a time, in float64."""
    found = []
    for row, sample in enumerate(u.samples):
        scores = [float(np.dot(u.z[row].astype(float), z.astype(float))) for z in v.z]
        mates = [score for score, other in zip(scores, v.samples, strict=True) if other == sample]
        if mates:
            others = [score for score, other in zip(scores, v.samples, strict=True) if other != sample]
            found.append(1 + sum(score >= max(mates) for score in others))
    return found


def test_ranks_agree_with_a_plain_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    samples_u = [f"s{i % 17}" for i in range(40)]
    samples_v = [f"s{i % 13}" for i in range(31)]
    u, v = points(rng.normal(size=(40, 5)), samples_u), points(rng.normal(size=(31, 5)), samples_v)
    monkeypatch.setattr(r, "BLOCK_ENTRIES", 100)  # several blocks
    found = r.ranks(u, v)
    assert found.rank.tolist() == slow_ranks(u, v)
    assert found.candidates == 31
    assert set(found.samples) == {f"s{i}" for i in range(13)}  # the others have no mate


def test_ties_count_against_us() -> None:
    same = points(np.ones((6, 3)))
    assert r.ranks(same, same).rank.tolist() == [6] * 6


def ranks_of(rank: list[int], candidates: int = 100) -> r.Ranks:
    ids = np.array([f"i{row}" for row in range(len(rank))])
    return r.Ranks(np.array(rank), ids, ids, candidates)


def test_paired_difference_is_the_textbook_interval_for_one_direction() -> None:
    rng = np.random.default_rng(1)
    ours, theirs = rng.integers(1, 30, size=200).tolist(), rng.integers(1, 30, size=200).tolist()
    found = r.paired_difference({"a->b": ranks_of(ours)}, {"a->b": ranks_of(theirs)})
    gains = 100.0 * (np.array(ours) <= 10) - 100.0 * (np.array(theirs) <= 10)
    half = 1.959964 * gains.std(ddof=1) / math.sqrt(200)
    assert found is not None and found.paired
    assert found.value == pytest.approx(gains.mean())
    assert (found.low, found.high) == pytest.approx((gains.mean() - half, gains.mean() + half))


def test_paired_difference_counts_samples_not_queries() -> None:
    """The same queries in both directions say nothing new: the interval must not shrink."""
    rng = np.random.default_rng(2)
    ours, theirs = (ranks_of(rng.integers(1, 30, size=100).tolist()) for _ in range(2))
    one = r.paired_difference({"a->b": ours}, {"a->b": theirs})
    two = r.paired_difference({"a->b": ours, "b->a": ours}, {"a->b": theirs, "b->a": theirs})
    assert one is not None and two is not None
    assert (two.value, two.low, two.high) == pytest.approx((one.value, one.low, one.high))


def test_paired_difference_follows_item_ids_not_positions() -> None:
    rng = np.random.default_rng(3)
    ours, theirs = (ranks_of(rng.integers(1, 30, size=60).tolist()) for _ in range(2))
    order = rng.permutation(60)
    shuffled = r.Ranks(theirs.rank[order], theirs.items[order], theirs.samples[order], 100)
    straight, crossed = (r.paired_difference({"a->b": ours}, {"a->b": other}) for other in (theirs, shuffled))
    assert straight is not None and crossed is not None
    assert (crossed.low, crossed.high) == pytest.approx((straight.low, straight.high))


def test_no_difference_where_the_queries_differ_or_are_few() -> None:
    a = {"a->b": ranks_of([1] * 50)}
    other = r.Ranks(np.ones(50, int), np.array([f"x{i}" for i in range(50)]), np.array(["s"] * 50), 100)
    assert r.paired_difference(a, {"a->b": other}) is None
    assert r.paired_difference(a, {"a->b": ranks_of([1] * 50, candidates=99)}) is None
    assert r.paired_difference(a, {}) is None
    assert r.paired_difference({"a->b": ranks_of([1] * 5)}, {"a->b": ranks_of([2] * 5)}) is None


def flat(recall: float, pool: int = 400) -> dict[str, float]:
    return {
        f"retrieval/{d}/{k}": v for d in ("a->b", "b->a") for k, v in (("R@10", recall), ("R@1_chance", 100 / pool))
    }


def test_averages_alone_give_a_wider_interval_than_pairing() -> None:
    found = r.independent_difference(flat(40.0), flat(36.0))
    assert found is not None and not found.paired
    assert found.value == pytest.approx(4.0)
    assert found.sign == 0 and found.high - found.low == pytest.approx(2 * 1.959964 * math.sqrt((2400 + 2304) / 400))


def test_chance_and_pool_from_whatever_is_recorded() -> None:
    assert r.pool_size(flat(40.0, pool=800)) == 800
    assert r.chance(flat(40.0, pool=800)) == pytest.approx(1.25)
    assert r.chance(flat(40.0) | {"retrieval/mean/R@10_chance": 2.0}) == 2.0
    assert r.chance({}) is None and r.mean_recall({"retrieval/mean/R@10": float("nan")}) is None
    assert r.directions({"retrieval/a->b/R@1": 1.0, "retrieval/mean/R@1": 1.0, "loss": 2.0}) == ["a->b"]


def test_recorded_difference_is_read_in_either_spelling() -> None:
    entry = {"difference": 1.0, "low": 0.5, "high": 1.5, "first": 3.0, "second": 2.0}
    for comparison in ({"mean/R@10": entry}, {"R@10": entry}):
        found = r.recorded_difference(comparison)
        assert found is not None and (found.low, found.sign) == (0.5, 1)
    for broken in (None, {}, {"R@10": [entry]}, {"R@10": {"difference": 1.0}}, {"R@10": {**entry, "low": "x"}}):
        assert r.recorded_difference(broken) is None


def test_interval_of_a_recall_contains_it_and_stays_in_range() -> None:
    for recall in (0.0, 1.0, 50.0, 100.0):
        found = r.recall_interval(flat(recall))
        assert found is not None
        assert 0.0 <= found[0] <= recall <= found[1] <= 100.0
    low, high = r.recall_interval(flat(50.0)) or (0, 0)
    assert high - low == pytest.approx(9.75, abs=0.1)  # 1.96 · sqrt(.25 / 400) on either side


def test_agreement_with_the_recorded_recall() -> None:
    found = {"a->b": ranks_of([1] * 40 + [50] * 60), "b->a": ranks_of([1] * 40 + [50] * 60)}
    assert r.agrees(found, flat(40.0))
    assert not r.agrees(found, flat(45.0))  # another score was used
    assert not r.agrees({"a->b": found["a->b"]}, flat(40.0))
    assert not r.agrees({}, {})
