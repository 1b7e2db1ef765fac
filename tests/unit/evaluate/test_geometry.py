from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gentle_core.evaluate.geometry import alignment, effective_rank, modality_gap, uniformity


def sphere(n: int, d: int, seed: int = 0) -> np.ndarray:
    z = np.random.default_rng(seed).normal(size=(n, d))
    return z / np.linalg.norm(z, axis=1, keepdims=True)


def test_gap_of_opposite_poles_and_of_equal_sets():
    pole = np.float32([[0, 0, 1]] * 4)
    assert modality_gap(pole, -pole[:3]) == pytest.approx(2.0)
    z = sphere(50, 6)
    assert modality_gap(z, z[::-1]) == pytest.approx(0.0, abs=1e-15)


def test_alignment_by_position_and_by_id():
    u, v = sphere(8, 3), sphere(8, 3, seed=1)
    direct = np.mean([sum((a - b) ** 2) for a, b in zip(u, v, strict=True)])
    assert alignment(u, v) == pytest.approx(direct)
    order = np.random.default_rng(2).permutation(8)
    assert alignment(u, v[order], list(range(8)), order.tolist()) == pytest.approx(direct)
    # Two captions of the first, none of the others.
    some = alignment(u, v, range(8), [0, 0, 90, 91, 92, 93, 94, 95])
    assert some == pytest.approx((sum((u[0] - v[0]) ** 2) + sum((u[0] - v[1]) ** 2)) / 2)
    assert alignment(np.eye(3), np.roll(np.eye(3), 1, axis=0)) == pytest.approx(2.0)
    assert math.isnan(alignment(u, v, range(8), range(10, 18)))


@pytest.mark.parametrize("block", [None, 1, 7, 100])
def test_uniformity_agrees_with_a_loop(block):
    z = sphere(23, 4)
    energies = [math.exp(-2 * sum((z[i] - z[j]) ** 2)) for i in range(23) for j in range(i + 1, 23)]
    assert uniformity(z, block=block) == pytest.approx(math.log(math.fsum(energies) / len(energies)), abs=1e-12)


def test_uniformity_in_closed_form():
    assert uniformity(np.float32([[1, 0]] * 5)) == 0.0
    assert uniformity(np.eye(6)) == pytest.approx(-4.0)  # all squared distances are 2
    assert uniformity(np.array([[1.0, 0], [-1.0, 0]])) == pytest.approx(-8.0)
    assert uniformity(1e3 * np.eye(3)) == pytest.approx(-4e6)  # exp of it would be 0
    assert math.isnan(uniformity(np.eye(3)[:1]))


def test_effective_rank_in_closed_form():
    cross = np.concatenate([np.eye(5), -np.eye(5)])
    assert effective_rank(cross) == pytest.approx(5.0)
    assert effective_rank(np.array([[1.0, 0, 0], [-1.0, 0, 0]])) == pytest.approx(1.0)
    assert effective_rank(np.float32([[0.6, 0.8]] * 9)) == 0.0
    # Variances 3 : 1.
    z = np.array([[math.sqrt(3), 0], [-math.sqrt(3), 0], [0, 1.0], [0, -1.0]])
    assert effective_rank(z) == pytest.approx(math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25))))
    assert effective_rank(torch.from_numpy(z + 17.0)) == pytest.approx(effective_rank(z))


def test_effective_rank_of_a_collapse_with_float32_noise():
    z = np.tile(sphere(1, 64).astype(np.float32), (200, 1))
    z *= 1 + np.random.default_rng(0).integers(-1, 2, size=z.shape).astype(np.float32) * np.float32(6e-8)
    assert effective_rank(z) == 0.0
