"""What the plugin's tests share: small scenes on disk, and where real data are if there are any."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gentle_core.testing.fixtures import context, notices, real_data

__all__ = ["context", "notices", "real_data"]


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
