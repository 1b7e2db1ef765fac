"""`vision-language/webdataset`: tar shards of images and captions, read in place without unpacking them."""

from __future__ import annotations

import json
import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

from gentle_core.api import BuildContext, DataError, deal_splits, split_name
from gentle_vision_language.datasets.captions import CaptionDataset, Entry, clean_captions, finished
from gentle_vision_language.datasets.config import WebDatasetConfig
from gentle_vision_language.datasets.files import CAPTION_KEYS, SUFFIX, texts_of
from gentle_vision_language.datasets.skips import Skips
from gentle_vision_language.items import ImageFile


@attrs.define
class _Sample:
    image: ImageFile | None = None
    captions: list[Any] = attrs.field(factory=list)
    label: str = ""


def build(config: WebDatasetConfig, context: BuildContext) -> CaptionDataset:
    """The dataset of a shard or a folder of shards.

    A sample without captions is an image-only training item, one without an image text-only. Raises DataError where
    there is no shard, one cannot be read, or nothing is left, and under `strict` for anything that would be skipped.
    """
    skips = Skips(config.strict)
    shards = _shards(config.path)
    named = {shard: split_of_shard(shard) for shard in shards}
    found: list[tuple[str, str, _Sample]] = []
    for shard in shards:
        found += [(key, named[shard], sample) for key, sample in read_shard(shard, skips)]
    if any(named.values()):
        splits = {key: split or "train" for key, split, _ in found}
    else:
        whole = [key for key, _, sample in found if sample.image is not None and sample.captions]
        splits = deal_splits(whole, config.val_fraction, config.test_fraction, config.split_seed)
    entries = []
    for key, _, sample in found:
        captions = clean_captions(sample.captions, key, skips)
        alone = sample.image is None or not captions
        if sample.image is not None or captions:
            split = "train" if alone else splits[key]
            entries.append((split, Entry(key, sample.image, captions, sample.label, source=key.partition("/")[0])))
    facts = {"source": str(config.path), "shards": len(shards)}
    return finished(entries, config, skips, context, facts, f"{config.path}: no image or caption")


def split_of_shard(shard: Path) -> str:
    """The split that a shard's name or folder says; empty where it says none."""
    words = [*re.split(r"[^a-z]+", shard.stem.lower()), shard.parent.name]
    return next((split for word in words if (split := split_name(word))), "")


def read_shard(shard: Path, skips: Skips) -> Iterator[tuple[str, _Sample]]:
    """The samples of a shard, by "<shard>/<key>". Raises DataError where it is no readable tar file."""
    samples: dict[str, _Sample] = {}
    try:
        with tarfile.open(shard, "r:") as archive:  # not compressed, so that a member lies in the file as it is
            for member in archive:
                if member.isfile() and not os.path.basename(member.name).startswith("."):
                    _member(archive, shard, member, samples, skips)
    except (OSError, tarfile.TarError) as error:
        what = "; compressed shards cannot be read in place" if shard.suffix == ".gz" else ""
        raise DataError(f"{shard}: cannot be read as a tar file: {error}{what}") from None
    for key, sample in samples.items():
        yield f"{shard.stem}/{key}", sample


def _member(
    archive: tarfile.TarFile, shard: Path, member: tarfile.TarInfo, samples: dict[str, _Sample], skips: Skips
) -> None:
    folder, slash, name = member.name.rpartition("/")
    key, _, ending = name.partition(".")
    sample = samples.setdefault(f"{folder}{slash}{key}", _Sample())
    where, last = f"{shard.name}/{member.name}", f".{ending.rpartition('.')[2].lower()}"
    if SUFFIX.search(last):
        sample.image = ImageFile(str(shard), member.offset_data, member.size, name=where)
    elif last in (".txt", ".caption", ".json", ".cls"):
        content = archive.extractfile(member)
        assert content is not None
        try:
            text = content.read().decode("utf-8-sig")
            if last == ".json":
                found = json.loads(text)
                values = [found[k] for k in CAPTION_KEYS if isinstance(found, dict) and found.get(k)]
                sample.captions += texts_of(values[0]) if values else []
            elif last == ".cls":
                sample.label = text.strip()
            else:
                sample.captions += [line for line in text.splitlines() if line.strip()]
        except UnicodeDecodeError:
            skips.add(where, "is not UTF-8", "not UTF-8")
        except ValueError as error:
            skips.add(where, f"is no JSON: {error}", "lines that are no JSON")


def _shards(path: Path) -> list[Path]:
    if path.is_dir():
        found = sorted(p for p in path.rglob("*.tar") if not p.name.startswith("."))
        if not found:
            raise DataError(f"{path}: holds no .tar shard")
        return found
    if not path.is_file():
        raise DataError(f"{path}: no such file or folder")
    return [path]
