from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from gentle_core.evaluate.arrays import matched_rows
from gentle_core.evaluate.retrieval import (
    Mates,
    chance,
    describe_all,
    hit_probability,
    mean_recall,
    ranks,
    ranks_both,
    retrieval,
    retrieval_both,
)


def unit(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    z = rng.normal(size=(n, d))
    return (z / np.linalg.norm(z, axis=1, keepdims=True)).astype(np.float32)


def loop_ranks(u, v, samples_u, samples_v):
    """Rank of each query's best mate by plain Python; None without a mate."""
    result = []
    for x, sample in zip(u.astype(np.float64), samples_u, strict=True):
        scores = [math.fsum(a * b for a, b in zip(x, y, strict=True)) for y in v.astype(np.float64)]
        mates = [s for s, other in zip(scores, samples_v, strict=True) if other == sample]
        wrong = [s for s, other in zip(scores, samples_v, strict=True) if other != sample]
        result.append(1 + sum(s >= max(mates) - 1e-12 for s in wrong) if mates else None)
    return result


def test_ranks_agree_with_a_loop_with_captions_distractors_and_queries_without_mates():
    rng = np.random.default_rng(0)
    samples_u = [f"s{i}" for i in range(12)]
    samples_v = [f"s{i}" for i in rng.integers(0, 10, size=40)] + ["lonely"] * 3
    u, v = unit(rng, 12, 4), unit(rng, 43, 4)
    expected = loop_ranks(u, v, samples_u, samples_v)
    for block in (None, 1, 5, 100):
        found = ranks(u, v, samples_u, samples_v, block=block)
        assert found.rank.tolist() == [r for r in expected if r is not None]
    assert found.without_mate == expected.count(None) >= 2
    assert found.samples == [s for s, r in zip(samples_u, expected, strict=True) if r is not None]
    assert found.mates.tolist() == [samples_v.count(s) for s in found.samples]

    metrics = retrieval(u, v, samples_u, samples_v, ks=(1, 3), prefix="image->text")
    kept = np.array([r for r in expected if r is not None])
    assert metrics["retrieval/image->text/R@3"] == pytest.approx(100 * np.mean(kept <= 3))
    assert metrics["retrieval/image->text/MRR"] == pytest.approx(np.mean(1 / kept))
    assert metrics["retrieval/image->text/median_rank"] == np.median(kept)
    assert metrics["retrieval/image->text/without_mate"] == expected.count(None)
    assert metrics["retrieval/image->text/candidates"] == 43


def test_tensors_arrays_and_dtypes_give_the_same_ranks():
    rng = np.random.default_rng(1)
    u, v = unit(rng, 30, 6), unit(rng, 30, 6)
    ids = np.array([f"x{i}" for i in range(30)])
    reference = ranks(u, v, ids, ids).rank
    assert (ranks(torch.from_numpy(u), torch.from_numpy(v), ids.tolist(), list(ids)).rank == reference).all()
    assert (ranks(u.astype(np.float64), v, torch.arange(30), torch.arange(30)).rank == reference).all()
    assert (reference != 1).any()


def test_ties_count_against_us():
    same = np.tile(np.float32([[0.6, 0.8]]), (7, 1))
    ids = list("abcdefg")
    assert ranks(same, same, ids, ids).rank.tolist() == [7] * 7
    assert retrieval(same, same, ids, ids)["retrieval/a->b/R@5"] == 0.0
    # One twin of each mate, in high dimension, where matrix products round differently by position.
    rng = np.random.default_rng(2)
    z = unit(rng, 33, 301)
    twins = np.concatenate([z, z])
    assert (ranks(z, twins, range(33), range(66)).rank == 2).all()


def test_a_difference_that_rounding_explains_is_a_tie_and_a_real_one_is_not():
    z = np.array([[0.6, 0.8]])
    assert ranks(z, np.stack([z[0], z[0] * (1 - 4e-16)]), [0], [0, 1]).rank.tolist() == [2]
    assert ranks(z, np.stack([z[0], z[0] * (1 - 1e-9)]), [0], [0, 1]).rank.tolist() == [1]


def test_several_mates_tied_with_each_other_do_not_hurt():
    z = np.float32([[1, 0], [0, 1]])
    assert ranks(z, np.repeat(z, 3, axis=0), [0, 1], [0, 0, 0, 1, 1, 1]).rank.tolist() == [1, 1]


def test_scores_that_are_not_numbers_count_against_us():
    z = np.eye(3, dtype=np.float32)
    broken = z.copy()
    broken[0] = np.nan
    assert ranks(z, broken, range(3), range(3)).rank.tolist() == [3, 2, 2]
    assert ranks(broken, z, range(3), range(3)).rank.tolist() == [3, 1, 1]


def test_a_scorer_is_streamed_and_keeps_its_orientation():
    rng = np.random.default_rng(3)
    u, v = torch.from_numpy(unit(rng, 20, 3)), torch.from_numpy(unit(rng, 15, 3))
    warp = torch.tensor([[1.0, 2.0, 0.0], [0.0, 1.0, -1.0], [0.5, 0.0, 1.0]])
    seen = []

    def scorer(a, b):
        seen.append((len(a), len(b)))
        return a @ warp @ b.T

    found = ranks_both(u, v, range(20), range(15), ("x", "y"), scorer, block=4)
    assert all(min(shape) <= 4 for shape in seen)
    assert (found["x->y"].rank == ranks(u @ warp, v, range(20), range(15)).rank).all()
    assert (found["y->x"].rank == ranks(v, u @ warp, range(15), range(20)).rank).all()
    assert not (found["y->x"].rank == ranks(v, u, range(15), range(20)).rank).all()


def test_both_directions_from_the_same_scores_are_those_of_each_alone():
    """Captions, distractors, queries without mates, ties and scores that are not numbers, in any blocks."""
    rng = np.random.default_rng(5)
    samples_u = [f"s{i}" for i in range(12)]
    samples_v = ["lonely"] * 3 + [f"s{i}" for i in rng.integers(0, 10, size=40)]
    u, v = unit(rng, 12, 4), unit(rng, 43, 4)
    v[7:12] = v[20:25]
    u[5], v[9] = u[2], np.nan
    expected = [ranks(u, v, samples_u, samples_v), ranks(v, u, samples_v, samples_u)]
    for block in (None, 1, 5, 100):
        found = ranks_both(u, v, samples_u, samples_v, block=block)
        for one, other in zip(found.values(), expected, strict=True):
            assert one.rank.tolist() == other.rank.tolist() and one.rows.tolist() == other.rows.tolist()
            assert one.mates.tolist() == other.mates.tolist() and one.samples == other.samples
            assert (one.candidates, one.without_mate) == (other.candidates, other.without_mate)
    with pytest.raises(ValueError, match="12 and 43 rows, but 12 and 42 sample ids"):
        ranks_both(u, v, samples_u, samples_v[1:])


@pytest.mark.parametrize("block", [None, 4])
def test_what_is_taken_off_a_candidate_counts_in_its_own_direction(block):
    rng = np.random.default_rng(6)
    u, v = torch.from_numpy(unit(rng, 9, 3)).double(), torch.from_numpy(unit(rng, 11, 3)).double()
    of_u, of_v = torch.from_numpy(rng.normal(size=9)), torch.from_numpy(rng.normal(size=11))
    mates = Mates.of(range(9), range(11))
    found = mates.ranks_of_scores(lambda part: u[part] @ v.T, bias=(of_u, of_v), block=block)
    assert found["a->b"].rank.tolist() == ranks(u, v, range(9), range(11), lambda q, c: q @ c.T - of_v).rank.tolist()
    assert found["b->a"].rank.tolist() == ranks(v, u, range(11), range(9), lambda q, c: q @ c.T - of_u).rank.tolist()
    assert mean_recall(found) == describe_all(found)["retrieval/mean/recall"]


def test_means_over_both_directions():
    rng = np.random.default_rng(4)
    u, v = unit(rng, 25, 4), unit(rng, 25, 4)
    m = retrieval_both(u, v, range(25), range(25), ("s", "t"), ks=(1, 5))
    for k in (1, 5):
        assert m[f"retrieval/mean/R@{k}"] == pytest.approx(
            (m[f"retrieval/s->t/R@{k}"] + m[f"retrieval/t->s/R@{k}"]) / 2
        )
    assert m["retrieval/mean/recall"] == pytest.approx((m["retrieval/mean/R@1"] + m["retrieval/mean/R@5"]) / 2)
    assert m["retrieval/mean/R@5_chance"] == pytest.approx(20.0)
    assert m["retrieval/mean/recall_chance"] == pytest.approx(12.0)


def test_no_mates_at_all_leaves_only_counts():
    z = np.eye(2)
    metrics = retrieval_both(z, z, ["a", "b"], ["c", "d"])
    assert metrics["retrieval/a->b/without_mate"] == 2
    assert not any("R@" in key for key in metrics)


def test_chance_against_all_orders():
    """All orders of five candidates, for queries with one, two and three mates."""
    mates = np.array([1, 2, 2, 3])
    best = [
        min(order.index(mate) for mate in range(p)) + 1 for p in mates for order in itertools.permutations(range(5))
    ]
    best = np.array(best)
    figures = chance(5, mates, ks=(1, 2, 4, 9))
    for k in (1, 2, 4, 9):
        assert figures[f"R@{k}"] == pytest.approx(100 * np.mean(best <= k), abs=1e-10)
    assert figures["MRR"] == pytest.approx(np.mean(1 / best), abs=1e-12)
    assert figures["median_rank"] == np.median(best)


@pytest.mark.parametrize("n", [1, 2, 771, 772])
def test_chance_in_closed_form_for_one_mate(n):
    figures = chance(n, np.ones(4, dtype=int), ks=(1, 10))
    assert figures["R@1"] == pytest.approx(100 / n)
    assert figures["R@10"] == pytest.approx(min(100.0, 1000 / n))
    assert figures["median_rank"] == pytest.approx((n + 1) / 2)
    assert figures["MRR"] == pytest.approx(math.fsum(1 / r for r in range(1, n + 1)) / n)


def test_hit_probability_is_the_hypergeometric_one():
    for n, p, k in [(5000, 5, 10), (7, 3, 2), (6, 6, 1), (4, 1, 9), (3, 1, 0)]:
        exact = 1 - math.comb(n - p, k) / math.comb(n, k) if k <= n else 1.0
        assert hit_probability(n, p, k) == pytest.approx(exact, abs=1e-13)


def test_chance_is_what_random_embeddings_give():
    rng = np.random.default_rng(5)
    samples_v = np.repeat(np.arange(40), 5)
    hits = [
        retrieval(unit(rng, 40, 8), unit(rng, 200, 8), range(40), samples_v, ks=(10,))["retrieval/a->b/R@10"]
        for _ in range(60)
    ]
    expected = chance(200, np.full(40, 5), ks=(10,))["R@10"]
    assert abs(np.mean(hits) - expected) < 4 * np.std(hits) / math.sqrt(60)


def test_matched_rows_in_every_combination():
    left, right = matched_rows(["a", "b", "c", "a"], ["c", "a", "x", "a"])
    assert list(zip(left.tolist(), right.tolist(), strict=True)) == [(0, 1), (0, 3), (2, 0), (3, 1), (3, 3)]


def test_wrong_number_of_ids_is_an_error():
    with pytest.raises(ValueError, match="2 and 2 rows, but 3 and 2"):
        ranks(np.eye(2), np.eye(2), [0, 1, 2], [0, 1])
