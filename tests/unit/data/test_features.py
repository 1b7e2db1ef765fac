from __future__ import annotations

import attrs
import numpy as np
import pytest
import torch

from gentle_core.data.features import FeatureStore, ahead, content_key, encode_all, size_buckets
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
    return encode_all(
        lambda items, keys: items,
        encode,
        len,
        lambda rows: [words[r] for r in rows],
        len(words),
        store=store,
        budget=20,
    )


def test_order_is_kept_and_the_second_time_costs_nothing(tmp_path):
    words, calls = ["aaaa", "b", "cccccc", "dd", "b"], []
    first = run(tmp_path, words, calls)
    assert first[:, 0].tolist() == [4, 1, 6, 2, 1]
    calls.clear()
    torch.testing.assert_close(run(tmp_path, words, calls), first, rtol=0, atol=0)
    assert not calls
    run(tmp_path, [*words, "new"], calls)
    assert calls == [["new"]]


def test_rows_come_from_many_shards_in_the_order_that_is_asked_for(tmp_path):
    keys = [content_key(i) for i in range(10)]
    values = torch.arange(20.0).view(10, 2)
    for part in (slice(0, 3), slice(3, 4), slice(4, 10)):
        FeatureStore(tmp_path, "k").add(keys[part], values[part])
    store, order = FeatureStore(tmp_path, "k"), [9, 3, 0, 4, 3, 2]
    assert len(store) == 10 and keys[5] in store and content_key("other") not in store
    assert torch.equal(store.take([keys[i] for i in order]), values[order])
    store.add([content_key("of another width")], torch.ones(1, 5))
    assert store.take([content_key("of another width")]).shape == (1, 5) and store.take(keys[:1]).shape == (1, 2)


def test_what_occurs_twice_is_encoded_once(tmp_path):
    words, calls = ["b", "aa", "b", "aa", "c"], []
    found = run(tmp_path, words, calls)
    assert sorted(word for call in calls for word in call) == ["aa", "b", "c"]
    assert found[:, 1].tolist() == [float(sum(map(ord, word))) for word in words]


def test_another_encoder_state_has_a_store_of_its_own(tmp_path):
    calls = []
    run(tmp_path, ["a"], calls, key="one")
    run(tmp_path, ["a"], calls, key="two")
    assert len(calls) == 2


@pytest.mark.parametrize("damage", ["cut", "flip", "no digest"])
def test_a_damaged_shard_is_computed_again(tmp_path, damage):
    calls = []
    first = run(tmp_path, ["aa", "b"], calls)
    (shard,) = tmp_path.rglob("*.safetensors")
    content = bytearray(shard.read_bytes())
    if damage == "cut":
        content = content[:-5]
    elif damage == "flip":
        content[-1] ^= 1
    else:
        content = content.replace(b"blake2b", b"blake2a")
    shard.write_bytes(content)
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


def test_variants_of_an_item_have_keys_of_their_own(tmp_path):
    store, seen = FeatureStore(tmp_path, "k"), []

    def run_variant(variant):
        return encode_all(
            lambda items, keys: (seen.extend(keys), items)[1],
            lambda items: torch.tensor([[float(len(w)) + 10 * len(seen)] for w in items]),
            len,
            lambda rows: [["aa", "b"][r] for r in rows],
            2,
            store=store,
            variant=variant,
        )

    plain, one, two = (run_variant(v) for v in ("", "one", "two"))
    assert len(set(seen)) == 6
    assert torch.equal(run_variant("one"), one) and not torch.equal(one, two) and not torch.equal(one, plain)
    assert len(seen) == 6


def test_items_that_lie_elsewhere_are_known_by_their_content():
    class Lazy:
        def content(self):
            return b"abc"

    assert content_key(Lazy()) == content_key(b"abc")


def test_ahead_keeps_order_and_passes_errors_on():
    assert list(ahead(lambda x: x * x, range(20))) == [x * x for x in range(20)]
    assert list(ahead(str, [])) == []
    found = []
    with pytest.raises(ZeroDivisionError):
        found.extend(ahead(lambda x: 1 / x, [1, 2, 0, 3]))
    assert found == [1.0, 0.5]  # what was there before it


def test_ahead_works_one_argument_ahead():
    begun = []
    for number, value in enumerate(ahead(lambda x: begun.append(x) or x, range(5))):
        assert value == number and len(begun) <= number + 2


def test_a_shard_that_cannot_be_read_just_now_is_kept(tmp_path, monkeypatch):
    calls = []
    first = run(tmp_path, ["aa", "b"], calls)
    (shard,) = tmp_path.rglob("*.safetensors")

    def full(*_, **__):
        raise OSError(12, "Cannot allocate memory")

    with monkeypatch.context() as patched:
        patched.setattr("gentle_core.data.features.safe_open", full)
        assert not len(FeatureStore(tmp_path, "k"))
    assert shard.exists()
    calls.clear()
    torch.testing.assert_close(run(tmp_path, ["aa", "b"], calls), first, rtol=0, atol=0)
    assert not calls
