"""Folders of scenes: `remote-sensing/scene-folder`, a folder a class, as UCM, WHU-RS19, RSSCN7, AID and RESISC45 come;
and `remote-sensing/scenes`, of which nothing is known."""

from __future__ import annotations

import os
from pathlib import Path

from gentle_core.api import BuildContext, DataError, split_name
from gentle_remote_sensing.datasets.config import SceneFolderConfig, ScenesConfig
from gentle_remote_sensing.datasets.names import class_names
from gentle_remote_sensing.datasets.scenes import SPLITS, checked, image_file, served_as
from gentle_vision_language.datasets.captions import CaptionDataset, Entry
from gentle_vision_language.datasets.files import SUFFIX, image_files, image_paths
from gentle_vision_language.datasets.skips import Skips


def build(config: SceneFolderConfig, context: BuildContext) -> CaptionDataset:
    """Raises DataError where the folder has no class folders with usable images."""
    roots = split_roots(config.path)
    skips = Skips(config.strict)
    entries: list[tuple[str, Entry]] = []
    for split, root in roots.items():
        for folder in class_folders(root):
            for name, place in image_files(folder).items():
                item = f"{folder.name}/{name}" if len(roots) == 1 else f"{split}/{folder.name}/{name}"
                entries.append((split, Entry(item, image_file(config, place), (), folder.name, str(folder))))
    whole = checked([entry for _, entry in entries], skips, config, context)
    splits = {s: [e for split, e in entries if split == s and e.id in whole] for s in SPLITS}
    classes = sorted({entry.label for found in splits.values() for entry in found})
    if len(classes) < 2:
        what = f"only images of class {classes[0]}" if classes else "no usable image"
        raise DataError("; ".join(filter(None, (f"{config.path}: {what} in class folders", skips.notice()))))
    unknown = sorted(set(config.names) - set(classes))
    if unknown:
        raise DataError(f"names: there is no class folder {', '.join(unknown)}; there are {', '.join(classes)}")
    if notice := skips.notice():
        context.notify(notice)
    facts = {
        "source": str(config.path), "skipped": skips.facts(), "classes": classes,
        "class_names": class_names(classes, config.names), "templates": list(config.templates),
    }  # fmt: skip
    return CaptionDataset(splits, facts, image_modality=served_as(config))


def build_scenes(config: ScenesConfig, context: BuildContext) -> CaptionDataset:
    """Images without captions. Raises DataError where there are none, and under `strict` for what would be skipped."""
    skips = Skips(config.strict)
    entries = [
        Entry(os.path.relpath(place, config.path), image_file(config, place), (), source=place)
        for place in image_paths(config.path)
    ]
    whole = checked(entries, skips, config, context)
    if not whole:
        raise DataError("; ".join(filter(None, (f"{config.path}: no usable image", skips.notice()))))
    if notice := skips.notice():
        context.notify(notice)
    facts = {"source": str(config.path), "skipped": skips.facts()}
    return CaptionDataset({"train": [e for e in entries if e.id in whole]}, facts, image_modality=served_as(config))


def split_roots(path: Path) -> dict[str, Path]:
    """The folder that holds the class folders, by split: {"test": path} where there are no split folders."""
    root = _past_wrappers(path)
    named = {split_name(folder.name): folder for folder in _folders(root)}
    found = {split: folder for split, folder in named.items() if split}
    if found and len(found) == len(_folders(root)):
        return {split: _past_wrappers(folder) for split, folder in found.items()}
    return {"test": root}


def class_folders(root: Path) -> list[Path]:
    """Subfolders that hold images, in alphabetical order."""
    found = [folder for folder in _folders(root) if _holds_images(folder)]
    if not found:
        raise DataError(f"{root}: holds no class folders with images (one subfolder a class)")
    return found


def _past_wrappers(path: Path) -> Path:
    """Past folders that hold nothing but one other folder (`UCMerced_LandUse/Images/…`)."""
    if not path.is_dir():
        raise DataError(f"{path}: no such folder")
    while len(inside := _folders(path)) == 1 and not _images(path) and _folders(inside[0]):
        path = inside[0]
    return path


def _folders(path: Path) -> list[Path]:
    return sorted(child for child in path.iterdir() if child.is_dir() and not child.name.startswith((".", "__")))


def _images(path: Path) -> bool:
    return any(SUFFIX.search(child.name) and child.is_file() for child in path.iterdir())


def _holds_images(path: Path) -> bool:
    return _images(path) or any(_holds_images(child) for child in _folders(path))
