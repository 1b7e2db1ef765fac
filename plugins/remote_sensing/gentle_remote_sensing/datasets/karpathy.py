"""RSICD, UCM-captions and Sydney-captions in the layout of Karpathy's JSON.

    {"images": [{"filename": "airport_1.jpg", "split": "train", "sentences": [{"raw": "…"}, …]}, …]}

The images lie in a folder beside it (`RSICD_images`, `imgs`). A partial copy is usual: captions of images that are not
there are skipped by name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import attrs

from gentle_core.api import BuildContext, DataError, split_name
from gentle_remote_sensing.datasets.config import KarpathyConfig, UnionConfig
from gentle_remote_sensing.datasets.names import UCM_CLASSES, class_names
from gentle_remote_sensing.datasets.scenes import Reader, SceneDataset, image_file
from gentle_vision_language.datasets.captions import Entry, clean_captions
from gentle_vision_language.datasets.flickr8k import image_files
from gentle_vision_language.datasets.text_files import read_text

TEMPLATES = ("an aerial photograph of {}.",)


def _rsicd_class(stem: str) -> str:
    """ "airport" for `airport_12`; the images that are only numbered have no class."""
    match = re.fullmatch(r"([A-Za-z]+)_?\d+", stem)
    return match[1].lower() if match else ""


def _ucm_class(stem: str) -> str:
    """Image k (from 1) of the 2,100 is of class (k − 1) // 100, as the data set numbers them."""
    return UCM_CLASSES[(int(stem) - 1) // 100] if stem.isdecimal() and 1 <= int(stem) <= 2100 else ""


def _no_class(stem: str) -> str:
    return ""


@attrs.frozen
class Source:
    """One of the data sets.

    Attributes:
        name: how facts and ids call it.
        folders: its usual folder names, in small letters.
        files: its usual caption files.
        label: the scene class of an image by its file's stem; empty for none.
    """

    name: str
    folders: tuple[str, ...]
    files: tuple[str, ...]
    label: Callable[[str], str]
    licence: str


RSICD = Source(
    "RSICD", ("rsicd", "rsicd_captions"), ("dataset_rsicd.json", "dataset.json"), _rsicd_class,
    "research use; images from Google Earth and others (Lu et al. 2017)",
)  # fmt: skip
UCM = Source(
    "UCM-captions", ("ucm_captions", "ucm-captions", "ucm"), ("dataset_ucm.json", "dataset.json"), _ucm_class,
    "images: USGS National Map, public domain; captions for research (Qu et al. 2016)",
)  # fmt: skip
SYDNEY = Source(
    "Sydney-captions", ("sydney_captions", "sydney-captions", "sydney"), ("dataset_sydney.json", "dataset.json"),
    _no_class, "research use (Qu et al. 2016)",
)  # fmt: skip


def build_rsicd(config: KarpathyConfig, context: BuildContext) -> SceneDataset:
    return _single(RSICD, config, context)


def build_ucm(config: KarpathyConfig, context: BuildContext) -> SceneDataset:
    return _single(UCM, config, context)


def build_sydney(config: KarpathyConfig, context: BuildContext) -> SceneDataset:
    return _single(SYDNEY, config, context)


def _single(source: Source, config: KarpathyConfig, context: BuildContext) -> SceneDataset:
    """One data set. Raises DataError where its captions or images are not there."""
    reader = Reader(config, context)
    read(source, config.path, reader, captions=config.captions, images=config.images)
    return reader.dataset(_facts([source], reader), config.path)


def build_union(config: UnionConfig, context: BuildContext) -> SceneDataset:
    """Those of the three data sets that are there; facts and a notice say which are not.

    Raises DataError where none is.
    """
    if not config.path.is_dir():
        raise DataError(f"{config.path}: no such folder; it should hold RSICD, UCM_captions or Sydney_captions")
    reader = Reader(config, context)
    present, absent = [], []
    for source, own in ((RSICD, config.rsicd), (UCM, config.ucm), (SYDNEY, config.sydney)):
        folder = own or _find(config.path, source)
        if folder is None:
            absent.append(source.name)
            continue
        read(source, folder, reader, prefix=f"{source.name}/")
        present.append(source)
    if not present:
        raise DataError(f"{config.path}: holds none of RSICD, UCM_captions and Sydney_captions")
    if absent:
        names = " and ".join(source.name for source in present)
        context.notify(f"the union consists of {names}; not there: {', '.join(absent)}")
    facts = _facts(present, reader) | {"union_of": [source.name for source in present], "not_there": absent}
    return reader.dataset(facts, config.path)


def _find(root: Path, source: Source) -> Path | None:
    """The data set's folder in `root`, or `root` itself where it holds its JSON."""
    folders = sorted(path for path in root.iterdir() if path.is_dir() and path.name.lower() in source.folders)
    if folders:
        return folders[0]
    return root if any((root / name).is_file() for name in source.files if name != "dataset.json") else None


def _facts(sources: Sequence[Source], reader: Reader) -> dict[str, Any]:
    classes = sorted({entry.label for _, entry in reader.entries if entry.label})
    return {
        "licence": "; ".join(f"{source.name}: {source.licence}" for source in sources),
        "class_names": class_names(classes, {}),
        "templates": list(TEMPLATES),
    }


def read(
    source: Source,
    folder: Path,
    reader: Reader,
    *,
    captions: Path | None = None,
    images: Path | None = None,
    prefix: str = "",
) -> None:
    """Add a data set's entries to `reader`.

    Raises:
        DataError: the folder, its JSON or its images are not there, or the JSON is of another kind.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder ({source.name})")
    path = captions or _first(folder, source)
    files = image_files(images or folder)
    by_stem = {PurePath(name).stem: place for name, place in files.items()}
    for number, record in enumerate(_records(path)):
        name = record.get("filename")
        where = f"{path}: {name or f'image {number}'}"
        if not isinstance(name, str) or not name:
            reader.skips.add(where, 'has no "filename"', "records of another kind")
            continue
        split = split_name(str(record.get("split", "")))
        if split is None:
            reader.counts["in_no_split"] += 1
            continue
        # Copies are handed on in other image formats than the JSON says.
        place = files.get(PurePath(name).name) or by_stem.get(PurePath(name).stem)
        if place is None:
            reader.skips.add(where, "there is no such image", "missing images")
            continue
        kept = clean_captions(_sentences(record), where, reader.skips)
        if not kept:
            continue
        label = source.label(PurePath(name).stem)
        reader.entries.append(
            (split, Entry(f"{prefix}{name}", image_file(reader.config, place), kept, label, str(path)))
        )


def _first(folder: Path, source: Source) -> Path:
    for name in source.files:
        for path in (folder / name, *sorted(folder.glob(f"*/{name}"))):
            if path.is_file():
                return path
    raise DataError(f"{folder}: holds none of {', '.join(source.files)}; name the file with `captions`")


def _records(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        content = json.loads(read_text(path))
    except ValueError as error:
        raise DataError(f"{path}: is no JSON: {error}") from None
    records = content.get("images") if isinstance(content, Mapping) else None
    if not isinstance(records, list) or not all(isinstance(record, Mapping) for record in records):
        raise DataError(f'{path}: expected {{"images": [{{"filename": …, "split": …, "sentences": […]}}, …]}}')
    yield from records


def _sentences(record: Mapping[str, Any]) -> list[Any]:
    """The captions as they were written; of records without them, the words put together."""
    given = record.get("sentences")
    found: list[Any] = []
    for sentence in given if isinstance(given, list) else ():
        if isinstance(sentence, Mapping):
            words = sentence.get("tokens")
            found.append(sentence.get("raw", " ".join(map(str, words)) if isinstance(words, list) else ""))
        else:
            found.append(sentence)
    return found
