"""Dealing items to train, val and test."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


def deal_splits(keys: Iterable[str], val: float, test: float, seed: int) -> dict[str, str]:
    """The split of each key ("train", "val" or "test") by its hash, so that new keys do not move old ones.

    Items that must stay together (chains of one cluster, captions of one image) are dealt under one key. With few keys
    a wanted split may come out empty; where three or more are there, the order of the hashes then decides, at least one
    key for each split.

    Args:
        keys: what is dealt; a key that comes twice counts once.
        val, test: shares in [0, 1); the rest is "train".
        seed: another one deals anew.
    """
    place = {key: _place(key, seed) for key in keys}
    order = sorted(place, key=lambda key: place[key])
    split = {key: "test" if place[key] < test else "val" if place[key] < test + val else "train" for key in order}
    wanted = {"train"} | ({"val"} if val > 0 else set()) | ({"test"} if test > 0 else set())
    if wanted <= set(split.values()) or len(order) < 3:
        return split
    tests = max(1, round(test * len(order))) if test > 0 else 0
    vals = max(1, round(val * len(order))) if val > 0 else 0
    rest = len(order) - tests - vals
    return dict(zip(order, ["test"] * tests + ["val"] * vals + ["train"] * rest, strict=True))


def _place(key: str, seed: int) -> float:
    """A number in [0, 1) that depends on `key` and `seed` alone."""
    digest = hashlib.sha256(f"{seed}/{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
