"""`vision-language/image-captions`: a folder of images and a file of captions; and either of them alone."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from gentle_core.api import BuildContext, DataError, deal_splits, read_splits, split_name
from gentle_vision_language.datasets.captions import CaptionDataset, Entry, clean_captions, finished
from gentle_vision_language.datasets.config import CaptionsConfig, ImageCaptionsConfig, ImageChecks, ImagesConfig
from gentle_vision_language.datasets.files import (
    CAPTION_KEYS,
    IMAGE_KEYS,
    TABLES,
    choose_key,
    image_paths,
    read_table,
    texts_of,
)
from gentle_vision_language.datasets.skips import Skips
from gentle_vision_language.datasets.text_files import read_lines
from gentle_vision_language.items import ImageFile


@attrs.define
class _Row:
    """What the file says of one image."""

    captions: list[Any] = attrs.field(factory=list)
    split: str = ""
    label: str = ""


class Names:
    """Finds the file that a name in a caption file means: a path in full, one below the folder, or a bare name."""

    def __init__(self, folder: Path, paths: list[str]):
        self.folder = os.fspath(folder)
        self.ids = {path: os.path.relpath(path, folder).replace(os.sep, "/") for path in paths}
        self._by_id = {name: path for path, name in self.ids.items()}
        self._by_name: dict[str, list[str]] = {}
        for path in paths:
            self._by_name.setdefault(os.path.basename(path), []).append(path)

    def find(self, name: str) -> str | None:
        """The file's path; None where there is none. Raises DataError where a bare name means several."""
        plain = name.replace("\\", "/")
        if (path := self._by_id.get(plain.removeprefix("./"))) is not None:
            return path
        if os.path.isabs(name) and (full := os.path.normpath(name)) in self.ids:
            return full
        found = self._by_name.get(plain.rpartition("/")[2], [])
        found = [path for path in found if path.replace(os.sep, "/").endswith(f"/{plain}")] or found
        if len(found) > 1:
            raise DataError(f"{name} means several files, among them {found[0]} and {found[1]}: write their folders")
        return found[0] if found else None


def build(config: ImageCaptionsConfig, context: BuildContext) -> CaptionDataset:
    """The dataset of a folder and a caption file.

    Raises DataError where either is missing or nothing is left, and under `strict` for anything that would be skipped.
    """
    skips, counts = Skips(config.strict), Counter[str]()
    paths = image_paths(config.path)
    names = Names(config.path, paths)
    found, alone = _read(config, names, skips)
    if not found and not alone:
        raise DataError("; ".join(filter(None, (f"{config.captions}: names no image that is there", skips.notice()))))
    split_of = _splits(config, names, found)
    entries: list[tuple[str, Entry]] = []
    for path, row in found.items():
        split = split_of.get(path)
        captions = clean_captions(row.captions, names.ids[path], skips)
        if split is None:
            counts["in_no_split"] += 1
        elif captions:
            entry = Entry(names.ids[path], ImageFile(path), captions, row.label, str(config.captions))
            entries.append((split, entry))
    for where, texts in alone:
        if captions := clean_captions(texts, where, skips):
            entries.append(("train", Entry(where, None, captions, source=str(config.captions))))
    lone = [path for path in paths if path not in found]
    counts["images_without_captions"] = len(lone)
    counts["captions_without_image"] = len(alone)
    if config.lone_images:
        entries += [("train", Entry(names.ids[path], ImageFile(path), (), source=path)) for path in lone]
    facts = {"source": str(config.path), "captions_file": str(config.captions), "counts_of_rest": dict(counts)}
    return finished(entries, config, skips, context, facts, f"{config.path}: no image with captions")


def build_captions(config: CaptionsConfig, context: BuildContext) -> CaptionDataset:
    """Texts without images. Raises DataError where there are none, and under `strict` for what would be skipped."""
    skips = Skips(config.strict)
    entries = []
    for file in _files(config.path):
        rows = _lines(file, skips) if file.suffix.lower() not in TABLES else _texts(file, config.caption_key, skips)
        for where, texts in rows:
            if not texts:
                skips.add(where, "has no caption", "empty captions")
            elif captions := clean_captions(texts, where, skips):
                entries.append(("train", Entry(where, None, captions, source=str(file))))
    checks = ImageChecks(strict=config.strict)
    return finished(entries, checks, skips, context, {"source": str(config.path)}, f"{config.path}: holds no text")


def build_images(config: ImagesConfig, context: BuildContext) -> CaptionDataset:
    """Images without texts. Raises DataError where there are none, and under `strict` for what would be skipped."""
    paths = image_paths(config.path)
    names = Names(config.path, paths)
    entries = [("train", Entry(names.ids[path], ImageFile(path), (), source=path)) for path in paths]
    facts = {"source": str(config.path)}
    return finished(entries, config, Skips(config.strict), context, facts, f"{config.path}: no usable image")


def _read(
    config: ImageCaptionsConfig, names: Names, skips: Skips
) -> tuple[dict[str, _Row], list[tuple[str, list[Any]]]]:
    """What the file says by image path, and the captions of rows without an image."""
    found: dict[str, _Row] = {}
    alone: list[tuple[str, list[Any]]] = []
    image_key = caption_key = ""
    for where, row in read_table(config.captions, skips):
        if not caption_key:
            caption_key = choose_key(config.caption_key, CAPTION_KEYS, row, config.captions, "captions", "caption_key")
            image_key = choose_key(config.image_key, IMAGE_KEYS, row, config.captions, "image names", "image_key")
        name, texts = row.get(image_key), texts_of(row.get(caption_key))
        if name is None or not str(name).strip():
            alone.append((where, texts))
            continue
        path = names.find(str(name).strip())
        if path is None:
            skips.add(where, f"there is no image {str(name).strip()!r} in {config.path}", "missing images")
            continue
        if not texts:
            skips.add(where, "has no caption", "empty captions")
            continue
        entry = found.setdefault(path, _Row())
        entry.captions += texts
        _note(entry, row, config, where)
    return found, alone


def _note(entry: _Row, row: Mapping[str, Any], config: ImageCaptionsConfig, where: str) -> None:
    """Take split and class of a row. Raises DataError where rows of one image name two splits."""
    for option, key, usual in (("split", config.split_key, "split"), ("label", config.label_key, "label")):
        if key and key not in row:
            raise DataError(f"{where}: no {key!r}; name the right one with {option}_key")
        value = row.get(key or usual)
        if value in (None, ""):
            continue
        known = split_name(str(value)) if option == "split" else str(value)
        if known is None:
            raise DataError(f"{where}: {value!r} is no split; use train, val and test")
        if option == "split" and entry.split not in ("", known):
            raise DataError(f"{where}: the image is in {entry.split} and in {known}")
        setattr(entry, option, known)


def _splits(config: ImageCaptionsConfig, names: Names, found: Mapping[str, _Row]) -> dict[str, str]:
    """The split of each image path."""
    if config.splits is not None:
        lists = {names.find(name): split for name, split in read_splits(config.splits).items()}
        if not any(path in lists for path in found):
            raise DataError(f"{config.splits}: names none of the images that have captions")
        return {path: split for path, split in lists.items() if path is not None}
    if any(row.split for row in found.values()):
        return {path: row.split for path, row in found.items() if row.split}
    by_id = deal_splits(
        (names.ids[path] for path in found), config.val_fraction, config.test_fraction, config.split_seed
    )
    return {path: by_id[names.ids[path]] for path in found}


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        kinds = (*TABLES, ".txt")
        found = sorted(p for p in path.rglob("*") if p.suffix.lower() in kinds and not p.name.startswith("."))
        if not found:
            raise DataError(f"{path}: holds no file of texts ({', '.join(kinds)})")
        return found
    if not path.exists():
        raise DataError(f"{path}: no such file")
    return [path]


def _lines(path: Path, skips: Skips) -> Iterator[tuple[str, list[Any]]]:
    for number, line in read_lines(path, skips):
        if line.strip():
            yield f"{path.name}:{number}", [line]


def _texts(path: Path, given: str, skips: Skips) -> Iterator[tuple[str, list[Any]]]:
    key = ""
    for where, row in read_table(path, skips):
        key = key or choose_key(given, CAPTION_KEYS, row, path, "texts", "caption_key")
        yield where.removeprefix(f"{path.parent}/"), texts_of(row.get(key))
