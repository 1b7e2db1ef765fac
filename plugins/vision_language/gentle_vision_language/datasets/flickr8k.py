"""`vision-language/flickr8k`: Flickr8k and Flickr30k in the layouts in which they are handed on.

Captions come as a token file (`name.jpg#0<TAB>caption` a line) or as Kaggle's csv (`image,caption`; Flickr30k's
`image_name| comment_number| comment`). Splits come as lists of image names.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from gentle_core.api import BuildContext, DataError, deal_splits
from gentle_vision_language.datasets.captions import CaptionDataset, Entry, clean_captions, finished
from gentle_vision_language.datasets.config import Flickr8kConfig
from gentle_vision_language.datasets.files import image_files
from gentle_vision_language.datasets.skips import Skips
from gentle_vision_language.datasets.text_files import read_lines
from gentle_vision_language.items import ImageFile

CAPTION_FILES = ("Flickr8k.token.txt", "results_20130124.token", "captions.txt", "results.csv")
LISTS = {"train": "trainImages.txt", "val": "devImages.txt", "test": "testImages.txt"}


def build(config: Flickr8kConfig, context: BuildContext) -> CaptionDataset:
    """The dataset of a folder.

    Raises DataError where the captions or the images are not there, and under `strict` for anything that would be
    skipped.
    """
    if not config.path.is_dir():
        raise DataError(f"{config.path}: no such folder; give the one that holds the data set as `path`")
    captions = config.captions or _first(config.path, CAPTION_FILES)
    skips, counts = Skips(config.strict), Counter[str]()
    texts: dict[str, list[str]] = {}
    for name, text in read_captions(captions, skips):
        texts.setdefault(name, []).append(text)
    if not texts:
        raise DataError("; ".join(filter(None, (f"{captions}: holds no caption", skips.notice()))))
    files = image_files(config.images or config.path)
    split_of = _lists(config.path, skips) or deal_splits(
        texts, config.val_fraction, config.test_fraction, config.split_seed
    )

    entries: list[tuple[str, Entry]] = []
    for name, given in texts.items():
        split = split_of.get(name)
        if split is None:
            counts["in_no_split"] += 1
        elif name not in files:
            skips.add(f"{captions}: {name}", "there is no such image", "missing images")
        elif kept := clean_captions(given, name, skips):
            entries.append((split, Entry(name, ImageFile(files[name]), kept, source=str(captions))))
    counts["images_without_captions"] = sum(name not in texts for name in files)
    facts = {
        "source": str(config.path), "captions_file": str(captions), "left_out": dict(counts),
        "licence": "images: their authors' on Flickr; captions: CC BY-NC-SA 3.0 (for research)",
    }  # fmt: skip
    return finished(entries, config, skips, context, facts, f"{config.path}: no image with captions")


def read_captions(path: Path, skips: Skips) -> Iterator[tuple[str, str]]:
    """(image name, caption) of a token file or a csv, line by line; what is neither is skipped by name."""
    lines = [(number, line) for number, line in read_lines(path, skips) if line.strip()]
    if not lines:
        return
    head = lines[0][1].lower().replace(" ", "")
    if "\t" in lines[0][1]:
        for number, line in lines:
            name, tab, text = line.partition("\t")
            image, mark, _ = name.rpartition("#")
            if tab and mark:
                yield image.strip(), text
            else:
                skips.add(f"{path}:{number}", "is not 'image#number<TAB>caption'", "lines without a caption")
        return
    delimiter = "|" if head.startswith("image_name|") else ","
    if not head.startswith(("image,caption", "image_name|")):
        raise DataError(f"{path}: is neither a token file (image#0<TAB>caption) nor a csv that begins image,caption")
    for number, line in lines[1:]:
        row = next(csv.reader([line], delimiter=delimiter)) if delimiter == "," else line.split("|", 2)
        if len(row) < 2:
            skips.add(f"{path}:{number}", f"is not 'image{delimiter}caption'", "lines without a caption")
        else:  # Kaggle's file quotes captions with commas; others do not
            yield row[0].strip(), (",".join(row[1:]) if delimiter == "," else row[-1])


def _first(folder: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        for path in (folder / name, *sorted(folder.glob(f"*/{name}"))):
            if path.is_file():
                return path
    raise DataError(f"{folder}: holds none of {', '.join(names)}; name the caption file with `captions`")


def _lists(folder: Path, skips: Skips) -> dict[str, str]:
    """The split of each image by the lists of the distribution; empty where there are none."""
    found: dict[str, str] = {}
    for split, ending in LISTS.items():
        for path in sorted(folder.rglob(f"*{ending}")):
            for _, line in read_lines(path, skips):
                if (name := line.strip()) and found.setdefault(name, split) != split:
                    raise DataError(f"{path}: {name} is in the list of {found[name]} too")
    return found
