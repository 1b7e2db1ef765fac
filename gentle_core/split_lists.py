"""What files say of train, val and test."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from gentle_core.errors import DataError

SPLITS = ("train", "val", "test")
ALIASES = {
    "validation": "val",
    "valid": "val",
    "dev": "val",
    "training": "train",
    "testing": "test",
    "restval": "train",
}
"""What files call the splits. "restval" is COCO's: images of the former validation set that join the training."""


def split_name(name: str) -> str | None:
    """ "val" for "Validation"; None for what is no split."""
    name = ALIASES.get(name.strip().lower(), name.strip().lower())
    return name if name in SPLITS else None


def read_splits(path: Path) -> dict[str, str]:
    """The split of each name, from a JSON file {"train": […], "val": […], "test": […]} or a folder with train.txt, …,
    a name a line. Keys and files that name no split are left alone.

    Raises:
        DataError: nothing to read, a list is no list of names, or a name is in two splits.
    """
    where: dict[str, str] = {}
    for key, names in _lists(path).items():
        split = split_name(key)
        if split is None:
            continue
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise DataError(f"{path}: {key!r} is not a list of names")
        for name in names:
            if where.setdefault(name, split) != split:
                raise DataError(f"{path}: {name!r} is both in {where[name]} and in {split}")
    if not where:
        raise DataError(f"{path}: names no train, val or test items")
    return where


def _lists(path: Path) -> Mapping[str, object]:
    if path.is_dir():
        files = [file for file in sorted(path.glob("*.txt")) if split_name(file.stem)]
        return {file.stem: [line.strip() for line in _text(file).splitlines() if line.strip()] for file in files}
    if not path.exists():
        raise DataError(f"{path}: no such file; `splits` is a JSON file or a folder with train.txt …")
    try:
        found = json.loads(_text(path))
    except ValueError as error:
        raise DataError(f"{path}: no readable JSON file of splits: {error}") from None
    if not isinstance(found, dict):
        raise DataError(f'{path}: expected {{"train": […], "val": […], "test": […]}}')
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8") from None
