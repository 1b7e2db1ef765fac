from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import normalize

from gentle_core.losses import backward_in_chunks, clip_loss, mk_mmd, sdd, ssl_loss


class Tower(nn.Module):
    def __init__(self, inputs: int, norm: bool):
        super().__init__()
        middle = nn.BatchNorm1d(12) if norm else nn.LayerNorm(12)
        self.layers = nn.Sequential(nn.Linear(inputs, 12), middle, nn.Tanh(), nn.Dropout(0.4), nn.Linear(12, 5))
        self.most = 0

    def forward(self, x):
        self.most = max(self.most, len(x)) if torch.is_grad_enabled() else self.most
        return normalize(self.layers(x), dim=-1)


@pytest.fixture
def setting():
    torch.manual_seed(0)
    towers = nn.ModuleList([Tower(4, True), Tower(6, False)]).double()
    log_scale = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))
    x, y = torch.randn(22, 4, dtype=torch.float64), torch.randn(17, 6, dtype=torch.float64)

    def objective(u, views, v):
        pairs = clip_loss(u[:9], v[:9], log_scale.exp(), tile=4)
        return pairs + ssl_loss(u, views, tile=4) + mk_mmd(u, v, tile=4) + sdd(u, v, tile=4)

    chunks = [x.split(6), (x + 0.1).split(5), y.split(8)]
    return towers, log_scale, chunks, objective


def test_gradient_is_that_of_the_plain_step_with_dropout(setting):
    towers, log_scale, chunks, objective = setting
    plain = copy.deepcopy(towers)
    torch.manual_seed(3)
    a, b = plain
    embedded = [torch.cat([tower(c) for c in part]) for tower, part in zip((a, a, b), chunks, strict=True)]
    expected = objective(*embedded)
    expected.backward()
    scale_gradient, log_scale.grad = log_scale.grad, None
    then = torch.rand(3)

    torch.manual_seed(3)
    a, b = towers
    value = backward_in_chunks(objective, (a, chunks[0]), (a, chunks[1]), (b, chunks[2]))
    assert torch.equal(torch.rand(3), then), "what is drawn afterwards is what a plain step would have left"
    assert value.item() == pytest.approx(expected.item(), rel=1e-12) and not value.requires_grad
    torch.testing.assert_close(log_scale.grad, scale_gradient)
    for (name, p), q in zip(towers.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-9, atol=1e-12, msg=name)
    for (name, p), q in zip(towers.named_buffers(), plain.buffers(), strict=True):
        assert torch.equal(p, q), name
    assert a.most == 6 and b.most == 8, "with a graph, only a chunk at a time"


def test_gradients_add_up_and_frozen_towers_are_left_alone(setting):
    towers, _, chunks, objective = setting
    a, b = towers
    b.requires_grad_(False)
    for _ in range(2):
        torch.manual_seed(1)
        a.eval()  # batch statistics would move
        backward_in_chunks(objective, (a, chunks[0]), (a, chunks[1]), (b, chunks[2]))
        first = a.layers[0].weight.grad.clone() if _ == 0 else first  # noqa: F821
    torch.testing.assert_close(a.layers[0].weight.grad, 2 * first)
    assert all(p.grad is None for p in b.parameters())


def test_bad_calls(setting):
    towers, _, chunks, _ = setting
    with pytest.raises(ValueError, match="at least one chunk"):
        backward_in_chunks(lambda u: u.sum(), (towers[0], []))
    with pytest.raises(ValueError, match="scalar"):
        backward_in_chunks(lambda u: u, (towers[0], chunks[0]))
