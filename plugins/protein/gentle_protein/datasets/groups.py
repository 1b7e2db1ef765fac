"""What must stay together when chains are dealt to train, val and test."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


def components(groups: Mapping[str, Iterable[str]]) -> dict[str, str]:
    """Join keys that share a member: each key to the smallest key it is connected with.

    Entries with an identical sequence must not be dealt to different splits.
    """
    parent = {key: key for key in groups}

    def root(key: str) -> str:
        while parent[key] != key:
            parent[key] = key = parent[parent[key]]
        return key

    owner: dict[str, str] = {}
    for key, members in groups.items():
        for member in members:
            a, b = root(key), root(owner.setdefault(member, key))
            parent[max(a, b)] = min(a, b)
    return {key: root(key) for key in groups}
