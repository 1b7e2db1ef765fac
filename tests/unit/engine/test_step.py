"""The gradient of a step is that of the whole batch, however the towers' work is cut."""

from __future__ import annotations

import itertools

import pytest
import torch

from gentle_core.batch import LossContext, LossOut
from gentle_core.data.loader import Chunk, TowerInputs
from gentle_core.engine.backend import LocalPasses
from gentle_core.engine.step import forward_backward
from gentle_core.engine.towers import AlignedModel, ProjectionHead, Tower
from gentle_core.losses import clip_loss, mk_mmd, sdd, ssl_loss
from gentle_core.modules import EncoderModule, LossModule
from gentle_core.recipe.model import HeadTable


class Encoder(EncoderModule):
    width = 6

    def __init__(self, dropout: float, norm: bool):
        super().__init__()
        parts = [torch.nn.BatchNorm1d(10)] if norm else []
        self.net = torch.nn.Sequential(
            torch.nn.Linear(4, 10), *parts, torch.nn.Tanh(), torch.nn.Dropout(dropout), torch.nn.Linear(10, 6)
        )

    def forward(self, inputs):
        return self.net(inputs)


class Everything(LossModule):
    """All four terms on plain tensors."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(5.0, dtype=torch.float64))

    def forward(self, batch, ctx):
        a, b = batch.towers["a"], batch.towers["b"]
        i, j = batch.pairs("a", "b")
        terms = {
            "clip": clip_loss(a.z[i], b.z[j], self.scale), "mmd": mk_mmd(a.z, b.z), "sdd": sdd(a.z, b.z),
            "ssl": ssl_loss(a.z, a.views) + ssl_loss(b.z, b.views),
        }  # fmt: skip
        return LossOut(sum(terms.values()), terms)


def model(dropout=0.0, norm=False) -> AlignedModel:
    torch.manual_seed(0)
    table = HeadTable(dimension=5, hidden=7, dropout=dropout)
    towers = {n: Tower(Encoder(dropout, norm), ProjectionHead(6, table), n, False) for n in "ab"}
    return AlignedModel(towers).double().train()


def inputs(chunks: int, unmatched: dict[str, int]) -> dict[str, TowerInputs]:
    torch.manual_seed(1)
    found, fresh = {}, itertools.count(100)
    for tower in "ab":
        views = []
        for _ in range(2):
            parts = []
            for group, rows in (("matched", 6), ("unmatched", unmatched[tower])):
                data = torch.randn(rows, 4, dtype=torch.float64)
                parts += [Chunk(group, i, len(part), part) for i, part in enumerate(data.chunk(chunks) if rows else ())]
            views.append(parts)
        rows = 6 + unmatched[tower]
        ids = torch.tensor([*range(6), *(next(fresh) for _ in range(unmatched[tower]))])
        found[tower] = TowerInputs(
            ids=ids, items=[str(i) for i in range(rows)], matched=6, parts=[torch.arange(rows)], views=views
        )
    return found


def gradients(net, chunks, recompute, unmatched):
    loss = Everything()
    context = LossContext(step=3, steps=10, pairs=(("a", "b"),))
    out = forward_backward(
        LocalPasses(net),
        loss,
        inputs(chunks, unmatched),
        context,
        seed=7,
        cached={"a": False, "b": False},
        recompute=recompute,
    )
    named = {n: p.grad.clone() for n, p in net.named_parameters()}
    return out.out.loss.item(), named, loss.scale.grad


@pytest.mark.parametrize("unmatched", [{"a": 8, "b": 8}, {"a": 9, "b": 4}, {"a": 0, "b": 0}])
def test_chunks_leave_loss_and_gradient_of_the_whole_batch(unmatched):
    whole = gradients(model(), 1, False, unmatched)
    for chunks in (1, 2, 3):
        cut = gradients(model(), chunks, True, unmatched)
        assert cut[0] == pytest.approx(whole[0], rel=1e-12)
        torch.testing.assert_close(cut[2], whole[2])
        for name, gradient in whole[1].items():
            torch.testing.assert_close(cut[1][name], gradient, rtol=1e-9, atol=1e-12)


def test_the_second_pass_replays_dropout_and_counts_no_batch_twice():
    unmatched = {"a": 8, "b": 8}
    plain, again = model(dropout=0.4, norm=True), model(dropout=0.4, norm=True)
    kept = gradients(plain, 2, False, unmatched)
    recomputed = gradients(again, 2, True, unmatched)
    assert kept[0] == recomputed[0]
    for name, gradient in kept[1].items():
        torch.testing.assert_close(recomputed[1][name], gradient, rtol=1e-9, atol=1e-12)
    for (name, one), two in zip(plain.named_buffers(), again.buffers(), strict=True):
        assert torch.equal(one, two), name


def test_matched_rows_get_the_same_dropout_without_the_unmatched():
    def matched_projection(unmatched):
        seen = {}

        class Spy(LossModule):
            def forward(self, batch, ctx):
                seen.update({t: r.raw[:6].detach().clone() for t, r in batch.towers.items()})
                return LossOut(batch.towers["a"].z.sum())

        forward_backward(
            LocalPasses(model(dropout=0.5, norm=True)), Spy(), inputs(1, unmatched), LossContext(), seed=7,
            cached={"a": False, "b": False},
        )  # fmt: skip
        return seen

    # The inputs of tower a are drawn first, so they agree in both settings.
    assert torch.equal(matched_projection({"a": 0, "b": 8})["a"], matched_projection({"a": 0, "b": 0})["a"])
    with_pool = matched_projection({"a": 5, "b": 0})["a"]
    assert torch.equal(with_pool, matched_projection({"a": 0, "b": 0})["a"])


def test_frozen_encoders_get_no_gradient_and_stay_in_eval_mode():
    net = model(dropout=0.5)
    net.tower("a").frozen = True
    net.tower("a").encoder.requires_grad_(False)
    net.train()
    assert not net.tower("a").encoder.training
    forward_backward(
        LocalPasses(net),
        Everything(),
        inputs(1, {"a": 3, "b": 3}),
        LossContext(),
        seed=0,
        cached={"a": False, "b": False},
    )
    assert all(p.grad is None for p in net.tower("a").encoder.parameters())
    assert all(p.grad is not None for p in net.tower("a").head.parameters())


def test_term_gradients_are_those_of_the_weighted_terms():
    class Two(LossModule):
        def forward(self, batch, ctx):
            a = batch.towers["a"].raw
            terms = {"x": a.sum(), "y": (a**2).sum() / 2}
            return LossOut(terms["x"] + 3 * terms["y"], terms, weights={"x": 1.0, "y": 3.0})

    given = inputs(1, {"a": 2, "b": 2})
    out = forward_backward(
        LocalPasses(model()), Two(), given, LossContext(), seed=0, cached={"a": False, "b": False}, term_gradients=True
    )
    assert out.term_gradients["x"] == pytest.approx((8 * 5) ** 0.5)
    assert out.term_gradients["y"] > 0
