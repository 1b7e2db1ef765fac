"""What the plugin's tests share: small scenes on disk, and where real data are if there are any."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

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
def make_image() -> Callable[..., Path]:
    """make_image(path, seed): a small noisy picture, whatever the ending says."""

    def make(path: Path, seed: int = 0, size: tuple[int, int] = (24, 16)) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(seed)
        Image.fromarray(rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)).save(path)
        return path

    return make


@pytest.fixture
def make_karpathy(make_image: Callable[..., Path]) -> Callable[..., Path]:
    """make_karpathy(folder, json name, {image: (split, captions)}): the JSON, and the images beside it in imgs/."""

    def make(
        folder: Path, name: str, images: Mapping[str, tuple[str, Iterable[Any]]], absent: Iterable[str] = ()
    ) -> Path:
        records = []
        for number, (filename, (split, captions)) in enumerate(images.items()):
            sentences = [c if isinstance(c, dict) else {"raw": c, "tokens": str(c).split()} for c in captions]
            records.append({"filename": filename, "imgid": number, "split": split, "sentences": sentences})
            if filename not in absent:
                make_image(folder / "imgs" / filename, number)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps({"dataset": "x", "images": records}))
        return folder

    return make


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
