from __future__ import annotations

import numpy as np
import pytest
import torch

from gentle_core.batch import ItemIndex
from gentle_core.data.loader import StepDataset, TowerSource, step_batches
from gentle_core.data.pools import make_pools
from gentle_core.data.rows import rows_per_batch
from gentle_core.data.sampler import BatchSampler
from gentle_core.recipe.model import TrainTable

TOWERS = {"left": "a", "right": "b"}


def load(modality, items):
    return [np.array([float(item[1:])]) for item in items]


def collate(items):
    return torch.from_numpy(np.stack(items))


def shift(item, rng):
    return item + rng.random()


def dataset(views=1, chunks=1, unpaired_rows=None, augment=(("shift", shift),), rank=0, ranks=1):
    table = {name: ItemIndex([f"s{i}" for i in range(40)]) for name in "ab"}
    pools = make_pools(table, TOWERS, paired=16)
    rows = rows_per_batch(TrainTable(steps=9, batch_size=8, unpaired_rows=unpaired_rows), 16, pools.pool_sizes)
    sources = {
        t: TowerSource(modality=m, index=table[m], load=load, collate=collate, augment=augment)
        for t, m in TOWERS.items()
    }
    return StepDataset(
        sources, BatchSampler(pools, rows, 0), seed=0, views=views, chunks=chunks, rank=rank, ranks=ranks
    )


def values(inputs, view=0):
    return torch.cat([chunk.inputs for chunk in inputs.views[view]])


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(workers):
    alone = list(step_batches(dataset(views=2), 0, 6))
    shared = list(step_batches(dataset(views=2), 0, 6, workers))
    for one, two in zip(alone, shared, strict=True):
        for tower in TOWERS:
            assert torch.equal(values(one[tower], 1), values(two[tower], 1))


def test_going_on_later_changes_nothing():
    straight = list(step_batches(dataset(), 0, 6))
    late = list(step_batches(dataset(), 4, 6))
    assert torch.equal(values(straight[5]["left"]), values(late[1]["left"]))


def test_views_differ_and_both_sides_of_a_pair_draw_alike():
    inputs = dataset(views=2)[3]
    left, right = inputs["left"], inputs["right"]
    assert not torch.equal(values(left, 0), values(left, 1))
    n = left.matched
    assert torch.equal(values(left)[:n], values(right)[:n])
    twice = dataset(augment=(("shift", shift), ("shift", shift)))[3]["left"]
    first = values(left)[:n] - torch.tensor([[float(i[1:])] for i in left.items[:n]])
    assert not torch.allclose(values(twice)[:n] - values(left)[:n], first)


def test_chunks_cut_the_rows_and_change_no_value():
    whole, cut = dataset()[2]["left"], dataset(chunks=3)[2]["left"]
    assert [c.rows for c in cut.views[0]] == [3, 3, 2, 3, 3, 2]
    assert torch.equal(values(whole)[cut.parts[0]], values(cut))
    assert sorted(cut.parts[0].tolist()) == whole.parts[0].tolist() == list(range(16))


def test_an_item_mostly_comes_to_the_same_rank():
    shards = [dataset(rank=rank, ranks=2) for rank in range(2)]
    came = {0: set(), 1: set()}
    for step in range(60):
        both = [shard[step]["left"] for shard in shards]
        assert [p.tolist() for p in both[0].parts] == [p.tolist() for p in both[1].parts]
        assert sorted(both[0].parts[0].tolist() + both[0].parts[1].tolist()) == list(range(len(both[0].items)))
        for rank, inputs in enumerate(both):
            assert torch.equal(values(inputs), values(dataset()[step]["left"])[inputs.parts[rank]])
            came[rank] |= {inputs.items[row] for row in inputs.parts[rank].tolist()}
    seen = [step for step in range(60) for _ in dataset()[step]["left"].items]
    assert len(seen) > 20 * 40  # without an order, each of the 40 items would have come to both
    assert len(came[0] & came[1]) < 30


def test_views_of_items_that_nothing_changes_are_collated_once():
    calls = []
    data = dataset(views=2, augment=())
    for source in data.sources.values():
        source.collate = lambda items: calls.append(len(items)) or collate(items)
    inputs = data[0]["left"]
    assert calls == [8, 8] * 2  # matched and unmatched rows of two towers
    assert len(inputs.views) == 2
    assert torch.equal(values(inputs, 0), values(inputs, 1))


def test_matched_rows_do_not_notice_the_unmatched():
    with_pool, without = dataset()[4]["left"], dataset(unpaired_rows=0)[4]["left"]
    assert len(without.items) == 8
    assert torch.equal(values(with_pool)[:8], values(without))


def test_labels_follow_the_rows():
    data = dataset()
    data.sources["left"].labels = torch.arange(40).remainder(3)
    inputs = data[2]
    rows = [int(item[1:]) % 3 for item in inputs["left"].items]
    assert inputs["left"].labels.tolist() == rows
    assert inputs["right"].labels is None


def test_a_tower_may_draw_its_own_number_of_unmatched_rows():
    sizes = {"left": 24, "right": 24}
    rows = rows_per_batch(TrainTable(steps=9, batch_size=8), 16, sizes, own={"left": 0, "right": None})
    assert dict(rows.unpaired) == {"left": 0, "right": 8}
    assert rows_per_batch(TrainTable(steps=9, proportional=10), 16, sizes, own={"left": 3}).unpaired["left"] == 3
