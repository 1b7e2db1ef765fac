"""Data for the studies beside this file: splits of their own, and links to images and captions.

    python tests/benchmarks/studies/prepare.py --rsicd FOLDER --flickr8k FOLDER
    gentle study tests/benchmarks/studies/flickr8k.toml
    gentle study tests/benchmarks/studies/rsicd.toml

Everything is chosen on "val", a tenth of the training images, dealt by a hash of their names. Figures come from "test",
which is the validation (development) split as it is distributed: the data sets' own test splits are left alone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

DATA = Path(__file__).parent / "data"
VAL_SHARE = 0.1


def held_out(name: str) -> bool:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64 < VAL_SHARE


def folder_of(name: str, images: Path) -> Path:
    """data/<name>, with a link "images" to where the images are."""
    folder = DATA / name
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / "images"
    link.unlink(missing_ok=True)
    link.symlink_to(images.resolve(), target_is_directory=True)
    return folder


def prepare_rsicd(source: Path) -> None:
    content = json.loads((source / "dataset_rsicd.json").read_text())
    for image in content["images"]:
        if image["split"] == "train":
            image["split"] = "val" if held_out(image["filename"]) else "train"
        else:
            image["split"] = {"val": "test"}.get(image["split"], "")
    content["images"] = [image for image in content["images"] if image["split"]]
    (folder_of("rsicd", source) / "dataset_rsicd.json").write_text(json.dumps(content))


def prepare_flickr8k(source: Path) -> None:
    folder = folder_of("flickr8k", source)
    names = (source / "Flickr_8k.trainImages.txt").read_text().split()
    lists = {"train": [n for n in names if not held_out(n)], "dev": [n for n in names if held_out(n)]}
    lists["test"] = (source / "Flickr_8k.devImages.txt").read_text().split()
    for split, rows in lists.items():
        (folder / f"Flickr_8k.{split}Images.txt").write_text("\n".join(rows) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rsicd", type=Path)
    parser.add_argument("--flickr8k", type=Path)
    given = parser.parse_args()
    if given.rsicd:
        prepare_rsicd(given.rsicd)
    if given.flickr8k:
        prepare_flickr8k(given.flickr8k)


if __name__ == "__main__":
    main()
