from __future__ import annotations

import numpy as np
import pytest

from gentle_core.batch import ItemIndex
from gentle_core.data.pools import make_pools
from gentle_core.data.rows import rows_per_batch
from gentle_core.data.sampler import BatchSampler
from gentle_core.errors import DataError
from gentle_core.recipe.model import TrainTable

TOWERS = {"left": "a", "right": "b"}


def setting(count=60, alone=11, paired=24, pool="shuffled", seed=5, **train):
    names = [f"s{i}" for i in range(count)]
    table = {"a": ItemIndex([*names, *(f"only{i}" for i in range(alone))]), "b": ItemIndex(names[::-1])}
    pools = make_pools(table, TOWERS, paired=paired, pool=pool, seed=seed)
    rows = rows_per_batch(TrainTable(**({"steps": 5, "batch_size": 8} | train)), pools.pairs, pools.pool_sizes)
    return table, pools, BatchSampler(pools, rows, seed)


def samples(table, plan, tower):
    return [table[TOWERS[tower]].samples[p] for p in plan[tower].positions]


def test_a_step_depends_on_seed_and_step_alone():
    _, _, straight = setting()
    _, _, jumping = setting()
    plans = [straight.batch(step) for step in range(12)]
    for step in (11, 3, 7, 0):
        again = jumping.batch(step)
        for tower in TOWERS:
            np.testing.assert_array_equal(again[tower].positions, plans[step][tower].positions)


def test_matched_rows_are_mates_and_pool_rows_never_share_an_id():
    table, _, sampler = setting()
    for step in range(20):
        plan = sampler.batch(step)
        n = plan["left"].matched
        assert n == 8
        left, right = samples(table, plan, "left"), samples(table, plan, "right")
        assert left[:n] == right[:n]
        np.testing.assert_array_equal(plan["left"].ids[:n], plan["right"].ids[:n])
        assert not set(plan["left"].ids[n:]) & set(plan["right"].ids)


def test_no_batch_holds_mates_in_matching_rows_of_the_pools():
    table, _, sampler = setting(count=60, alone=0, paired=20)
    together = 0
    for step in range(2000):
        plan = sampler.batch(step)
        left, right = (samples(table, plan, tower)[8:] for tower in TOWERS)
        assert not any(a == b for a, b in zip(left, right, strict=True))
        together += bool(set(left) & set(right))
    assert together > 1000, "mates do meet in a batch, in other rows: else nothing was tested"


def test_pool_rows_of_three_towers_hold_no_mates_in_matching_rows():
    table = {name: ItemIndex([f"s{i}" for i in range(6)]) for name in "abc"}
    towers = {name: name for name in "abc"}
    pools = make_pools(table, towers, paired=0)
    rows = rows_per_batch(TrainTable(steps=1, batch_size=6), 0, pools.pool_sizes)
    sampler = BatchSampler(pools, rows, 3)
    for step in range(200):
        plan = sampler.batch(step)
        names = [[table[t].samples[p] for p in plan[t].positions] for t in towers]
        for a, b in ((0, 1), (0, 2), (1, 2)):
            assert not any(x == y for x, y in zip(names[a], names[b], strict=True))


def test_disjoint_pools_never_hold_mates():
    table, _, sampler = setting(pool="disjoint")
    for step in range(50):
        plan = sampler.batch(step)
        left, right = (set(samples(table, plan, t)[plan[t].matched :]) for t in TOWERS)
        assert not left & right


def test_no_item_twice_in_a_batch_and_all_items_in_an_epoch():
    _, pools, sampler = setting(batch_size=10)
    for step in range(30):
        for plan in sampler.batch(step).values():
            assert len(set(plan.positions)) == len(plan.positions)
    epoch = [p for step in range(24 // 8) for p in setting()[2].batch(step)["left"].positions[:8]]
    assert len(set(epoch)) == pools.pairs


def test_matched_rows_stay_when_the_unmatched_are_switched_off():
    _, _, full = setting()
    _, _, bare = setting(unpaired_rows=0)
    for step in range(10):
        plan, alone = full.batch(step)["left"], bare.batch(step)["left"]
        np.testing.assert_array_equal(plan.positions[: plan.matched], alone.positions)


def test_the_papers_rule():
    """n = floor(N / (M + N) * B)."""
    rows = rows_per_batch(TrainTable(steps=1, proportional=64), 100, {"left": 900, "right": 700})
    assert rows.paired == 6
    assert rows.unpaired == {"left": 58, "right": 58}


def test_counts_set_apart_and_capped():
    rows = rows_per_batch(TrainTable(steps=1, paired_rows=64, unpaired_rows=128), 10, {"left": 500, "right": 20})
    assert rows.paired == 10
    assert rows.unpaired == {"left": 128, "right": 20}


def test_epochs_pass_over_the_longest():
    rows = rows_per_batch(TrainTable(epochs=2, batch_size=8), 24, {"left": 80, "right": 16})
    assert rows.steps_per_epoch == 10
    assert rows.steps == 20


def test_zero_pairs_are_legal_and_nothing_at_all_is_not():
    assert rows_per_batch(TrainTable(steps=1), 0, {"left": 9, "right": 9}).paired == 0
    with pytest.raises(DataError, match="batch would be empty"):
        rows_per_batch(TrainTable(steps=1), 0, {"left": 9, "right": 9}, unpaired=False)


def test_captions_of_a_sample_take_turns():
    table = {"a": ItemIndex(["x", "y"]), "b": ItemIndex(["x0", "x1", "x2", "y0"], ["x", "x", "x", "y"])}
    pools = make_pools(table, TOWERS)
    rows = rows_per_batch(TrainTable(steps=1, batch_size=2), pools.pairs, pools.pool_sizes)
    sampler = BatchSampler(pools, rows, 0)
    seen = {int(p) for step in range(40) for p in sampler.batch(step)["right"].positions}
    assert seen == {0, 1, 2, 3}
