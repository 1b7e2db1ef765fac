"""The hand-made description: known shapes, invariances, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from gentle_core.api import BuildContext, DataError, NoOptions
from gentle_protein.chain import Structure
from gentle_protein.shape import WIDTH, build, describe


def helix(length: int, hand: float = 1.0) -> np.ndarray:
    t = np.arange(length)[:, None]
    turn = np.deg2rad(100.0) * t
    return np.hstack([2.3 * np.cos(turn), hand * 2.3 * np.sin(turn), 1.5 * t])


def walk(length: int, seed: int = 0) -> np.ndarray:
    steps = np.random.default_rng(seed).normal(size=(length, 3))
    return np.cumsum(3.8 * steps / np.linalg.norm(steps, axis=1, keepdims=True), axis=0)


@pytest.mark.parametrize("length", [3, 4, 5, 11, 40, 200])
def test_any_length_gives_finite_numbers_of_one_width(length):
    found = describe(walk(length))
    assert found.shape == (WIDTH,) and np.isfinite(found).all()


def test_pose_does_not_matter_and_handedness_does():
    turn, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))
    turn *= np.sign(np.linalg.det(turn))
    p = walk(80)
    np.testing.assert_allclose(describe(p @ turn + 50.0), describe(p), atol=1e-4)
    assert np.abs(describe(helix(40, -1.0)) - describe(helix(40))).max() > 0.5


def test_a_helix_is_told_from_a_strand_whatever_their_lengths():
    strand = np.outer(np.arange(40), [3.3, 0, 0]) + 0.9 * (np.arange(40) % 2)[:, None] * [0, 1, 0]
    near = np.linalg.norm(describe(helix(60)) - describe(helix(40)))
    assert np.linalg.norm(describe(strand) - describe(helix(40))) > 1.5 * near


def test_it_is_an_encoder():
    shape = build(NoOptions(), BuildContext(cache_dir=None))
    items = [Structure(f"c{n}", walk(n)) for n in (10, 30)]
    features = shape(shape.collate(items))
    assert features.shape == (2, shape.width) and shape.size(items[1]) == 30
    np.testing.assert_array_equal(features[1].numpy(), describe(items[1].ca))
    with pytest.raises(DataError, match="three|3 residues"):
        shape.collate([Structure("short", np.zeros((2, 3)))])
