"""A folder with everything that can be wrong with images and captions, from the files to the end of a run."""

from __future__ import annotations

import json
import zlib

import numpy as np
import pytest
from PIL import Image

from gentle_core.engine.progress import Display
from gentle_core.engine.run import run_recipe
from gentle_core.errors import DataError
from gentle_core.recipe import load_recipe

from .test_decode import encoded, png

SIDE = 14143
"""A square of this side has 200 megapixels."""


def too_large() -> bytes:
    """A whole and sound PNG of 200 megapixels in black and white: a few kilobytes."""
    packer = zlib.compressobj(9)
    row = b"\0" * (1 + -(-SIDE // 8))
    pixels = b"".join(packer.compress(row) for _ in range(SIDE)) + packer.flush()
    return png(SIDE, SIDE, pixels, bits=1)


LONG = "dog " * 40
USABLE = {
    "cmyk.jpg": encoded(Image.new("CMYK", (20, 20), (10, 200, 30, 0)), "JPEG"),
    "sixteen.png": encoded(Image.fromarray(np.arange(400, dtype=np.uint16).reshape(20, 20) * 100)),
    "palette.png": encoded(Image.new("P", (20, 20), 1), transparency=1),
}
BAD = {
    "cut.jpg": (encoded(Image.effect_noise((64, 64), 50), "JPEG")[:700], "bad images", "cannot be decoded"),
    "pixel.png": (encoded(Image.new("RGB", (1, 1))), "bad images", "has 1 × 1 pixels"),
    "huge.png": (too_large(), "bad images", "has more pixels than the limit of 100000000"),
    "none.jpg": (None, "missing images", "there is no image 'none.jpg'"),
}


@pytest.fixture
def recipe(tmp_path, picture, model_folder, monkeypatch):
    """recipe(images, captions): twelve sound images with captions beside these, and small frozen encoders."""
    monkeypatch.setenv("GENTLE_CACHE", str(tmp_path / "cache"))
    clip = str(model_folder("clip"))

    def make(images, captions=None, **dataset):
        folder = tmp_path / "pictures"
        folder.mkdir()
        rows = [(f"{i}.png", f"a dog on street {i}") for i in range(12)]
        for i, (name, _) in enumerate(rows):
            picture(i).save(folder / name)
        for name, content in images.items():
            rows.append((name, (captions or {}).get(name, "a red car")))
            if content is not None:
                (folder / name).write_bytes(content)
        lines = [json.dumps({"image": name, "caption": text}).encode() for name, text in rows]
        (tmp_path / "captions.jsonl").write_bytes(b"\n".join(lines) + b'\n{"image": "1.png", "caption": "caf\xe9"}\n')
        encoders = {
            "image": {"use": "vision-language/hf-image", "path": clip, "freeze": True},
            "text": {"use": "vision-language/hf-text", "path": clip, "freeze": True},
        }
        table = {"use": "vision-language/image-captions", "path": str(folder), "paired": 0.5, "val_fraction": 0.2}
        return {
            "dataset": table | {"captions": str(tmp_path / "captions.jsonl"), "test_fraction": 0.0} | dataset,
            "towers": {name: {"modality": name, "encoder": encoder} for name, encoder in encoders.items()},
            "train": {"steps": 2, "batch_size": 3},
            "baseline": {"cca": False},
            "evaluate": {"splits": ["val"]},
        }

    return make


def test_everything_at_once_is_named_and_counted(recipe, tmp_path, capsys):
    images = USABLE | {name: content for name, (content, *_) in BAD.items()} | {"empty.png": USABLE["palette.png"]}
    table = recipe(images, {"empty.png": " ", "cmyk.jpg": LONG})
    run_recipe(load_recipe(table), tmp_path / "run", "never", Display(), report=False)
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["status"] == "finished"
    skipped = manifest["dataset"]["skipped"]
    assert skipped["kinds"] == {"bad images": 3, "missing images": 1, "empty captions": 1, "not UTF-8": 1}
    reasons = "\n".join(skipped["reasons"])
    for name, (_, _, why) in BAD.items():
        assert name in reasons and why in reasons
    assert sum(part["images"] for part in manifest["dataset"]["counts"].values()) == 12 + len(USABLE)
    cut = manifest["towers"]["text"]["cut"]
    assert sum(part["count"] for part in cut.values()) == 1
    assert [item for part in cut.values() for item in part["items"]] == ["cmyk.jpg#0"]
    said = capsys.readouterr().err
    assert "skipped 6" in said and said.count("longer than its encoder reads") == 1


def without_the_last_line(tmp_path):
    """Take the caption away that is not UTF-8."""
    captions = tmp_path / "captions.jsonl"
    captions.write_bytes(captions.read_bytes().rstrip().rpartition(b"\n")[0])


@pytest.mark.parametrize("name", BAD)
def test_a_strict_run_stops_at_each_of_them(recipe, tmp_path, name):
    table = recipe({name: BAD[name][0]}, strict=True)
    without_the_last_line(tmp_path)
    with pytest.raises(DataError, match=BAD[name][2]):
        run_recipe(load_recipe(table), tmp_path / "run", "never", Display(quiet=True), report=False)


def test_a_strict_run_stops_at_lost_letters_and_at_texts_that_would_be_cut(recipe, tmp_path):
    table = recipe({"cmyk.jpg": USABLE["cmyk.jpg"]}, {"cmyk.jpg": LONG}, strict=True)
    with pytest.raises(DataError, match=r"captions.jsonl:14: is not UTF-8 \(byte 0xe9\)"):
        run_recipe(load_recipe(table), tmp_path / "one", "never", Display(quiet=True), report=False)
    without_the_last_line(tmp_path)
    with pytest.raises(DataError, match=r"'text': items longer than its encoder reads \(\w+ 1; the first: cmyk.jpg#0"):
        run_recipe(load_recipe(table), tmp_path / "two", "never", Display(quiet=True), report=False)
