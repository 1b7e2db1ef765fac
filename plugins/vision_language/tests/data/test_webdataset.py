"""Tar shards, read in place."""

from __future__ import annotations

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from gentle_core.api import DataError
from gentle_vision_language.datasets.config import WebDatasetConfig
from gentle_vision_language.datasets.webdataset import build
from gentle_vision_language.decode import open_image


def shard(path, members):
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def png(image):
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def shards(tmp_path, picture):
    for split, count in (("train", 3), ("val", 2)):
        members = {}
        for i in range(count):
            members[f"{i:05d}.png"] = png(picture(i + 10 * count))
            members[f"{i:05d}.txt"] = f"{split} picture {i}\nsecond caption".encode()
        shard(tmp_path / f"mine-{split}-0000.tar", members)
    return tmp_path


def test_samples_are_read_in_place(shards, context, picture, notices):
    data = build(WebDatasetConfig(path=shards), context)
    assert {s: len(data.index(s).get("image", ())) for s in ("train", "val", "test")} == {
        "train": 3,
        "val": 2,
        "test": 0,
    }
    assert data.index("train")["text"].items[:2] == ("mine-train-0000/00000#0", "mine-train-0000/00000#1")
    [item] = data.load("image", ["mine-train-0000/00002"])
    assert np.array_equal(np.asarray(open_image(item)), np.asarray(picture(32)))
    assert notices == []


def test_odd_members(tmp_path, context, picture, notices):
    members = {
        "a.png": png(picture(0)), "a.json": json.dumps({"caption": "from json", "url": "x"}).encode(), "a.cls": b"dog",
        "b.png": png(picture(1)), "c.txt": b"a text alone", "d.png": png(Image.new("RGB", (1, 1))), "d.txt": b"tiny",
        "e.png": png(picture(2)), "e.txt": b"\xff\xfe", "f.png": b"broken", "f.txt": b"x", "e.json": b"{",
        "._a.png": b"", "sub/a.png": png(picture(3)), "sub/a.txt": b"below",
    }  # fmt: skip
    data = build(WebDatasetConfig(path=shard(tmp_path / "s.tar", members), val_fraction=0, test_fraction=0), context)
    train = data.index("train")
    assert set(train["image"].items) == {"s/a", "s/b", "s/e", "s/sub/a"}
    assert set(train["text"].samples) == {"s/a", "s/c", "s/sub/a"}
    assert train["image"].attributes["label"][train["image"].items.index("s/a")] == "dog"
    skipped = data.facts()["skipped"]
    assert skipped["kinds"] == {"bad images": 2, "not UTF-8": 1, "lines that are no JSON": 1}
    assert any(reason.startswith("s.tar/f.png: is no image") for reason in skipped["reasons"])


def test_one_clear_error(tmp_path, context, shards):
    with pytest.raises(DataError, match="no such file or folder"):
        build(WebDatasetConfig(path=tmp_path / "none.tar"), context)
    (tmp_path / "bad.tar").write_bytes(b"x" * 2000)
    with pytest.raises(DataError, match="bad.tar: cannot be read as a tar file"):
        build(WebDatasetConfig(path=tmp_path), context)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no .tar shard"):
        build(WebDatasetConfig(path=tmp_path / "empty"), context)
