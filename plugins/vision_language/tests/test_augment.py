"""Augmentations change what they say, by the generators given, row by row."""

from __future__ import annotations

import attrs
import numpy as np
import pytest
import torch

from gentle_vision_language.augment import (
    Choices,
    OtherCaption,
    SimClr,
    SimClrConfig,
    WordDropout,
)
from gentle_vision_language.items import Caption

NOTHING = {"crop": 1.0, "flip": 0.0, "jitter": 0.0, "grey": 0.0, "blur": 0.0}


def generators(count, seed=0):
    return [np.random.default_rng([seed, i]) for i in range(count)]


@pytest.fixture
def pixels(picture):
    arrays = [np.asarray(picture(i, 40, 32)).transpose(2, 0, 1) for i in range(6)]
    return torch.from_numpy(np.stack(arrays))


def only(**options):
    return SimClr(SimClrConfig(**NOTHING | options))


def test_nothing_asked_for_changes_nothing(pixels):
    found = only().by_row({"pixels": pixels, "more": 1}, generators(6))
    assert found["more"] == 1
    assert torch.allclose(found["pixels"], pixels / 255, atol=1e-5)


def test_input_is_left_alone_and_values_stay_in_range(pixels):
    before = pixels.clone()
    found = SimClr(SimClrConfig())({"pixels": pixels}, np.random.default_rng(0))["pixels"]
    assert torch.equal(pixels, before)
    assert found.shape == pixels.shape and found.min() >= 0 and found.max() <= 1
    assert (found - pixels / 255).abs().amax(dim=(1, 2, 3)).min() > 0.01


def test_a_row_does_not_depend_on_its_batch(pixels):
    augment = SimClr(SimClrConfig())
    whole = augment.by_row({"pixels": pixels}, generators(6))["pixels"]
    alone = torch.cat(
        [augment.by_row({"pixels": pixels[i : i + 1]}, [rng])["pixels"] for i, rng in enumerate(generators(6))]
    )
    assert torch.allclose(whole, alone, atol=1e-6)
    assert torch.equal(whole, augment.by_row({"pixels": pixels}, generators(6))["pixels"])
    assert not torch.equal(whole, augment.by_row({"pixels": pixels}, generators(6, seed=1))["pixels"])


def test_bytes_and_floats_are_changed_alike(pixels):
    augment = SimClr(SimClrConfig())
    a = augment.by_row({"pixels": pixels}, generators(6))["pixels"]
    b = augment.by_row({"pixels": pixels / 255}, generators(6))["pixels"]
    assert torch.allclose(a, b, atol=1e-6)


def test_flip(pixels):
    found = only(flip=1.0).by_row({"pixels": pixels}, generators(6))["pixels"]
    assert torch.allclose(found, pixels.flip(-1) / 255, atol=1e-5)


def test_crop_shows_the_box(pixels):
    """A crop of a ramp has the values between the box's edges."""
    ramp = torch.linspace(0, 1, 64).expand(1, 3, 48, 64).clone()
    config = SimClrConfig(**NOTHING | {"crop": 0.3})
    for rng in generators(20):
        choice = Choices.draw(config, np.random.default_rng(rng.bit_generator.seed_seq))
        left, top, width, height = choice.box
        assert left >= 0 and left + width <= 1 + 1e-9 and top >= 0 and top + height <= 1 + 1e-9
        found = SimClr(config).by_row({"pixels": ramp}, [np.random.default_rng(rng.bit_generator.seed_seq)])["pixels"]
        assert found[0, 0, 0, 0].item() == pytest.approx(left, abs=0.03)
        assert found[0, 0, 0, -1].item() == pytest.approx(left + width, abs=0.03)


def test_crops_have_the_areas_and_shapes_asked_for():
    config = SimClrConfig(crop=0.2, ratio=1.5)
    boxes = np.array([Choices.draw(config, rng).box for rng in generators(400)])
    area, shape = boxes[:, 2] * boxes[:, 3], boxes[:, 2] / boxes[:, 3]
    assert 0.19 < area.min() < 0.25 and area.max() > 0.9
    assert shape.min() > 1 / 1.5 - 1e-6 and shape.max() < 1.5 + 1e-6


def test_grey_has_no_colour(pixels):
    found = only(grey=1.0).by_row({"pixels": pixels}, generators(6))["pixels"]
    assert torch.equal(found[:, 0], found[:, 1]) and torch.equal(found[:, 1], found[:, 2])


def test_blur_smooths(pixels):
    noise = torch.rand(2, 3, 64, 64)
    found = only(blur=1.0).by_row({"pixels": noise}, generators(2))["pixels"]
    assert found.std() < noise.std() and abs(found.mean() - noise.mean()) < 0.02


@pytest.mark.parametrize("what", ["brightness", "contrast", "saturation", "hue"])
def test_each_colour_change_alone(what, pixels):
    off = dict.fromkeys(("brightness", "contrast", "saturation", "hue"), 0.0)
    augment = only(jitter=1.0, **off | {what: 0.3})
    assert not torch.allclose(augment.by_row({"pixels": pixels}, generators(6))["pixels"], pixels / 255, atol=1e-2)
    still = only(jitter=1.0, **off)
    assert torch.allclose(still.by_row({"pixels": pixels}, generators(6))["pixels"], pixels / 255, atol=1e-5)


def test_options_do_not_move_one_another():
    a = Choices.draw(SimClrConfig(), np.random.default_rng(3))
    b = Choices.draw(SimClrConfig(jitter=0.0, blur=0.0), np.random.default_rng(3))
    assert attrs.asdict(a)["box"] == attrs.asdict(b)["box"] and a.flip == b.flip and a.grey == b.grey


def test_word_dropout():
    text = " ".join(f"w{i}" for i in range(1000))
    kept = WordDropout(0.3)(text, np.random.default_rng(0)).split()
    assert 640 < len(kept) < 760 and kept == sorted(kept, key=lambda w: int(w[1:]))
    assert WordDropout(1.0)("one two", np.random.default_rng(0)) in ("one", "two")
    assert WordDropout(0.5)("", np.random.default_rng(0)) == ""


def test_other_caption():
    caption = Caption("a", ["b", "c"])
    rng = np.random.default_rng(0)
    seen = {OtherCaption(1.0)(caption, rng) for _ in range(40)}
    assert seen == {"b", "c"}
    assert OtherCaption(0.0)(caption, rng) == "a"
    assert OtherCaption(1.0)("plain", rng) == "plain"
