import math

import pytest
import torch
from torch.nn import functional as F

from gentle_core.batch import AlignBatch, LossContext, Rows
from gentle_core.builtin import PseudoPairsConfig
from gentle_core.losses import clip_loss
from gentle_core.losses.pseudo import PseudoPairs, weighted_clip_loss


def unit(n, d=6, seed=0, dtype=torch.float64):
    return F.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=dtype), dim=1)


def slow(u, v, s, w):
    """One pair at a time, in float64."""
    total = 0.0
    for i in range(len(u)):
        for x, y in ((u, v), (v, u)):
            logits = [s * float(x[i] @ y[j]) for j in range(len(y))]
            total += float(w[i]) * (math.log(sum(math.exp(t - max(logits)) for t in logits)) + max(logits) - logits[i])
    return total / (2 * float(w.sum()))


@pytest.mark.parametrize("tile", [0, 3])
def test_it_is_the_weighted_mean_of_cross_entropies(tile):
    u, v, w = unit(11), unit(11, seed=1), torch.rand(11, dtype=torch.float64) + 0.1
    assert weighted_clip_loss(u, v, 12.0, w, tile=tile).item() == pytest.approx(slow(u, v, 12.0, w), rel=1e-12)


@pytest.mark.parametrize("tile", [0, 3])
def test_gradients(tile):
    u, v, s = unit(7).requires_grad_(), unit(7, seed=1).requires_grad_(), torch.tensor(9.0, dtype=torch.float64)
    w = torch.rand(7, dtype=torch.float64) + 0.1
    torch.autograd.gradcheck(lambda *x: weighted_clip_loss(*x, w, tile=tile), (u, v, s.requires_grad_()))


def test_equal_weights_give_the_loss_over_pairs():
    u, v = unit(9), unit(9, seed=1)
    for c in (1.0, 0.2):
        found = weighted_clip_loss(u, v, 14.0, torch.full((9,), c, dtype=torch.float64))
        assert found.item() == pytest.approx(clip_loss(u, v, 14.0).item(), rel=1e-12)


def test_a_pair_without_weight_is_a_negative_only():
    u, v = unit(5).requires_grad_(), unit(5, seed=1).requires_grad_()
    weighted_clip_loss(u, v, 5.0, torch.tensor([1.0, 1, 1, 1, 0], dtype=torch.float64)).backward()
    assert u.grad[4].norm() > 0


@pytest.mark.parametrize("n, weight", [(0, 1.0), (3, 0.0)])
def test_nothing_to_learn_from_is_0_with_a_graph(n, weight):
    u, v = unit(n).requires_grad_(), unit(n, seed=1).requires_grad_()
    loss = weighted_clip_loss(u, v, 5.0, torch.full((n,), weight, dtype=torch.float64))
    loss.backward()
    assert loss.item() == 0 and u.grad.abs().sum() == 0


def rows(z, ids, weight):
    return Rows(z=z, ids=ids, extras={"weight": weight})


def test_the_component_matches_rows_by_id_and_leaves_other_rows_alone():
    u, v, w = unit(6), unit(6, seed=1), torch.rand(6, dtype=torch.float64) + 0.1
    shuffled = torch.tensor([3, 0, 5, 1, 4, 2])
    ids = torch.arange(6)
    towers = {"a": Rows(unit(4).requires_grad_(), torch.arange(4)), "b": Rows(unit(3), torch.arange(3))}
    batch = AlignBatch(towers, {"a": rows(u, ids, w), "b": rows(v[shuffled], ids[shuffled], w[shuffled])})
    out = PseudoPairs(PseudoPairsConfig())(batch, LossContext())
    assert out.loss.item() == pytest.approx(slow(u, v, 1 / 0.07, w), rel=1e-5)
    assert out.counts == {"pseudo": 6}
    assert not torch.autograd.grad(out.loss, towers["a"].z, allow_unused=True)[0]


def test_a_batch_without_pseudo_pairs():
    towers = {name: Rows(unit(4).requires_grad_(), torch.arange(4)) for name in ("a", "b")}
    out = PseudoPairs(PseudoPairsConfig())(AlignBatch(towers), LossContext())
    out.loss.backward()
    assert out.loss.item() == 0 and out.counts == {"pseudo": 0}
