"""Small folders in the layouts that the datasets read, and small models on disk, for the conformance kit."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np

from gentle_vision_language.items import Caption

COUNT = 20
"""Pictures; enough of them that no split is empty."""


def flickr8k(folder: Path) -> dict[str, Any]:
    """A token file and pictures."""
    names = _pictures(folder)
    lines = [f"{name}#{k}\t{text}" for name in names for k, text in enumerate(_texts(name))]
    (folder / "Flickr8k.token.txt").write_text("\n".join(lines) + "\n")
    return {"path": str(folder), "val_fraction": 0.3, "test_fraction": 0.3}


def coco(folder: Path) -> dict[str, Any]:
    """One caption file and pictures."""
    names = _pictures(folder)
    content = {
        "images": [{"id": i, "file_name": name} for i, name in enumerate(names)],
        "annotations": [{"image_id": i, "caption": t} for i, name in enumerate(names) for t in _texts(name)],
    }
    (folder / "captions.json").write_text(json.dumps(content))
    return {"path": str(folder), "val_fraction": 0.3, "test_fraction": 0.3}


def image_captions(folder: Path) -> dict[str, Any]:
    """JSON lines and pictures."""
    rows = [{"image": name, "captions": _texts(name)} for name in _pictures(folder)]
    (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    fractions = {"val_fraction": 0.3, "test_fraction": 0.3}
    return {"path": str(folder), "captions": str(folder / "captions.jsonl"), **fractions}


def webdataset(folder: Path) -> dict[str, Any]:
    """A shard of pictures and texts."""
    inside = folder / "inside"
    inside.mkdir()
    names = _pictures(inside)
    for name in names:
        (inside / name).with_suffix(".txt").write_text("\n".join(_texts(name)))
    with tarfile.open(folder / "shard.tar", "w") as archive:
        for path in sorted(inside.iterdir()):
            archive.add(path, path.name)
    return {"path": str(folder / "shard.tar"), "val_fraction": 0.3, "test_fraction": 0.3}


def captions(folder: Path) -> dict[str, Any]:
    """A text a line."""
    (folder / "texts.txt").write_text("a dog runs\na cat sleeps\nthe red car on the street\n")
    return {"path": str(folder)}


def images(folder: Path) -> dict[str, Any]:
    """Pictures alone."""
    _pictures(folder)
    return {"path": str(folder)}


def image_model(folder: Path) -> dict[str, Any]:
    """A ViT of a few thousand weights, at random."""
    shape = {"model_type": "vit", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
             "intermediate_size": 32, "image_size": 32, "patch_size": 8}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(shape))
    size = {"do_resize": True, "size": {"height": 32, "width": 32}, "image_processor_type": "ViTImageProcessor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(size))
    return {"path": str(folder), "weights": "random"}


def text_model(folder: Path) -> dict[str, Any]:
    """A BERT of a few thousand weights, at random, with a vocabulary of a few words."""
    known = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [*known, "a", "dog", "cat", "runs", "sleeps", "red", "car", "on", "the", "street"]
    shape = {"model_type": "bert", "vocab_size": len(words), "hidden_size": 16, "num_hidden_layers": 2,
             "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 32}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(shape))
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", "model_max_length": 32})
    )
    return {"path": str(folder), "weights": "random"}


def some_images() -> list[Any]:
    """Raw items of `image`: arrays of different sizes."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((32, 48), (40, 24), (64, 64), (24, 90))]


def some_texts() -> list[Any]:
    """Raw items of `text`."""
    return ["a dog", Caption("a cat sleeps on the red car", ["the cat sleeps"]), "the street", "a red dog runs"]


def _texts(name: str) -> list[str]:
    return [f"a picture called {name}", f"{name} again"]


def _pictures(folder: Path) -> list[str]:
    from PIL import Image

    rng = np.random.default_rng(0)
    names = [f"{i:02d}.png" for i in range(COUNT)]
    for name in names:
        coarse = Image.fromarray(rng.integers(0, 256, (3, 4, 3), dtype=np.uint8))
        coarse.resize((40, 30), Image.Resampling.BICUBIC).save(folder / name)
    return names
