"""Activation checkpointing changes memory, not results."""

from __future__ import annotations

import copy

import torch
from torch import nn

from gentle_core.engine.recompute import checkpoint_activations


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.GELU(), nn.Dropout(0.3), nn.Linear(32, 8))

    def forward(self, x):
        return x + self.layers(x)


class Stack(nn.Module):
    def __init__(self, blocks=4):
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.blocks = nn.ModuleList([Block() for _ in range(blocks)])

    def forward(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return x


def kept_bytes(module, x):
    """Bytes that autograd keeps between the passes, parameters aside."""
    own = {p.data_ptr() for p in module.parameters()}
    seen = {}

    def pack(t):
        if t.data_ptr() not in own:
            seen[t.data_ptr()] = t.numel() * t.element_size()
        return t

    torch.manual_seed(3)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        out = module(x)
    kept = sum(seen.values())
    out.square().sum().backward()
    return out.detach(), kept


def test_gradients_statistics_and_dropout_are_the_same_in_less_memory():
    torch.manual_seed(0)
    plain = Stack()
    lean = copy.deepcopy(plain)
    assert checkpoint_activations(lean) == 4
    x = torch.randn(16, 8)
    (one, kept), (two, less) = kept_bytes(plain, x), kept_bytes(lean, x)
    assert torch.equal(one, two) and less < kept / 3
    for (name, a), b in zip(plain.named_parameters(), lean.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad), name
    for (name, a), b in zip(plain.named_buffers(), lean.buffers(), strict=True):
        assert torch.equal(a, b), name
    assert set(plain.state_dict()) == set(lean.state_dict())


def test_a_copy_recomputes_its_own_blocks():
    torch.manual_seed(0)
    lean = Stack()
    checkpoint_activations(lean)
    other = copy.deepcopy(lean)
    kept_bytes(other, torch.randn(4, 8))
    assert all(p.grad is None for p in lean.parameters())
    assert all(p.grad is not None for p in other.parameters())


def test_an_encoder_without_blocks_is_one():
    assert checkpoint_activations(nn.Sequential(nn.Linear(4, 4), nn.Tanh())) == 1
