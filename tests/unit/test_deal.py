from __future__ import annotations

import pytest

from gentle_core.deal import deal_splits


def test_shares_are_met_and_reproducible():
    keys = [f"entry{i}" for i in range(2000)]
    split = deal_splits(keys, 0.1, 0.2, seed=0)
    share = {name: list(split.values()).count(name) / len(keys) for name in ("train", "val", "test")}
    assert share["val"] == pytest.approx(0.1, abs=0.03)
    assert share["test"] == pytest.approx(0.2, abs=0.03)
    assert split == deal_splits(reversed(keys), 0.1, 0.2, seed=0)
    assert split != deal_splits(keys, 0.1, 0.2, seed=1)


def test_new_entries_do_not_move_old_ones():
    keys = [f"entry{i}" for i in range(200)]
    few, many = deal_splits(keys[:100], 0.1, 0.1, 0), deal_splits(keys, 0.1, 0.1, 0)
    assert all(many[key] == split for key, split in few.items())


@pytest.mark.parametrize("count", [3, 4, 10])
def test_every_wanted_split_gets_an_entry(count):
    for seed in range(20):
        assert set(deal_splits(map(str, range(count)), 0.1, 0.1, seed).values()) == {"train", "val", "test"}
    assert set(deal_splits(map(str, range(count)), 0.0, 0.0, 0).values()) == {"train"}


def test_one_or_two_entries_are_dealt_by_hash_alone():
    assert len(deal_splits(["a", "b"], 0.4, 0.4, 0)) == 2
