"""Turning and mirroring."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gentle_core.api import DataError
from gentle_remote_sensing.augment import RightAngles, RightAnglesConfig


def grid(count, height=3, width=3):
    return torch.arange(count * 2 * height * width, dtype=torch.float32).view(count, 2, height, width)


def forms(image):
    """The images that the square's symmetries make of one, as texts."""
    return {str(torch.rot90(x, k, (1, 2)).tolist()) for x in (image, image.flip(2)) for k in range(4)}


def test_every_symmetry_of_the_square_occurs_and_nothing_else():
    pixels = grid(1).repeat(400, 1, 1, 1)
    before = pixels.clone()
    changed = RightAngles(RightAnglesConfig())({"pixels": pixels, "more": 1}, np.random.default_rng(0))
    seen = [str(image.tolist()) for image in changed["pixels"]]
    assert set(seen) == forms(pixels[0]) and len(forms(pixels[0])) == 8
    counts = [seen.count(form) for form in set(seen)]
    assert min(counts) > 25  # 50 each in expectation
    assert torch.equal(pixels, before) and changed["more"] == 1


@pytest.mark.parametrize(("turns", "flips", "count"), [(False, True, 2), (True, False, 4), (False, False, 1)])
def test_options_leave_symmetries_out(turns, flips, count):
    pixels = grid(1).repeat(100, 1, 1, 1)
    config = RightAnglesConfig(turns=turns, flips=flips)
    changed = RightAngles(config)({"pixels": pixels}, np.random.default_rng(0))["pixels"]
    assert len({str(image.tolist()) for image in changed}) == count


def test_images_that_are_not_square_keep_their_shape():
    pixels = grid(50, 2, 5)
    changed = RightAngles(RightAnglesConfig())({"pixels": pixels}, np.random.default_rng(0))["pixels"]
    assert changed.shape == pixels.shape
    upside_down = torch.rot90(pixels, 2, (2, 3))
    assert any(torch.equal(changed[i], upside_down[i]) for i in range(50))


def test_the_generator_decides_and_images_are_changed_each_by_itself():
    pixels = grid(32)
    one, two, other = (
        RightAngles(RightAnglesConfig())({"pixels": pixels}, np.random.default_rng(s)) for s in (1, 1, 2)
    )
    assert torch.equal(one["pixels"], two["pixels"]) and not torch.equal(one["pixels"], other["pixels"])
    for before, after in zip(pixels, one["pixels"], strict=True):
        assert str(after.tolist()) in forms(before)


def test_what_is_no_batch_of_images():
    with pytest.raises(DataError, match="pixels"):
        RightAngles(RightAnglesConfig())({"input_ids": torch.ones(2, 3)}, np.random.default_rng(0))
