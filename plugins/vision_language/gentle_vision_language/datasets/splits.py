"""What files say of train, val and test."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from gentle_core.api import DataError
from gentle_vision_language.datasets.skips import Skips
from gentle_vision_language.datasets.text_files import read_lines

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
    """The split of each name, from a JSON file {"train": […], "val": […], "test": […]} or a folder with train.txt, …

    Raises:
        DataError: nothing to read, a list is no list of names, or a name is in two splits.
    """
    if path.is_dir():
        lists: Mapping[str, object] = {
            file.stem: [line for _, line in read_lines(file, Skips(strict=True)) if line]
            for file in sorted(path.glob("*.txt"))
            if split_name(file.stem)
        }
    else:
        try:
            lists = json.loads(path.read_text(encoding="utf-8-sig"))
        except FileNotFoundError:
            raise DataError(f"{path}: no such file; `splits` is a JSON file or a folder with train.txt …") from None
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: no readable JSON file of splits: {error}") from None
        if not isinstance(lists, dict):
            raise DataError(f'{path}: expected {{"train": […], "val": […], "test": […]}}')
    where: dict[str, str] = {}
    for key, names in lists.items():
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
