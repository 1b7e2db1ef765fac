"""Labelled scenes in class folders."""

from __future__ import annotations

import pytest

from gentle_core.api import DataError
from gentle_remote_sensing.datasets import folder
from gentle_remote_sensing.datasets.config import SceneFolderConfig, ScenesConfig


@pytest.fixture
def scenes(tmp_path, make_image):
    def make(root, classes=("BareLand", "River"), count=3):
        for name in classes:
            for i in range(count):
                make_image(tmp_path / root / name / f"{name.lower()}_{i}.png", i)
        return tmp_path / root

    return make


@pytest.mark.parametrize("root", ["AID", "UCMerced_LandUse/Images", "a/b/c"])
def test_class_folders_are_found_below_wrappers(scenes, tmp_path, context, root):
    scenes(root)
    data = folder.build(SceneFolderConfig(path=tmp_path / root.split("/")[0]), context)
    test = data.index("test")["aerial-image"]
    assert test.items[0] == "BareLand/bareland_0.png" and len(test) == 6
    assert test.attributes["label"].tolist() == ["BareLand"] * 3 + ["River"] * 3
    assert data.index("train") == {}
    assert data.facts()["class_names"] == {"BareLand": "bare land", "River": "a river"}
    assert data.facts()["templates"] == ["an aerial photograph of {}."]


def test_split_folders(scenes, tmp_path, context):
    scenes("RESISC45/train")
    scenes("RESISC45/test", count=1)
    data = folder.build(SceneFolderConfig(path=tmp_path / "RESISC45"), context)
    assert len(data.index("train")["aerial-image"]) == 6
    assert data.index("test")["aerial-image"].items == ("test/BareLand/bareland_0.png", "test/River/river_0.png")


def test_own_names_and_damaged_images(scenes, context, notices):
    root = scenes("AID")
    (root / "River" / "river_0.png").write_bytes(b"no image")
    (root / "notes.txt").write_text("beside the folders")
    data = folder.build(SceneFolderConfig(path=root, names={"BareLand": "bare ground"}), context)
    assert data.facts()["class_names"]["BareLand"] == "bare ground"
    assert len(data.index("test")["aerial-image"]) == 5 and "river_0.png" in notices[0]
    with pytest.raises(DataError, match="river_0.png.*strict = false"):
        folder.build(SceneFolderConfig(path=root, strict=True), context)
    with pytest.raises(DataError, match="names: there is no class folder bareland; there are BareLand, River"):
        folder.build(SceneFolderConfig(path=root, names={"bareland": "x"}), context)


def test_what_is_no_folder_of_classes(scenes, tmp_path, make_image, context):
    with pytest.raises(DataError, match="no such folder"):
        folder.build(SceneFolderConfig(path=tmp_path / "nowhere"), context)
    make_image(tmp_path / "flat" / "a.png")
    with pytest.raises(DataError, match="holds no class folders with images"):
        folder.build(SceneFolderConfig(path=tmp_path / "flat"), context)
    with pytest.raises(DataError, match="only images of class River"):
        folder.build(SceneFolderConfig(path=scenes("one", ("River",))), context)


def test_scenes_of_which_nothing_is_known(tmp_path, make_image, context, notices):
    for name in ("a/1.png", "b/1.png", "2.png"):
        make_image(tmp_path / "more" / name)
    (tmp_path / "more" / "3.png").write_bytes(b"no picture")
    data = folder.build_scenes(ScenesConfig(path=tmp_path / "more"), context)
    assert set(data.index("train")["aerial-image"].items) == {"a/1.png", "b/1.png", "2.png"}
    assert data.index("test") == {} and "3.png" in notices[0] and data.facts()["skipped"]["count"] == 1
    with pytest.raises(DataError, match="no picture|no image that Pillow can read"):
        folder.build_scenes(ScenesConfig(path=tmp_path / "more", strict=True), context)
    with pytest.raises(DataError, match="no such folder"):
        folder.build_scenes(ScenesConfig(path=tmp_path / "nowhere"), context)
