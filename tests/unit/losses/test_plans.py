"""KLOT and soft labels against plain float64 formulas, by tiles and densely; what they are 0 for."""

from __future__ import annotations

import importlib.util
import math
import sys

import pytest
import torch

from gentle_core.batch import AlignBatch, BuildContext, LossContext, Rows
from gentle_core.builtin import KlotConfig, NeighboursConfig, SinkhornConfig
from gentle_core.errors import ComponentError
from gentle_core.losses import klot_loss, neighbour_loss, sinkhorn, sinkhorn_divergence
from gentle_core.losses.klot import Klot
from gentle_core.losses.neighbours import Neighbours
from gentle_core.losses.plans import potentials
from gentle_core.losses.sinkhorn import build

HAS_GEOMLOSS = importlib.util.find_spec("geomloss") is not None


def plan(x, y, epsilon, steps=400):
    """The transport plan in plain log space, differentiable through every alternation."""
    s = x @ y.T / epsilon
    f, g = s.new_zeros(len(x)), s.new_zeros(len(y))
    for _ in range(steps):
        f = -torch.logsumexp(s + g, 1) - math.log(len(x))
        g = -torch.logsumexp(s + f[:, None], 0) - math.log(len(y))
    return s + f[:, None] + g


def plain_klot(u, v, target_u, target_v, epsilon, sharp):
    wanted = plan(target_u, target_v, sharp).detach()
    return (wanted.exp() * (wanted - plan(u, v, epsilon))).sum()


@pytest.mark.parametrize("tile", [0, 3, "auto"])
@pytest.mark.parametrize("sharp", [None, 0.3])
def test_klot_and_its_gradient_are_those_of_the_unrolled_formula(unit, tile, sharp):
    u, v, s, t = unit(7, 4), unit(5, 4, seed=1), unit(7, 3, seed=2), unit(5, 3, seed=3)
    x, y = u.clone().requires_grad_(), v.clone().requires_grad_()
    expected = plain_klot(x, y, s, t, 0.2, sharp or 0.2)
    slopes = torch.autograd.grad(expected, (x, y))
    a, b = u.clone().requires_grad_(), v.clone().requires_grad_()
    found = klot_loss(a, b, s, t, 0.2, sharp, 400, tile=tile)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    for ours, theirs in zip(torch.autograd.grad(found, (a, b)), slopes, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-8)


def test_klot_gradcheck(unit):
    u, v, s, t = unit(4, 3), unit(5, 3, seed=1), unit(4, 3, seed=2), unit(5, 3, seed=3)
    x, y = u.requires_grad_(), v.requires_grad_()
    torch.autograd.gradcheck(
        lambda a, b: klot_loss(a, b, s, t, 0.3, steps=500, tile=0), (x, y), atol=1e-6, fast_mode=True
    )


def test_klot_is_zero_for_the_same_plan_and_positive_otherwise(unit, rotation):
    u, v = unit(9, 4), unit(6, 4, seed=1)
    turn = rotation(4)
    assert klot_loss(u, v, u @ turn, v @ turn, 0.1, steps=300).abs() < 1e-9
    assert klot_loss(u, v, unit(9, 4, seed=7), v, 0.1, steps=300) > 0.01
    assert klot_loss(u[:0], v, u[:0], v) == 0


def test_a_plan_has_uniform_masses(unit):
    u, v = unit(8, 4), unit(5, 4, seed=1)
    f, g = potentials(u, v, 0.2, 300)
    p = (u @ v.T / 0.2 + f[:, None] + g).exp()
    torch.testing.assert_close(p.sum(0), torch.full((5,), 1 / 5, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(p.sum(1), torch.full((8,), 1 / 8, dtype=torch.float64), rtol=0, atol=1e-8)


def plain_neighbours(rows, anchors, mates, tau, wanted_tau):
    wanted = (rows @ anchors.T / wanted_tau).softmax(1).detach()
    return -(wanted * (rows @ mates.T / tau).log_softmax(1)).sum(1).mean()


@pytest.mark.parametrize("tile", [0, 3, "auto"])
def test_soft_labels_and_their_gradient_are_those_of_the_formula(unit, tile):
    given = [unit(n, 4, seed=i).requires_grad_() for i, n in enumerate((7, 5, 5))]
    expected = plain_neighbours(*given, 0.1, 0.3)
    slopes = torch.autograd.grad(expected, (given[0], given[2]))
    found = neighbour_loss(*given, 0.1, 0.3, tile=tile)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    for ours, theirs in zip(torch.autograd.grad(found, (given[0], given[2])), slopes, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


def test_soft_labels_gradcheck(unit):
    anchors, by = unit(4, 3, seed=2), (unit(5, 3, seed=3), unit(4, 3, seed=4))
    given = unit(5, 3).requires_grad_(), unit(4, 3, seed=1).requires_grad_()
    torch.autograd.gradcheck(lambda x, y: neighbour_loss(x, anchors, y, 0.3, 0.2, by, tile=0), given, fast_mode=True)


def batch(unit, dtype=torch.float32):
    towers = {}
    for number, name in enumerate("ab"):
        ids = torch.arange(10) + 100 * (number + 1)
        ids[:4] = torch.tensor([3, 1, 2, 0]) if number else torch.arange(4)
        towers[name] = Rows(unit(10, 5, seed=number, dtype=dtype), ids)
    return AlignBatch(towers)


@pytest.mark.parametrize("loss", [Klot(KlotConfig()), Neighbours(NeighboursConfig())], ids=["klot", "neighbours"])
def test_components_pair_by_ids_and_never_by_position(unit, loss):
    rows = batch(unit)
    before = loss(rows, LossContext())
    order = torch.tensor([2, 0, 3, 1, 9, 8, 7, 6, 5, 4])
    b = rows.towers["b"]
    after = loss(AlignBatch({"a": rows.towers["a"], "b": Rows(b.z[order], b.ids[order])}), LossContext())
    torch.testing.assert_close(before.loss, after.loss, rtol=1e-4, atol=1e-6)
    assert before.counts and before.terms


def test_klot_of_modalities_is_the_mean_of_both_ways(unit):
    rows = batch(unit, torch.float64)
    found = Klot(KlotConfig(epsilon=0.3, steps=400))(rows, LossContext()).loss
    x, y = rows.towers["a"].z[:4], rows.towers["b"].z[[3, 1, 2, 0]]
    expected = (plain_klot(x, x, y, y, 0.3, 0.3) + plain_klot(y, y, x, x, 0.3, 0.3)) / 2
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


def test_klot_with_reference_rows_and_without(unit):
    rows, loss = batch(unit), Klot(KlotConfig(target="reference"))
    assert loss.needs == {"reference", "unpaired"}
    assert loss(rows, LossContext()).loss == 0  # the teacher has not been asked yet
    for tower in rows.towers.values():
        tower.extras["reference"] = tower.z.clone()
    assert loss(rows, LossContext()).loss.abs() < 1e-3


@pytest.mark.skipif(not HAS_GEOMLOSS, reason="geomloss is not installed")
@pytest.mark.parametrize("blur", [0.05, 0.5])
def test_the_sinkhorn_divergence_of_a_shift_is_half_its_square(unit, blur):
    u = unit(30, 3)
    shift = torch.tensor([0.3, -0.1, 0.2]).double()
    torch.testing.assert_close(
        sinkhorn_divergence(u, u + shift, blur, 0.9), shift.square().sum() / 2, rtol=2e-3, atol=1e-6
    )
    assert sinkhorn_divergence(u, u, blur).abs() < 1e-9 and sinkhorn_divergence(u[:0], u) == 0


@pytest.mark.skipif(not HAS_GEOMLOSS, reason="geomloss is not installed")
@pytest.mark.parametrize("tile", [7, 64])
@pytest.mark.parametrize(("blur", "scaling"), [(0.05, 0.5), (0.3, 0.9), (9.0, 0.5)])
def test_the_sinkhorn_divergence_in_tiles_is_that_of_geomloss(unit, blur, scaling, tile):
    u, v = unit(30, 5, 1).requires_grad_(), (unit(41, 5, 2) + 0.3).requires_grad_()
    low = [x.detach().float().requires_grad_() for x in (u, v)]
    found = []
    for leaves, size in (((u, v), 0), ((u, v), tile), (low, tile)):
        value = sinkhorn_divergence(*leaves, blur, scaling, tile=size)
        found.append([value.double(), *(x.double() for x in torch.autograd.grad(value, leaves))])
    for reference, double, single in zip(*found, strict=True):
        torch.testing.assert_close(double, reference, rtol=1e-10, atol=1e-13)
        torch.testing.assert_close(single, reference, rtol=1e-4, atol=2e-6)


def test_many_rows_or_a_given_tile_need_no_geomloss(unit, monkeypatch):
    monkeypatch.setitem(sys.modules, "geomloss", None)
    u, v = unit(12, 3, 1), unit(9, 3, 2)
    with pytest.raises(ComponentError, match="pip install geomloss, or give train.tile"):
        sinkhorn_divergence(u, v)
    in_tiles = sinkhorn_divergence(u, v, tile=4)
    monkeypatch.setattr(sinkhorn, "WHOLE_ROWS", 8)
    assert sinkhorn_divergence(u, v) == pytest.approx(in_tiles.item(), rel=1e-12)
    assert sinkhorn_divergence(u, u, tile=4).abs() < 1e-9 and sinkhorn_divergence(u[:0], v, tile=4) == 0


@pytest.mark.skipif(not HAS_GEOMLOSS, reason="geomloss is not installed")
def test_the_sinkhorn_component_pulls_the_sets_together(unit):
    rows = batch(unit)
    rows.towers["a"].z = (rows.towers["a"].z + 0.5).requires_grad_()
    out = build(SinkhornConfig(), BuildContext(cache_dir=None))(rows, LossContext())
    out.loss.backward()
    step = rows.towers["a"].z.detach() - 5 * rows.towers["a"].z.grad
    assert sinkhorn_divergence(step, rows.towers["b"].z) < out.loss
