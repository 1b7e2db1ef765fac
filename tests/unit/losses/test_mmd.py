from __future__ import annotations

import math

import pytest
import torch

from gentle_core.batch import AlignBatch, BuildContext, LossContext, Rows
from gentle_core.builtin import MmdConfig
from gentle_core.losses import mk_mmd
from gentle_core.losses.distances import median_bandwidth
from gentle_core.losses.mmd import build

DOUBLE = torch.float64


@pytest.mark.parametrize(("m", "n"), [(5, 5), (3, 7), (1, 4), (1, 1)])
@pytest.mark.parametrize("degree", [1, 2, 3])
def test_equals_the_loop(unit, reference, m, n, degree):
    u, v = unit(m, 4, 1), unit(n, 4, 2, centre=0.5)
    for beta, h in (((0.5, 0.5), 0.7), ((0.2, 0.8), None)):
        width = reference.median_distance(u.tolist(), v.tolist()) if h is None else h
        expected = reference.mmd(u.tolist(), v.tolist(), beta, width, degree, 0.5)
        value = mk_mmd(u, v, beta, bandwidth=h, degree=degree, offset=0.5).item()
        assert value == pytest.approx(expected, rel=1e-11, abs=1e-14)


def test_identical_sets_give_zero(unit):
    u = unit(6, 4)
    assert abs(mk_mmd(u, u.flip(0)).item()) < 1e-15


def test_two_diracs():
    x, y = torch.eye(2, dtype=DOUBLE)[:1].expand(3, 2), torch.eye(2, dtype=DOUBLE)[1:].expand(5, 2)
    h = 0.8
    gaussian, polynomial = math.exp(-2 / (2 * h * h)), 0.25  # ‖x−y‖² = 2, ((0+1)/2)²
    assert mk_mmd(x, y, (1, 0), bandwidth=h).item() == pytest.approx(2 - 2 * gaussian, rel=1e-12)
    assert mk_mmd(x, y, (0, 1)).item() == pytest.approx(2 - 2 * polynomial, rel=1e-12)
    assert mk_mmd(x[:1], y[:1], (1, 0)).item() == pytest.approx(2 - 2 * math.exp(-0.5), rel=1e-12)


def test_polynomial_part_is_the_distance_of_mean_features(unit):
    u, v, c = unit(6, 4, 1), unit(9, 4, 2, centre=1.0), 1.0

    def features(x):
        second = (x[:, :, None] * x[:, None, :]).flatten(1)
        constant = torch.full((len(x), 1), c, dtype=DOUBLE)
        return torch.cat([second, math.sqrt(2 * c) * x, constant], 1) / (1 + c)

    expected = (features(u).mean(0) - features(v).mean(0)).square().sum().item()
    assert abs(mk_mmd(u, v, (0, 1)).item() - expected) < 1e-10


def test_gradients(unit):
    u, v = unit(4, 3, 1).requires_grad_(), unit(5, 3, 2).requires_grad_()
    beta = torch.tensor([0.3, 0.7], dtype=DOUBLE, requires_grad=True)
    for degree in (2, 3):
        assert torch.autograd.gradcheck(lambda *x: mk_mmd(*x, bandwidth=0.9, degree=degree), (u, v, beta))  # noqa: B023


def test_the_median_bandwidth_is_detached(unit):
    u, v = unit(5, 3, 1).requires_grad_(), unit(5, 3, 2)
    mk_mmd(u, v).backward()
    moving = u.grad.clone()
    u.grad = None
    mk_mmd(u, v, bandwidth=median_bandwidth(u, v)).backward()
    assert torch.equal(moving, u.grad)


def test_invariances(unit, rotation):
    u, v, q = unit(6, 4, 1), unit(5, 4, 2), rotation(4)
    value = mk_mmd(u, v).item()
    assert mk_mmd(u @ q, v @ q).item() == pytest.approx(value, rel=1e-11)
    assert mk_mmd(u.flip(0), v).item() == pytest.approx(value, rel=1e-11)
    assert mk_mmd(v, u).item() == pytest.approx(value, rel=1e-11)


def test_never_negative_and_sees_a_shift(unit):
    u, v = unit(200, 8, 1), unit(200, 8, 2)
    near, far = mk_mmd(u, v).item(), mk_mmd(u, torch.nn.functional.normalize(v + 0.3, dim=1)).item()
    assert 0 < near < far / 3


def test_bandwidth_of_repeated_rows():
    rows = torch.zeros(9, 2, dtype=DOUBLE)
    assert median_bandwidth(rows, rows).item() == 1
    rows[0, 0] = 2.0  # 8 of 36 distances are 2, the median is 0
    assert median_bandwidth(rows[:4], rows[4:]).item() == pytest.approx(math.sqrt(8 * 4 / 36))


def test_empty_sets(unit):
    u, none = unit(3, 4).requires_grad_(), torch.zeros(0, 4, dtype=DOUBLE, requires_grad=True)
    loss = mk_mmd(u, none)
    loss.backward()
    assert loss.item() == 0
    assert (u.grad == 0).all()


def test_half_precision_is_lifted(unit):
    u, v = unit(6, 4, 1).half(), unit(6, 4, 2).half()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = mk_mmd(u, v)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(mk_mmd(u.double(), v.double()).item(), rel=1e-4)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
def test_gaussian_part_at_any_scale(unit, scale):
    u, v = unit(40, 8, 1), unit(30, 8, 2, centre=0.5)
    value = mk_mmd((u * scale).float(), (v * scale).float(), (1, 0)).item()
    assert value == pytest.approx(mk_mmd(u, v, (1, 0)).item(), rel=1e-4)


def test_one_cluster_far_from_the_origin(unit):
    cluster = torch.cat([unit(80, 8, 1) * 1e-4 + 1, unit(8, 8, 2)])
    u, v = cluster[::2].float(), cluster[1::2].float()
    expected = mk_mmd(u.double(), v.double(), (1, 0)).item()
    assert mk_mmd(u, v, (1, 0)).item() == pytest.approx(expected, rel=1e-3)


def batch(unit):
    return AlignBatch(
        {"a": Rows(unit(6, 4, 1), torch.arange(6)), "b": Rows(unit(9, 4, 2, centre=0.5), torch.arange(9))}
    )


def test_the_adversary_ascends_to_the_kernel_that_sees_most(unit):
    loss, towers = build(MmdConfig(bandwidth=0.05), BuildContext(cache_dir=None)), batch(unit)
    groups = loss.param_groups()
    assert groups.min == [] and len(groups.max) == 1
    parts = [mk_mmd(towers.towers["a"].z, towers.towers["b"].z, b, bandwidth=0.05).item() for b in ((1, 0), (0, 1))]
    better = int(parts[1] > parts[0])
    assert abs(parts[0] - parts[1]) > 1e-3
    first = loss(towers, LossContext()).loss.item()
    for _ in range(200):
        loss.zero_grad()
        loss(towers, LossContext()).loss.backward()
        with torch.no_grad():
            loss.beta_logits += 1.0 * loss.beta_logits.grad  # ascent
    assert loss(towers, LossContext()).loss.item() > first
    assert loss.beta[better] > 0.75
    loss.beta_logits.data = torch.tensor([99.0, -99.0])
    assert loss.beta.tolist() == pytest.approx([0.95, 0.05])


def test_fixed_weights_have_no_parameters(unit):
    loss = build(MmdConfig(beta="fixed", weights=(3, 1)), BuildContext(cache_dir=None))
    assert list(loss.parameters()) == []
    towers = batch(unit)
    out = loss(towers, LossContext())
    assert out.loss.item() == pytest.approx(mk_mmd(towers.towers["a"].z, towers.towers["b"].z, (0.75, 0.25)).item())
    assert out.logs["beta/gaussian"] == 0.75
    assert out.counts == {"mmd": 15}


def test_starting_weights_are_met_by_the_adversary():
    loss = build(MmdConfig(weights=(0.8, 0.2)), BuildContext(cache_dir=None))
    assert loss.beta.tolist() == pytest.approx([0.8, 0.2])


def test_bad_weights():
    with pytest.raises(ValueError, match="two numbers"):
        MmdConfig(weights=(1.0, -1.0))
