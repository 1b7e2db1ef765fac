"""What the plugin's tests share: made-up pictures, folders of them, and where real data are if there are any."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gentle_core.api import BuildContext


@pytest.fixture
def notices() -> list[str]:
    return []


@pytest.fixture
def context(tmp_path: Path, notices: list[str]) -> BuildContext:
    return BuildContext(cache_dir=tmp_path / "cache", notify=notices.append)


@pytest.fixture
def picture() -> Callable[..., Image.Image]:
    """picture(seed, width, height): a smooth random picture, which a JPEG keeps well."""

    def make(seed: int = 0, width: int = 48, height: int = 36) -> Image.Image:
        coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
        return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)

    return make


@pytest.fixture
def flickr_folder(tmp_path: Path, picture) -> Path:
    """Nine images with five captions each in Flickr8k's layout, with its split lists (6 / 2 / 1)."""
    folder = tmp_path / "Flickr8k"
    (folder / "Flicker8k_Dataset").mkdir(parents=True)
    names = [f"{i:04d}_abc.jpg" for i in range(9)]
    for i, name in enumerate(names):
        picture(i).save(folder / "Flicker8k_Dataset" / name, quality=90)
    lines = [f"{name}#{k}\tcaption {k}, of image {i} ." for i, name in enumerate(names) for k in range(5)]
    (folder / "Flickr8k.token.txt").write_text("\n".join(lines) + "\n")
    for split, part in (("train", names[:6]), ("dev", names[6:8]), ("test", names[8:])):
        (folder / f"Flickr_8k.{split}Images.txt").write_text("\n".join(part) + "\n")
    return folder


@pytest.fixture
def real_data(tmp_path: Path) -> Callable[[str], Path]:
    """real_data(tar): the folder where this file of the folder `GENTLE_DATA` is unpacked. Skips the test without it."""

    def unpack(name: str) -> Path:
        folder = os.environ.get("GENTLE_DATA")
        if not folder:
            pytest.skip("GENTLE_DATA names no folder with real data")
        path = Path(folder) / name
        if not path.is_file():
            pytest.skip(f"{path} is not there")
        with tarfile.open(path) as archive:
            archive.extractall(tmp_path / "real", filter="data")
        return tmp_path / "real"

    return unpack
