from __future__ import annotations

import numpy as np
import pytest

from gentle_core.batch import ItemIndex
from gentle_core.data.pools import make_pools
from gentle_core.errors import DataError

TOWERS = {"left": "a", "right": "b"}


def index(count: int = 40, alone: int = 7) -> dict[str, ItemIndex]:
    names = [f"s{i}" for i in range(count)]
    return {"a": ItemIndex([*names, *(f"only{i}" for i in range(alone))]), "b": ItemIndex(names[::-1])}


def names(pools, table, tower):
    modality = TOWERS[tower]
    return [table[modality].samples[p] for p in pools.unmatched[tower]]


def test_matched_positions_are_mates():
    table = index()
    pools = make_pools(table, TOWERS, paired=0.5, seed=3)
    assert pools.pairs == 20
    for row, sample in enumerate(pools.samples):
        for tower, modality in TOWERS.items():
            (position,) = pools.matched[tower][row]
            assert table[modality].samples[position] == sample


def test_nothing_is_matched_and_unmatched_at_once():
    table = index()
    pools = make_pools(table, TOWERS, paired=10, seed=3)
    for tower in TOWERS:
        assert not set(names(pools, table, tower)) & set(pools.samples)


def test_shuffled_pools_keep_every_item_and_disjoint_pools_no_mates():
    table = index()
    shuffled = make_pools(table, TOWERS, paired=10, pool="shuffled")
    assert shuffled.pool_sizes == {"left": 37, "right": 30}
    disjoint = make_pools(table, TOWERS, paired=10, pool="disjoint")
    left, right = (set(names(disjoint, table, tower)) for tower in TOWERS)
    assert not left & right
    assert len(left | right) == 37
    assert sum(name.startswith("only") for name in left) == 7


def test_fewer_pairs_are_a_subset_of_more():
    few, many = (make_pools(index(), TOWERS, paired=n, seed=1) for n in (5, 20))
    assert few.samples == many.samples[:5]


def test_pool_ids_differ_between_towers_and_from_matched_rows():
    pools = make_pools(index(), TOWERS, paired=10)
    ids = [pools.unmatched_id(tower, pools.unmatched[tower]) for tower in TOWERS]
    together = np.concatenate(ids)
    assert len(np.unique(together)) == len(together)
    assert together.min() >= pools.pairs


def test_zero_pairs_and_all_pairs():
    assert make_pools(index(), TOWERS, paired=0.0).pairs == 0
    everything = make_pools(index(alone=0), TOWERS, paired=1.0)
    assert everything.pairs == 40
    assert everything.pool_sizes == {"left": 0, "right": 0}


def test_several_items_of_a_sample_stay_together():
    table = {"a": ItemIndex(["x", "y"]), "b": ItemIndex(["x0", "x1", "y0"], ["x", "x", "y"])}
    pools = make_pools(table, TOWERS, paired=1.0)
    at = pools.samples.index("x")
    assert pools.matched["right"][at].tolist() == [0, 1]


@pytest.mark.parametrize("paired", [1.5, -0.1, -3])
def test_bad_shares_say_what_is_meant(paired):
    with pytest.raises(DataError, match="dataset.paired"):
        make_pools(index(), TOWERS, paired=paired)
