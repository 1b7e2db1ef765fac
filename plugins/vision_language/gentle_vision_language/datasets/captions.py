"""Images and their captions in memory, and the dataset that serves them. What the caption datasets build on."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from gentle_core.api import SPLITS, BuildContext, DataError, ItemIndex
from gentle_vision_language import decode
from gentle_vision_language.datasets.config import ImageChecks
from gentle_vision_language.datasets.skips import Skips
from gentle_vision_language.items import IMAGE, TEXT, Caption, ImageFile

CHECKED = 1
"""Changes where `decode.problem` finds other problems than before, so that images are looked at again."""


@attrs.frozen(eq=False)
class Entry:
    """What one sample consists of. Without `image` its captions stand alone; without captions the image does.

    Attributes:
        id: the sample's, unique in its dataset; the image's item id. Caption k is item `<id>#<k>`.
        image: where the picture is.
        captions: in the order of the file.
        label: a class name, for evaluations; empty for none.
        source: the file it was named in.
    """

    id: str
    image: ImageFile | None
    captions: tuple[str, ...]
    label: str = ""
    source: str = ""


class CaptionDataset:
    """Images and captions by split; those of one entry share its id as their sample, and so are pairs.

    Args:
        splits: entries by split.
        facts: JSON-ready provenance.
        image_modality: the name under which the pictures are served, for datasets of a special kind of image.
    """

    def __init__(
        self,
        splits: Mapping[str, Sequence[Entry]],
        facts: Mapping[str, Any],
        image_modality: str = IMAGE,
    ):
        """Raises DataError where two entries have one id, naming both sources."""
        self._splits = {split: tuple(entries) for split, entries in splits.items()}
        self._facts = dict(facts)
        self._image_modality = image_modality
        self._entries: dict[str, Entry] = {}
        for entry in (e for entries in self._splits.values() for e in entries):
            other = self._entries.setdefault(entry.id, entry)
            if other is not entry:
                raise DataError(f"two images have the id {entry.id!r}: {other.source} and {entry.source}; rename one")

    def index(self, split: str) -> dict[str, ItemIndex]:
        entries = self._splits.get(split, ())
        labelled = any(entry.label for entry in entries)
        found = {}
        if pictures := [entry for entry in entries if entry.image is not None]:
            labels = {"label": np.array([entry.label for entry in pictures])} if labelled else {}
            found[self._image_modality] = ItemIndex([entry.id for entry in pictures], attributes=labels)
        rows = [(f"{entry.id}#{k}", entry) for entry in entries for k in range(len(entry.captions))]
        if rows:
            labels = {"label": np.array([entry.label for _, entry in rows])} if labelled else {}
            found[TEXT] = ItemIndex([item for item, _ in rows], [entry.id for _, entry in rows], labels)
        return found

    def load(self, modality: str, items: Sequence[str]) -> list[Any]:
        if modality == self._image_modality:
            return [self._image(item) for item in items]
        if modality == TEXT:
            return [self._caption(item) for item in items]
        raise DataError(f"this dataset has no modality {modality!r}; it has {self._image_modality!r} and {TEXT!r}")

    def facts(self) -> dict[str, Any]:
        counts = {
            split: {
                "images": sum(entry.image is not None for entry in entries),
                "captions": sum(len(entry.captions) for entry in entries),
            }
            for split, entries in self._splits.items()
        }
        return {**self._facts, "counts": counts}

    def _image(self, item: str) -> ImageFile:
        entry = self._entries.get(item)
        if entry is None or entry.image is None:
            raise DataError(f"no image has the id {item!r}")
        return entry.image

    def _caption(self, item: str) -> Caption:
        name, _, number = item.rpartition("#")
        entry = self._entries.get(name)
        if entry is None or not number.isdecimal() or int(number) >= len(entry.captions):
            raise DataError(f"no caption has the id {item!r}")
        k = int(number)
        return Caption(entry.captions[k], entry.captions[:k] + entry.captions[k + 1 :])


def clean_captions(texts: Iterable[Any], where: str, skips: Skips) -> tuple[str, ...]:
    """Captions without surrounding white space; empty ones and what is no text are skipped by name."""
    kept = []
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            skips.add(
                f"{where}#{number}", f"the caption is {type(text).__name__}, not text", "captions that are no text"
            )
        elif not text.strip():
            skips.add(f"{where}#{number}", "the caption is empty", "empty captions")
        elif "\ufffd" in text:
            skips.add(f"{where}#{number}", "the caption holds U+FFFD: its letters were lost on the way", "not UTF-8")
        else:
            kept.append(text.strip())
    return tuple(kept)


def usable(
    entries: Iterable[Entry],
    skips: Skips,
    context: BuildContext,
    *,
    min_side: int = 8,
    max_pixels: int = decode.MAX_PIXELS,
    check: str = "decode",
) -> list[Entry]:
    """The entries whose image, if they have one, can be used. The others are skipped by name, captions and all.

    What was found is kept in Gentle's cache by path, size and time of change, so that a second run looks at new and
    changed files alone.

    Args:
        min_side, max_pixels: limits of an image.
        check: "decode" reads every image whole, "header" looks at its first bytes alone.
    """
    given = list(entries)
    pictures = {entry.image for entry in given if entry.image is not None}
    verdict = _verdicts(pictures, Path(context.cache_dir), min_side, max_pixels, check == "decode")
    kept = []
    for entry in given:
        why = verdict[entry.image] if entry.image is not None else ""
        if why:
            skips.add(str(entry.image), why, "missing images" if why in _GONE else "bad images")
        else:
            kept.append(entry)
    return kept


def finished(
    entries: Sequence[tuple[str, Entry]],
    config: ImageChecks,
    skips: Skips,
    context: BuildContext,
    facts: Mapping[str, Any],
    nothing: str,
    image_modality: str = IMAGE,
) -> CaptionDataset:
    """The dataset of (split, entry) pairs: images checked, what was skipped said and counted.

    Args:
        nothing: what is wrong where nothing is left.

    Raises:
        DataError: nothing is left, or anything would be skipped under `strict`.
    """
    good = usable(
        (entry for _, entry in entries), skips, context,
        min_side=config.min_side, max_pixels=config.max_pixels, check=config.check,
    )  # fmt: skip
    if not good:
        raise DataError("; ".join(filter(None, (nothing, skips.notice()))))
    if notice := skips.notice():
        context.notify(notice)
    kept = set(map(id, good))
    splits = {split: [entry for s, entry in entries if s == split and id(entry) in kept] for split in SPLITS}
    return CaptionDataset(splits, {**facts, "skipped": skips.facts()}, image_modality)


_GONE = ("No such file or directory", "Is a directory", "Not a directory")


def _verdicts(
    pictures: Iterable[ImageFile], cache: Path, min_side: int, max_pixels: int, whole: bool
) -> dict[ImageFile, str]:
    """Why each image cannot be used (empty where it can)."""
    keys = {picture: _key(picture) for picture in pictures}
    settings = f"{CHECKED}/{min_side}/{max_pixels}/{whole}"
    roots = {os.path.dirname(picture.path) for picture in keys}
    name = hashlib.sha256("\n".join([settings, *sorted(roots)]).encode()).hexdigest()[:16]
    store = cache / "images-checked" / f"{name}.json"
    known = _read(store)
    unknown = [picture for picture, key in keys.items() if key not in known]
    found = decode.in_threads(
        lambda p: decode.problem(p, min_side=min_side, max_pixels=max_pixels, decode=whole), unknown
    )
    known |= {keys[picture]: why for picture, why in zip(unknown, found, strict=True)}
    if unknown:
        _write(store, {key: known[key] for key in keys.values()})
    return {picture: known[key] for picture, key in keys.items()}


def _key(picture: ImageFile) -> str:
    try:
        status = os.stat(picture.path)
    except OSError:  # checking it will say so
        return f"{picture.path}|{picture.offset}|{picture.length}|gone"
    return f"{picture.path}|{picture.offset}|{picture.length}|{status.st_size}|{status.st_mtime_ns}"


def _read(store: Path) -> dict[str, str]:
    try:
        found = json.loads(store.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write(store: Path, verdicts: Mapping[str, str]) -> None:
    """A cache that cannot be written costs time, nothing else."""
    try:
        store.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=store.parent, suffix=".tmp", delete=False) as out:
            json.dump({key: why for key, why in verdicts.items() if not key.endswith("|gone")}, out)
        os.replace(out.name, store)
    except OSError:
        return
