"""A folder and a caption file in every format, texts alone, images alone, and what may be wrong with them."""

from __future__ import annotations

import json

import pytest

from gentle_core.api import DataError
from gentle_vision_language.datasets.config import CaptionsConfig, ImageCaptionsConfig, ImagesConfig
from gentle_vision_language.datasets.image_captions import build, build_captions, build_images

ROWS = [
    ("a.jpg", "a red car", "train"), ("a.jpg", 'a car, "fast"', "train"), ("sub/b.png", "a dog", "val"),
    ("c.jpg", "the sea", "test"), ("d.jpg", "a hill", "train"),
]  # fmt: skip


@pytest.fixture
def folder(tmp_path, picture):
    place = tmp_path / "pictures"
    (place / "sub").mkdir(parents=True)
    for i, name in enumerate(["a.jpg", "sub/b.png", "c.jpg", "d.jpg", "alone.jpg"]):
        picture(i).save(place / name)
    return place


def write(path, rows=ROWS):
    """The rows in the format that the file's ending says."""
    grouped: dict[str, dict] = {}
    for image, caption, split in rows:
        grouped.setdefault(image, {"filename": image, "split": split, "captions": []})["captions"].append(caption)
    if path.suffix in (".csv", ".tsv"):
        import csv

        with path.open("w", newline="") as out:
            writer = csv.writer(out, delimiter="," if path.suffix == ".csv" else "\t")
            writer.writerows([("image", "caption", "split"), *rows])
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in grouped.values()))
    elif path.suffix == ".json":
        images = [
            {"filename": r["filename"], "split": r["split"], "sentences": [{"raw": c} for c in r["captions"]]}
            for r in grouped.values()
        ]
        path.write_text(json.dumps({"dataset": "mine", "images": images}))
    else:
        pyarrow = pytest.importorskip("pyarrow")
        import pyarrow.parquet as parquet

        parquet.write_table(pyarrow.Table.from_pylist(list(grouped.values())), path)
    return path


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "json", "parquet"])
def test_every_format_says_the_same(ending, folder, tmp_path, context, notices):
    data = build(ImageCaptionsConfig(path=folder, captions=write(tmp_path / f"c.{ending}")), context)
    train = data.index("train")
    assert train["image"].items == ("a.jpg", "d.jpg")
    assert train["text"].items == ("a.jpg#0", "a.jpg#1", "d.jpg#0")
    assert data.load("text", ["a.jpg#1"]) == ['a car, "fast"']
    assert data.index("val")["image"].items == ("sub/b.png",) and data.index("test")["text"].samples == ("c.jpg",)
    assert data.facts()["counts_of_rest"]["images_without_captions"] == 1
    assert notices == []


def test_lone_images_and_lone_captions(folder, tmp_path, context):
    path = write(tmp_path / "c.csv", [*ROWS, ("", "nobody drew this", "")])
    data = build(ImageCaptionsConfig(path=folder, captions=path, lone_images=True), context)
    train = data.index("train")
    assert "alone.jpg" in train["image"].items and "alone.jpg" not in train["text"].samples
    [alone] = [item for item, sample in zip(train["text"].items, train["text"].samples, strict=True) if ":7" in sample]
    assert data.load("text", [alone]) == ["nobody drew this"]


def test_other_column_names_and_split_lists(folder, tmp_path, context):
    (tmp_path / "c.csv").write_text("bild,satz\na.jpg,ein Auto\nd.jpg,ein Berg\nb.png,ein Hund\n")
    with pytest.raises(DataError, match=r"no column that looks like captions; it has bild, satz: .* caption_key"):
        build(ImageCaptionsConfig(path=folder, captions=tmp_path / "c.csv"), context)
    (tmp_path / "s.json").write_text(json.dumps({"train": ["a.jpg", "d.jpg"], "val": ["sub/b.png"]}))
    config = ImageCaptionsConfig(
        path=folder, captions=tmp_path / "c.csv", image_key="bild", caption_key="satz", splits=tmp_path / "s.json"
    )
    data = build(config, context)
    assert data.index("val")["image"].items == ("sub/b.png",)


def test_without_splits_the_hash_decides(folder, tmp_path, context):
    (tmp_path / "c.jsonl").write_text("\n".join(
        json.dumps({"image": name, "caption": "x"}) for name in ("a.jpg", "sub/b.png", "c.jpg", "d.jpg")
    ))  # fmt: skip
    data = build(ImageCaptionsConfig(path=folder, captions=tmp_path / "c.jsonl"), context)
    assert [len(data.index(split)["image"]) for split in ("train", "val", "test")] == [2, 1, 1]


def test_bad_rows_are_skipped_by_name(folder, tmp_path, context, notices):
    lines = [
        json.dumps({"image": "a.jpg", "caption": "fine"}), "{not json", "[1]",
        json.dumps({"image": "none.jpg", "caption": "gone"}), json.dumps({"image": "c.jpg", "caption": " "}),
        json.dumps({"image": "c.jpg", "caption": 7}), json.dumps({"image": "d.jpg", "caption": "lost \ufffd"}),
    ]  # fmt: skip
    raw = "\n".join(lines).encode() + b'\n{"image": "a.jpg", "caption": "\xff"}\n'
    (tmp_path / "c.jsonl").write_bytes(raw)
    config = ImageCaptionsConfig(path=folder, captions=tmp_path / "c.jsonl", val_fraction=0, test_fraction=0)
    data = build(config, context)
    assert data.index("train")["text"].items == ("a.jpg#0",)
    skipped = data.facts()["skipped"]
    assert skipped["kinds"] == {
        "lines that are no JSON": 2, "missing images": 1, "empty captions": 1, "captions that are no text": 1,
        "not UTF-8": 2,
    }  # fmt: skip
    assert any("c.jsonl:4: there is no image 'none.jpg'" in reason for reason in skipped["reasons"])
    with pytest.raises(DataError, match="strict = false"):
        build(ImageCaptionsConfig(path=folder, captions=tmp_path / "c.jsonl", strict=True), context)


def test_names_that_mean_several_files(folder, tmp_path, context, picture):
    picture().save(folder / "sub" / "a.jpg")
    picture().save(folder / "c2.jpg")
    (tmp_path / "c.csv").write_text("image,caption\nx/a.jpg,which one\n")
    with pytest.raises(DataError, match="means several files"):
        build(ImageCaptionsConfig(path=folder, captions=tmp_path / "c.csv"), context)
    rows = f"image,caption\n{folder}/sub/a.jpg,in full\na.jpg,the upper one\n"
    (tmp_path / "c.csv").write_text(rows)
    data = build(
        ImageCaptionsConfig(path=folder, captions=tmp_path / "c.csv", val_fraction=0, test_fraction=0), context
    )
    assert set(data.index("train")["image"].items) == {"sub/a.jpg", "a.jpg"}


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("c.csv", "", "is empty"),
        ("c.json", "[", "is no JSON"),
        ("c.json", "[1]", "expected a list of objects"),
        ("c.parquet", "no parquet", "no readable Parquet file"),
        ("c.xml", "<a/>", "a table of captions ends in"),
        (
            "c.csv",
            "image,caption\nnone.jpg,x\n",
            "names no image that is there; skipped .*no image 'none.jpg'",
        ),
        ("c.csv", "image,caption,split\na.jpg,x,somewhere\n", "'somewhere' is no split"),
        ("c.csv", "image,caption,split\na.jpg,x,train\na.jpg,y,val\n", "is in train and in val"),
    ],
)
def test_one_clear_error(name, content, says, folder, tmp_path, context):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=says):
        build(ImageCaptionsConfig(path=folder, captions=tmp_path / name), context)


def test_texts_alone(tmp_path, context, notices):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_bytes(b"one\n\ntwo\nthr\xe9e\n")
    rows = '{"captions": ["three", "four"]}', '{"captions": [""]}', '{"other": "five"}'
    (tmp_path / "texts" / "b.jsonl").write_text("\n".join(rows))
    data = build_captions(CaptionsConfig(path=tmp_path / "texts"), context)
    items = data.index("train")["text"]
    assert set(data.index("train")) == {"text"}
    assert data.load("text", items.items) == ["one", "two", "three", "four"]
    assert items.samples[2] == items.samples[3]
    assert data.index("val") == {}
    assert data.facts()["skipped"]["kinds"] == {"not UTF-8": 1, "empty captions": 2}
    with pytest.raises(DataError, match="no such file"):
        build_captions(CaptionsConfig(path=tmp_path / "none.txt"), context)


def test_images_alone(folder, context, notices):
    (folder / "broken.jpg").write_bytes(b"x")
    data = build_images(ImagesConfig(path=folder), context)
    assert set(data.index("train")) == {"image"}
    assert len(data.index("train")["image"]) == 5
    assert "broken.jpg: is no image" in notices[0]
    with pytest.raises(DataError, match="broken.jpg"):
        build_images(ImagesConfig(path=folder, strict=True), context)
