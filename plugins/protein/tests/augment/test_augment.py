"""Augmentations change what they say, leave their input alone, and depend on the generator alone."""

from __future__ import annotations

import numpy as np
import pytest

from gentle_core.api import Augmentation, NoOptions
from gentle_protein import augment
from gentle_protein.alphabet import MASK, MASK_LETTER, encode
from gentle_protein.chain import Structure


@pytest.fixture
def chain(make_chain) -> tuple[str, Structure]:
    sequence, ca = make_chain(0, 60)
    return sequence, Structure("x", ca)


@pytest.fixture
def built(context):
    crop = augment.CropConfig(shortest=0.4, longest=0.9)
    return {
        "dropout": (augment.build_residue_dropout(augment.ResidueRate(p=0.3), context), 0),
        "mask": (augment.build_residue_mask(augment.ResidueRate(p=0.3), context), 0),
        "jitter": (augment.build_coordinate_jitter(augment.JitterConfig(sigma=0.5), context), 1),
        "rotation": (augment.build_random_rotation(NoOptions(), context), 1),
        "crop sequence": (augment.build_residue_crop(crop, context), 0),
        "crop structure": (augment.build_residue_crop(crop, context), 1),
    }


def test_generator_decides_alone_and_input_stays(built, chain):
    before = chain[1].ca.copy()
    for name, (change, side) in built.items():
        assert isinstance(change, Augmentation)
        item = chain[side]
        first, again, other = (change(item, np.random.default_rng(seed)) for seed in (1, 1, 2))
        assert type(first) is type(item)
        assert first == again, name
        assert first != other, name
        assert first != item, name
    np.testing.assert_array_equal(chain[1].ca, before)


@pytest.mark.parametrize(("build", "letter"), [("build_residue_dropout", "X"), ("build_residue_mask", MASK_LETTER)])
def test_share_of_replaced_residues(context, build, letter):
    change = getattr(augment, build)(augment.ResidueRate(p=0.2), context)
    changed = change("A" * 20_000, np.random.default_rng(0))
    assert set(changed) == {"A", letter}
    assert changed.count(letter) / len(changed) == pytest.approx(0.2, abs=0.01)
    for p, count in ((0.0, 0), (1.0, 9)):
        change = getattr(augment, build)(augment.ResidueRate(p=p), context)
        assert change("ACDEFGHIK", np.random.default_rng(0)).count(letter) == count


def test_masked_residue_is_the_models_mask_token():
    assert encode(MASK_LETTER).tolist() == [MASK]
    assert MASK_LETTER not in "ABCDEFGHIJKLMNOPQRSTUVWXYZ.-"


def test_jitter_has_the_stated_size(context):
    still = Structure("x", np.zeros((20_000, 3)))
    moved = augment.build_coordinate_jitter(augment.JitterConfig(sigma=0.05), context)(still, np.random.default_rng(0))
    assert moved.ca.std() == pytest.approx(0.05, rel=0.02)
    assert abs(moved.ca.mean()) < 0.001


def test_rotation_keeps_shape_handedness_and_centre(context, chain):
    item = chain[1]
    turned = augment.build_random_rotation(NoOptions(), context)(item, np.random.default_rng(3))
    before, after = (ca.astype(np.float64) - ca.mean(0, dtype=np.float64) for ca in (item.ca, turned.ca))
    np.testing.assert_allclose(after @ after.T, before @ before.T, atol=1e-3 * np.abs(before).max())
    assert np.sign(np.linalg.det(after[:3])) == np.sign(np.linalg.det(before[:3]))
    np.testing.assert_allclose(turned.ca.mean(0), item.ca.mean(0), atol=1e-4)


def test_rotations_are_proper_and_uniform():
    rng = np.random.default_rng(0)
    rotations = np.stack([augment.random_rotation(rng) for _ in range(4000)])
    np.testing.assert_allclose(rotations @ rotations.transpose(0, 2, 1), np.tile(np.eye(3), (4000, 1, 1)), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(rotations), 1, atol=1e-12)
    # Haar measure: entries have mean 0 and variance 1/3, and the trace has mean 0 and variance 1.
    np.testing.assert_allclose(rotations.mean(0), 0, atol=0.04)
    np.testing.assert_allclose(rotations.var(0), 1 / 3, atol=0.03)
    trace = np.trace(rotations, axis1=1, axis2=2)
    assert trace.mean() == pytest.approx(0, abs=0.06)
    assert trace.var() == pytest.approx(1, abs=0.08)


def test_crop_cuts_the_same_window_out_of_both_towers(built, chain):
    change = built["crop sequence"][0]
    sequence, structure = chain
    for seed in range(50):
        letters = change(sequence, np.random.default_rng(seed))
        window = change(structure, np.random.default_rng(seed))
        start = next(i for i in range(61) if np.array_equal(structure.ca[i : i + len(window)], window.ca))
        assert letters == sequence[start : start + len(window)]
        assert window.id == structure.id
        assert 24 <= len(window) <= 54


def test_crop_takes_two_draws_whatever_the_chain(built, chain):
    change = built["crop sequence"][0]
    rngs = [np.random.default_rng(0) for _ in range(3)]
    change(chain[0], rngs[0])
    change("ACD", rngs[1])
    rngs[2].random(2)
    assert rngs[0].random() == rngs[1].random() == rngs[2].random()


@pytest.mark.parametrize(
    ("length", "sizes"), [(10, {10}), (20, {20}), (30, {20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30})]
)
def test_crop_respects_the_shortest_window(context, length, sizes):
    change = augment.build_residue_crop(augment.CropConfig(shortest=0.1, longest=1.0, min_length=20), context)
    rng = np.random.default_rng(0)
    windows = [change("A" * length, rng) for _ in range(400)]
    assert {len(window) for window in windows} == sizes


def test_every_window_start_is_reached():
    config = augment.CropConfig(shortest=0.5, longest=0.5, min_length=3)
    rng = np.random.default_rng(0)
    assert {augment.crop_window(10, config, rng).start for _ in range(300)} == set(range(6))


def test_options_that_cannot_be_meant():
    for wrong in (
        lambda: augment.ResidueRate(p=1.5),
        lambda: augment.JitterConfig(sigma=-1),
        lambda: augment.CropConfig(shortest=0.9, longest=0.5),
        lambda: augment.CropConfig(shortest=0.0),
    ):
        with pytest.raises(ValueError):
            wrong()


def test_structure_refuses_other_shapes():
    with pytest.raises(ValueError, match=r"shape \(4, 2\)"):
        Structure("x", np.zeros((4, 2)))
    assert Structure("x", [[0, 0, 0]]).ca.dtype == np.float32
