from __future__ import annotations

import attrs
import numpy as np
import pytest
import torch

from gentle_core.data.features import FeatureStore, content_key, encode_all, size_buckets
from gentle_core.errors import DataError


@attrs.frozen(eq=False)
class Thing:
    name: str
    values: np.ndarray = attrs.field(eq=True)


def run(tmp_path, words, calls, key="k"):
    def encode(items):
        calls.append(list(items))
        return torch.tensor([[float(len(w)), float(sum(map(ord, w)))] for w in items])

    store = FeatureStore(tmp_path, key)
    return encode_all(encode, len, lambda rows: [words[r] for r in rows], len(words), store=store, budget=20)


def test_order_is_kept_and_the_second_time_costs_nothing(tmp_path):
    words, calls = ["aaaa", "b", "cccccc", "dd", "b"], []
    first = run(tmp_path, words, calls)
    assert first[:, 0].tolist() == [4, 1, 6, 2, 1]
    calls.clear()
    torch.testing.assert_close(run(tmp_path, words, calls), first, rtol=0, atol=0)
    assert not calls
    run(tmp_path, [*words, "new"], calls)
    assert calls == [["new"]]


def test_another_encoder_state_has_a_store_of_its_own(tmp_path):
    calls = []
    run(tmp_path, ["a"], calls, key="one")
    run(tmp_path, ["a"], calls, key="two")
    assert len(calls) == 2


def test_a_damaged_shard_is_computed_again(tmp_path):
    calls = []
    first = run(tmp_path, ["aa", "b"], calls)
    (shard,) = tmp_path.rglob("*.safetensors")
    shard.write_bytes(shard.read_bytes()[:-5])
    torch.testing.assert_close(run(tmp_path, ["aa", "b"], calls), first)
    assert len(calls) == 2


def test_a_linked_shard_is_refused(tmp_path):
    run(tmp_path, ["aa"], [])
    (shard,) = tmp_path.rglob("*.safetensors")
    other = tmp_path / "elsewhere"
    shard.rename(other)
    shard.symlink_to(other)
    with pytest.raises(DataError, match="symbolic link"):
        FeatureStore(tmp_path, "k")


def test_buckets_hold_every_item_once_within_the_budget():
    sizes = [5, 9, 1, 7, 7, 2, 30]
    groups = list(size_buckets(sizes, budget=20, most=3))
    assert sorted(i for g in groups for i in g) == list(range(7))
    for group in groups:
        assert len(group) == 1 or len(group) * max(sizes[i] for i in group) <= 20
        assert len(group) <= 3


def test_keys_follow_content():
    a = Thing("x", np.arange(3))
    assert content_key(a) == content_key(Thing("x", np.arange(3)))
    assert content_key(a) != content_key(Thing("x", np.arange(3.0)))
    assert content_key(["ab", "c"]) != content_key(["a", "bc"])
    assert content_key("1") != content_key(1)
    with pytest.raises(DataError, match="cannot hash"):
        content_key(object())
