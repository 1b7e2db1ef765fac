"""COCO's caption files, in the layout of the download and as a single file."""

from __future__ import annotations

import json

import pytest

from gentle_core.api import DataError
from gentle_vision_language.datasets.coco import build
from gentle_vision_language.datasets.config import CocoConfig


def coco(names, start=0):
    images = [{"id": start + i, "file_name": name} for i, name in enumerate(names)]
    rows = [
        {"id": 10 * (start + i) + k, "image_id": start + i, "caption": f"caption {k} of {name}\n"}
        for i, name in enumerate(names) for k in range(5)
    ]  # fmt: skip
    return {"images": images, "annotations": rows}


@pytest.fixture
def folder(tmp_path, picture):
    for split, count in (("train2017", 3), ("val2017", 2)):
        (tmp_path / "COCO" / split).mkdir(parents=True)
        for i in range(count):
            picture(i).save(tmp_path / "COCO" / split / f"{split}_{i}.jpg")
    (tmp_path / "COCO" / "annotations").mkdir()
    for split, count, start in (("train2017", 3, 0), ("val2017", 2, 100)):
        names = [f"{split}_{i}.jpg" for i in range(count)]
        (tmp_path / "COCO" / "annotations" / f"captions_{split}.json").write_text(json.dumps(coco(names, start)))
    return tmp_path / "COCO"


def test_downloaded_layout(folder, context, notices):
    data = build(CocoConfig(path=folder), context)
    assert {s: len(data.index(s).get("image", ())) for s in ("train", "val", "test")} == {
        "train": 3,
        "val": 2,
        "test": 0,
    }
    assert len(data.index("train")["text"]) == 15
    assert data.load("text", ["val2017_1.jpg#4"]) == ["caption 4 of val2017_1.jpg"]
    assert notices == []


def test_single_file_is_dealt(folder, context):
    names = [f"train2017_{i}.jpg" for i in range(3)]
    (folder / "captions.json").write_text(json.dumps(coco(names)))
    data = build(CocoConfig(path=folder, captions=folder / "captions.json"), context)
    assert [len(data.index(s)["image"]) for s in ("train", "val", "test")] == [1, 1, 1]
    with pytest.raises(DataError, match="says neither train nor val"):
        build(CocoConfig(path=folder), context)


def test_missing_images_and_strays(folder, context, notices):
    path = folder / "annotations" / "captions_train2017.json"
    found = json.loads(path.read_text())
    found["images"].append({"id": 77, "file_name": "gone.jpg"})
    found["annotations"] += [{"image_id": 77, "caption": "x"}, {"image_id": 999, "caption": "stray"}]
    path.write_text(json.dumps(found))
    data = build(CocoConfig(path=folder), context)
    assert data.facts()["skipped"]["kinds"] == {"missing images": 2}
    with pytest.raises(DataError, match="image 999"):
        build(CocoConfig(path=folder, strict=True), context)


@pytest.mark.parametrize(
    ("content", "says"),
    [("{", "is no JSON"), ("{}", "no COCO caption file"), ('{"images": [{"id": 1}], "annotations": []}', "file_name")],
)
def test_one_clear_error(content, says, folder, context):
    (folder / "annotations" / "captions_val2017.json").write_text(content)
    with pytest.raises(DataError, match=says):
        build(CocoConfig(path=folder), context)


def test_the_real_one(real_data, context, notices):
    folder = real_data("coco_mini.tar") / "COCO"
    data = build(CocoConfig(path=folder), context)
    assert sum(len(data.index(s)["image"]) for s in ("train", "val", "test")) == 258
    assert notices == []
