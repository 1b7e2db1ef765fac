"""What files say of train, val and test, and what must stay together."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from gentle_core.api import DataError

SPLITS = ("train", "val", "test")
_ALIASES = {"validation": "val", "valid": "val", "training": "train", "testing": "test"}


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


def read_splits(path: Path) -> dict[str, list[str]]:
    """Names by split from a JSON file of lists, or from a folder with train.txt, val.txt, test.txt (a name a line).

    "validation" and "valid" mean val. Raises DataError where there is nothing to read, a list is no list of names, or
    a name is in two splits.
    """
    if path.is_dir():
        found = {p.stem: p.read_text().split() for p in sorted(path.glob("*.txt")) if _split_name(p.stem)}
    else:
        try:
            found = json.loads(path.read_text())
        except FileNotFoundError:
            raise DataError(f"{path}: no such file; `splits` is a JSON file or a folder with train.txt …") from None
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: no readable JSON file of splits: {error}") from None
        if not isinstance(found, dict):
            raise DataError(f'{path}: expected {{"train": […], "val": […], "test": […]}}')
    splits: dict[str, list[str]] = {}
    for key, names in found.items():
        if split := _split_name(key):
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise DataError(f"{path}: {key!r} is not a list of names")
            splits.setdefault(split, []).extend(names)
    if not any(splits.values()):
        raise DataError(f"{path}: names no train, val or test items")
    where: dict[str, str] = {}
    for split, names in splits.items():
        for name in names:
            if where.setdefault(name, split) != split:
                raise DataError(f"{path}: {name!r} is both in {where[name]} and in {split}")
    return splits


def _split_name(key: str) -> str | None:
    name = _ALIASES.get(key, key)
    return name if name in SPLITS else None
