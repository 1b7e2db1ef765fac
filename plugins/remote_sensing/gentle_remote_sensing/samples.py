"""Small made-up scenes and folders of them, on which the components are tried without any data set."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

KINDS: Mapping[str, tuple[int, int, int]] = {"beach": (230, 210, 150), "forest": (20, 90, 30), "river": (40, 80, 200)}
"""Class and colour."""


def _picture(kind: str, seed: int, width: int = 24, height: int = 24) -> np.ndarray:
    rng = np.random.default_rng(seed)
    pixels: np.ndarray = np.clip(rng.normal(KINDS[kind], 15, (height, width, 3)), 0, 255).astype(np.uint8)
    return pixels


def scenes() -> list[Any]:
    """Raw items of modality `aerial-image`, of different sizes."""
    return [_picture(kind, i, 24 + 8 * i, 24) for i, kind in enumerate((*KINDS, *KINDS))]


def bands() -> list[Any]:
    """Raw items of modality `multispectral-image`: 16 bits, thirteen bands."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 10000, (13, 32 + 4 * i, 32)).astype(np.uint16) for i in range(6)]


def captions(folder: Path) -> dict[str, Any]:
    """Options for a data set of eighteen scenes with two captions each, in Karpathy's layout."""
    _write(folder, "dataset.json")
    return {"path": str(folder)}


def union(folder: Path) -> dict[str, Any]:
    """Options for two of the three data sets, side by side."""
    _write(folder / "RSICD", "dataset_rsicd.json")
    _write(folder / "UCM_captions", "dataset.json")
    return {"path": str(folder)}


def classes(folder: Path) -> dict[str, Any]:
    """Options for a folder of classes."""
    for kind in KINDS:
        for i in range(6):
            _save(folder / kind.capitalize() / f"{kind}_{i}.png", _picture(kind, i))
    return {"path": str(folder)}


def small_encoder(folder: Path) -> dict[str, Any]:
    """Options for a small untrained ResNet that reads thirteen bands."""
    shape = {
        "model_type": "resnet",
        "embedding_size": 8,
        "hidden_sizes": [8, 16],
        "depths": [1, 1],
        "layer_type": "basic",
    }
    (folder / "config.json").write_text(json.dumps(shape))
    return {
        "bands": 13, "rgb": [3, 2, 1], "backbone": "hf-image", "path": str(folder), "weights": "random",
        "resolution": 32,
    }  # fmt: skip


def _write(folder: Path, name: str) -> None:
    records = []
    for kind in KINDS:
        for i, split in enumerate(("train", "train", "train", "train", "val", "test")):
            _save(folder / "imgs" / f"{kind}_{i}.png", _picture(kind, i))
            sentences = [{"raw": f"{'a' if n == 0 else 'another'} picture of a {kind} ."} for n in range(2)]
            records.append({"filename": f"{kind}_{i}.png", "split": split, "sentences": sentences})
    (folder / name).write_text(json.dumps({"images": records}))


def _save(path: Path, pixels: np.ndarray) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
