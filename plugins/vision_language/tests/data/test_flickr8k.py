"""Flickr8k's layouts, and what may be wrong with a copy of it."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from gentle_core.api import DataError
from gentle_vision_language.datasets.config import Flickr8kConfig
from gentle_vision_language.datasets.flickr8k import build


def test_token_file_and_lists(flickr_folder, context, notices):
    data = build(Flickr8kConfig(path=flickr_folder), context)
    train, val, test = (data.index(split) for split in ("train", "val", "test"))
    assert [len(part["image"]) for part in (train, val, test)] == [6, 2, 1]
    assert len(train["text"]) == 30
    assert train["text"].items[:2] == ("0000_abc.jpg#0", "0000_abc.jpg#1")
    assert train["text"].samples[4:6] == ("0000_abc.jpg", "0001_abc.jpg")
    assert set(train["text"].samples) == set(train["image"].items)
    [image] = data.load("image", ["0003_abc.jpg"])
    assert image.content()[:2] == b"\xff\xd8"
    [caption] = data.load("text", ["0003_abc.jpg#2"])
    assert caption == "caption 2, of image 3 ."
    assert len(caption.others) == 4 and caption not in caption.others
    assert data.facts()["counts"]["train"] == {"images": 6, "captions": 30}
    assert json.dumps(data.facts())
    assert notices == []


def test_kaggle_csv(flickr_folder, context):
    (flickr_folder / "Flickr8k.token.txt").unlink()
    rows = ["image,caption"]
    rows += [f'{i:04d}_abc.jpg,"caption {k}, of image {i} ."' for i in range(9) for k in range(5)]
    rows += ["0000_abc.jpg,one, two , three"]  # not quoted, as some copies have it
    (flickr_folder / "captions.txt").write_text("\n".join(rows))
    data = build(Flickr8kConfig(path=flickr_folder), context)
    assert data.load("text", ["0001_abc.jpg#3", "0000_abc.jpg#5"]) == ["caption 3, of image 1 .", "one, two , three"]


def test_without_lists_images_are_dealt(flickr_folder, context):
    for path in flickr_folder.glob("*Images.txt"):
        path.unlink()
    data = build(Flickr8kConfig(path=flickr_folder, val_fraction=0.3, test_fraction=0.2), context)
    sizes = [len(data.index(split)["image"]) for split in ("train", "val", "test")]
    assert sum(sizes) == 9 and all(sizes)
    again = build(Flickr8kConfig(path=flickr_folder, val_fraction=0.3, test_fraction=0.2), context)
    assert again.index("val")["image"].items == data.index("val")["image"].items


def damage(folder):
    images = folder / "Flicker8k_Dataset"
    whole = (images / "0001_abc.jpg").read_bytes()
    (images / "0001_abc.jpg").write_bytes(whole[: len(whole) // 2])
    (images / "0002_abc.jpg").unlink()
    Image.new("RGB", (1, 1)).save(images / "0003_abc.jpg")
    text = (folder / "Flickr8k.token.txt").read_bytes()
    text = text.replace(b"caption 0, of image 4 .", b"caf\xe9")  # Latin-1
    text = text.replace(b"caption 1, of image 4 .", b"  ")
    (folder / "Flickr8k.token.txt").write_bytes(text + b"no tab here\n")


def test_bad_input_is_skipped_by_name_and_counted(flickr_folder, context, notices):
    damage(flickr_folder)
    data = build(Flickr8kConfig(path=flickr_folder), context)
    assert len(data.index("train")["image"]) == 3
    assert [i for i in data.index("train")["text"].items if i.startswith("0004")] == [
        f"0004_abc.jpg#{k}" for k in range(3)
    ]
    skipped = data.facts()["skipped"]
    assert skipped["count"] == 6
    assert skipped["kinds"] == {
        "bad images": 2, "missing images": 1, "empty captions": 1, "not UTF-8": 1, "lines without a caption": 1,
    }  # fmt: skip
    reasons = "\n".join(skipped["reasons"])
    for part in ("0001_abc.jpg: cannot be decoded", "0002_abc.jpg: there is no such image",
                 "0003_abc.jpg: has 1 × 1 pixels", ":21: is not UTF-8 (byte 0xe9)", "the caption is empty",
                 ":46: is not 'image#number<TAB>caption'"):  # fmt: skip
        assert part in reasons, reasons
    [notice] = notices
    assert notice.startswith("skipped 6 (2 bad images, ") and "manifest" in notice


def test_strict_stops_at_the_first(flickr_folder, context):
    damage(flickr_folder)
    with pytest.raises(DataError, match=r"Flickr8k.token.txt:21: is not UTF-8.*strict = false"):
        build(Flickr8kConfig(path=flickr_folder, strict=True), context)


def test_what_was_checked_is_remembered(flickr_folder, context, monkeypatch):
    build(Flickr8kConfig(path=flickr_folder), context)
    looked = []
    monkeypatch.setattr("gentle_vision_language.decode.problem", lambda item, **_: looked.append(item) or "")
    build(Flickr8kConfig(path=flickr_folder), context)
    assert looked == []
    (flickr_folder / "Flicker8k_Dataset" / "0001_abc.jpg").write_bytes(b"changed")
    build(Flickr8kConfig(path=flickr_folder), context)
    assert [str(item)[-12:] for item in looked] == ["0001_abc.jpg"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda f: (f / "Flickr8k.token.txt").unlink(), "holds none of Flickr8k.token.txt"),
        (lambda f: (f / "Flickr8k.token.txt").write_text(""), "holds no caption"),
        (lambda f: (f / "Flickr8k.token.txt").write_text("hello\nworld"), "neither a token file"),
        (lambda f: (f / "Flickr8k.token.txt").write_bytes(b"\xff\xfea\0"), "is UTF-16"),
        (lambda f: [p.unlink() for p in f.rglob("*.jpg")], "holds no image"),
        (lambda f: (f / "Flickr_8k.devImages.txt").write_text("0000_abc.jpg"), "in the list of"),
    ],
)
def test_one_clear_error(flickr_folder, context, change, says):
    change(flickr_folder)
    with pytest.raises(DataError, match=says):
        build(Flickr8kConfig(path=flickr_folder), context)


def test_no_folder(tmp_path, context):
    with pytest.raises(DataError, match="no such folder"):
        build(Flickr8kConfig(path=tmp_path / "none"), context)


def test_the_real_one(real_data, context, notices):
    data = build(Flickr8kConfig(path=real_data("flickr8k.tar")), context)
    train, val = data.index("train"), data.index("val")
    assert (len(train["image"]), len(val["image"])) == (6000, 1000)
    assert (len(train["text"]), len(val["text"])) == (30000, 5000)
    assert notices == []
