"""`vision-language/coco-captions`: MS COCO's caption files."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gentle_core.api import BuildContext, DataError, deal_splits, split_name
from gentle_vision_language.datasets.captions import CaptionDataset, Entry, clean_captions, finished
from gentle_vision_language.datasets.config import CocoConfig
from gentle_vision_language.datasets.files import image_files
from gentle_vision_language.datasets.skips import Skips
from gentle_vision_language.datasets.text_files import read_text
from gentle_vision_language.items import ImageFile


def build(config: CocoConfig, context: BuildContext) -> CaptionDataset:
    """The dataset of a folder.

    Raises DataError where captions or images are missing or are no COCO files, and under `strict` for anything that
    would be skipped.
    """
    if not config.path.is_dir():
        raise DataError(f"{config.path}: no such folder; give the one that holds the data set as `path`")
    skips, counts = Skips(config.strict), Counter[str]()
    files = image_files(config.images or config.path)
    sources = [config.captions] if config.captions else caption_files(config.path)
    found: dict[str, tuple[Path, list[Any]]] = {}
    for source in sources:
        for name, texts in read_coco(source, skips):
            if name in found:
                raise DataError(f"{name} is in {found[name][0]} and in {source}: leave one of them out")
            found[name] = source, texts
    if len(sources) > 1:
        split_of = {name: _split(source) for name, (source, _) in found.items()}
    else:
        split_of = dict(deal_splits(found, config.val_fraction, config.test_fraction, config.split_seed))
    entries: list[tuple[str, Entry]] = []
    for name, (source, texts) in found.items():
        if name not in files:
            skips.add(f"{source}: {name}", "there is no such image", "missing images")
        elif not texts:
            counts["without_caption"] += 1
        elif captions := clean_captions(texts, name, skips):
            entries.append((split_of[name], Entry(name, ImageFile(files[name]), captions, source=str(source))))
    facts = {
        "source": str(config.path), "captions_file": [str(s) for s in sources], "left_out": dict(counts),
        "licence": "captions: CC BY 4.0; images: their authors' on Flickr",
    }  # fmt: skip
    return finished(entries, config, skips, context, facts, f"{config.path}: no image with captions")


def caption_files(folder: Path) -> list[Path]:
    """COCO's caption files in a folder or its `annotations`. Raises DataError where there are none."""
    places = [folder, folder / "annotations"]
    found = [path for place in places for path in sorted(place.glob("captions*.json"))]
    if not found:
        raise DataError(f"{folder}: holds no captions*.json, nor does its annotations/; name the file with `captions`")
    unclear = [path for path in found if len(found) > 1 and not _named(path)]
    if unclear:
        raise DataError(f"{unclear[0]}: its name says neither train nor val; name one file with `captions`")
    return found


def read_coco(path: Path, skips: Skips) -> Iterator[tuple[str, list[Any]]]:
    """(file name, captions) of every image. Raises DataError where the file is no COCO caption file."""
    try:
        found = json.loads(read_text(path))
    except ValueError as error:
        raise DataError(f"{path}: is no JSON: {error}") from None
    try:
        names = {image["id"]: image["file_name"] for image in found["images"]}
        rows = [(row["image_id"], row["caption"]) for row in found["annotations"]]
    except (KeyError, TypeError) as error:
        raise DataError(f"{path}: is no COCO caption file ({error} is missing in images or annotations)") from None
    texts: dict[str, list[Any]] = {name: [] for name in names.values()}
    for number, (image, caption) in enumerate(rows):
        if image in names:
            texts[names[image]].append(caption)
        else:
            skips.add(f"{path}: annotation {number}", f"names image {image}, which is not listed", "missing images")
    yield from texts.items()


def _named(path: Path) -> str | None:
    stem = path.stem.lower().removeprefix("captions").strip("_-0123456789")
    return split_name(stem)


def _split(path: Path) -> str:
    named = _named(path)
    assert named is not None
    return named
