"""Caption data sets in Karpathy's layout, whole, partial and damaged."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from gentle_core.api import DataError
from gentle_remote_sensing.datasets import karpathy
from gentle_remote_sensing.datasets.config import KarpathyConfig, UnionConfig
from gentle_vision_language.items import ImageFile

SCENES = {
    "airport_1.jpg": ("train", ["many planes .", "an airport with two runways ."]),
    "beach_7.jpg": ("train", ["waves on a beach ."]),
    "00012.jpg": ("val", ["a river ."]),
    "pond_3.jpg": ("test", ["a pond .", "green water ."]),
}


@pytest.fixture
def rsicd(tmp_path, make_karpathy):
    return make_karpathy(tmp_path / "RSICD", "dataset_rsicd.json", SCENES)


def test_images_captions_splits_labels_and_keywords(rsicd, context, notices):
    data = karpathy.build_rsicd(KarpathyConfig(path=rsicd), context)
    train = data.index("train")
    assert train["aerial-image"].items == ("airport_1.jpg", "beach_7.jpg")
    assert train["aerial-image"].attributes["label"].tolist() == ["airport", "beach"]
    assert train["text"].items == ("airport_1.jpg#0", "airport_1.jpg#1", "beach_7.jpg#0")
    assert train["text"].samples == ("airport_1.jpg", "airport_1.jpg", "beach_7.jpg")
    keywords = data.facts()["keywords"]
    rows = train["text"].attributes["labels"]
    assert rows.dtype == bool and rows.shape == (3, len(keywords))
    marked = [[keywords[k] for k in np.flatnonzero(row)] for row in rows]
    assert marked == [[], ["airport", "runway"], ["beach"]]
    assert data.index("val")["aerial-image"].attributes.get("label", np.array([""])).tolist() == [""]
    assert data.load("text", ["airport_1.jpg#1"]) == ["an airport with two runways ."]
    assert isinstance(data.load("aerial-image", ["pond_3.jpg"])[0], ImageFile)
    assert data.facts()["class_names"]["airport"] == "an airport"
    assert not notices
    assert pickle.loads(pickle.dumps(data)).index("test")["text"].items == ("pond_3.jpg#0", "pond_3.jpg#1")


def test_images_in_another_format_than_the_json_says(tmp_path, make_karpathy, make_image, context):
    folder = make_karpathy(
        tmp_path / "UCM_captions", "dataset.json", {"101.tif": ("train", ["a plane ."])}, ["101.tif"]
    )
    make_image(folder / "imgs" / "101.png")
    data = karpathy.build_ucm(KarpathyConfig(path=folder), context)
    assert data.index("train")["aerial-image"].attributes["label"].tolist() == ["airplane"]  # the 101st of 100 each


@pytest.mark.parametrize(
    ("build", "stem", "label"),
    [("ucm", "100", "agricultural"), ("ucm", "2100", "tenniscourt"), ("ucm", "2101", ""), ("rsicd", "00012", "")],
)
def test_scene_classes_from_file_names(build, stem, label):
    source = karpathy.UCM if build == "ucm" else karpathy.RSICD
    assert source.label(stem) == label


def test_what_cannot_be_used_is_named_and_counted(tmp_path, make_karpathy, make_image, context, notices):
    scenes = SCENES | {
        "gone_1.jpg": ("train", ["not there"]),
        "empty_1.jpg": ("train", ["", "   "]),
        "wordless_1.jpg": ("train", []),
        "cut_1.jpg": ("train", ["cut short"]),
        "dot_1.png": ("train", ["one pixel"]),
        "odd_1.jpg": ("spare", ["in no split"]),
        "number_1.jpg": ("train", [{"raw": 5}]),
        "tokens_1.jpg": ("train", [{"tokens": ["from", "tokens"]}]),
    }
    folder = make_karpathy(tmp_path / "RSICD", "dataset_rsicd.json", scenes, ["gone_1.jpg"])
    whole = (folder / "imgs" / "cut_1.jpg").read_bytes()
    (folder / "imgs" / "cut_1.jpg").write_bytes(whole[: len(whole) // 2])
    make_image(folder / "imgs" / "dot_1.png", size=(1, 1))
    data = karpathy.build_rsicd(KarpathyConfig(path=folder), context)
    facts = data.facts()
    assert facts["skipped"]["kinds"] == {
        "missing images": 1, "empty captions": 2, "captions that are no text": 1, "bad images": 2
    }  # fmt: skip
    assert facts["left_out"] == {"in_no_split": 1}
    assert len(notices) == 1 and "skipped 6" in notices[0] and "gone_1.jpg" in notices[0]
    assert data.load("text", ["tokens_1.jpg#0"]) == ["from tokens"]
    assert "cut_1.jpg" not in data.index("train")["aerial-image"].items
    with pytest.raises(DataError, match="gone_1.jpg: there is no such image.*strict = false"):
        karpathy.build_rsicd(KarpathyConfig(path=folder, strict=True), context)


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda f: (f / "dataset_rsicd.json").unlink(), "holds none of dataset_rsicd.json, dataset.json.*captions"),
        (lambda f: (f / "dataset_rsicd.json").write_text("{"), "is no JSON"),
        (lambda f: (f / "dataset_rsicd.json").write_text('{"images": {}}'), 'expected {"images"'),
        (lambda f: (f / "dataset_rsicd.json").write_bytes(b'{"images": [\n"\xff"]}'), "json:2: is not UTF-8"),
        (lambda f: (f / "dataset_rsicd.json").write_text('{"images": []}'), "no scene with captions"),
        (lambda f: [p.unlink() for p in (f / "imgs").iterdir()], "holds no image"),
        (lambda f: f.rename(f.with_name("elsewhere")), "no such folder"),
    ],
)
def test_one_clear_error(rsicd, context, spoil, match):
    spoil(rsicd)
    with pytest.raises(DataError, match=match):
        karpathy.build_rsicd(KarpathyConfig(path=rsicd), context)


@pytest.fixture
def union(tmp_path, make_karpathy):
    root = tmp_path / "data"
    make_karpathy(root / "RSICD", "dataset_rsicd.json", SCENES)
    make_karpathy(root / "Sydney_captions", "dataset.json", {"1.tif": ("train", ["houses"]), "2.tif": ("val", ["sea"])})
    return root


def test_the_union_is_what_is_there_and_says_which(union, context, notices):
    data = karpathy.build_union(UnionConfig(path=union), context)
    assert data.index("train")["aerial-image"].items == (
        "RSICD/airport_1.jpg", "RSICD/beach_7.jpg", "Sydney-captions/1.tif"
    )  # fmt: skip
    assert data.facts()["union_of"] == ["RSICD", "Sydney-captions"]
    assert notices == ["the union consists of RSICD and Sydney-captions; not there: UCM-captions"]


def test_a_part_of_the_union_may_lie_elsewhere(union, tmp_path, make_karpathy, context, notices):
    other = make_karpathy(tmp_path / "mine", "dataset.json", {"1.tif": ("train", ["fields"])})
    data = karpathy.build_union(UnionConfig(path=union, ucm=other), context)
    assert data.facts()["union_of"] == ["RSICD", "UCM-captions", "Sydney-captions"]
    assert "UCM-captions/1.tif" in data.index("train")["aerial-image"].items and not notices


def test_a_union_of_nothing(tmp_path, context):
    with pytest.raises(DataError, match="holds none of RSICD, UCM_captions and Sydney_captions"):
        karpathy.build_union(UnionConfig(path=tmp_path), context)
    with pytest.raises(DataError, match="no such folder"):
        karpathy.build_union(UnionConfig(path=tmp_path / "nowhere"), context)


def test_real_rsicd(real_data, context, notices):
    root = real_data("remote_sensing.tar")
    data = karpathy.build_union(UnionConfig(path=root), context)
    train, val = data.index("train"), data.index("val")
    assert (len(train["aerial-image"]), len(val["aerial-image"])) == (7946, 1027)
    assert len(train["text"]) == 5 * 7946 and data.facts()["skipped"]["count"] == 0
    assert len(set(val["aerial-image"].attributes["label"])) == 30
    assert notices == ["the union consists of RSICD; not there: UCM-captions, Sydney-captions"]
