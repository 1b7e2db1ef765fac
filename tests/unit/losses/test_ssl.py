from __future__ import annotations

import math

import pytest
import torch

from gentle_core.batch import AlignBatch, BuildContext, LossContext, Rows
from gentle_core.builtin import SslConfig
from gentle_core.errors import ComponentError
from gentle_core.losses import ssl_loss
from gentle_core.losses.ssl import build

FORMS = ["ntxent", "simcse", "eq7"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("count", [1, 2, 5])
def test_equals_the_loop(unit, reference, form, count):
    z, z_pos = unit(count, 4, 1), unit(count, 4, 2)
    expected = reference.ssl(z.tolist(), z_pos.tolist(), 0.05, form)
    assert ssl_loss(z, z_pos, form=form).item() == pytest.approx(expected, rel=1e-12, abs=1e-13)


def test_closed_forms():
    same = torch.ones(1, 4, dtype=torch.float64).expand(6, 4) / 2
    eye = torch.eye(6, dtype=torch.float64)
    for form, equal, orthonormal in (
        ("ntxent", math.log(11), math.log(1 + 10 * math.exp(-20))),
        ("simcse", math.log(6), math.log(1 + 5 * math.exp(-20))),
        ("eq7", math.log(6), math.log(1 + 5 * math.exp(-20))),
    ):
        assert ssl_loss(same, same, form=form).item() == pytest.approx(equal, rel=1e-12)
        assert ssl_loss(eye, eye, form=form).item() == pytest.approx(orthonormal, rel=1e-9)


def test_eq7_leaves_the_positive_out_of_the_denominator(unit):
    z = unit(4, 4)
    # Opposite views: the denominator does not notice, so the loss grows by exactly the positive's 2/τ.
    assert (ssl_loss(z, -z, form="eq7") - ssl_loss(z, z, form="eq7")).item() == pytest.approx(40, rel=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_gradients_and_invariance(unit, rotation, form):
    z, z_pos = unit(4, 3, 1).requires_grad_(), unit(4, 3, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda *x: ssl_loss(*x, 0.3, form), (z, z_pos))
    q, order = rotation(3), torch.tensor([2, 0, 3, 1])
    value = ssl_loss(z, z_pos, 0.3, form).item()
    assert ssl_loss(z @ q, z_pos @ q, 0.3, form).item() == pytest.approx(value, rel=1e-12)
    assert ssl_loss(z[order], z_pos[order], 0.3, form).item() == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_no_rows_and_one_row(unit, form):
    none, one = torch.zeros(0, 4, requires_grad=True), unit(1, 4).requires_grad_()
    loss = ssl_loss(none, none, form=form)
    loss.backward()
    assert loss.item() == 0
    loss = ssl_loss(one, one.clone(), form=form)
    loss.backward()
    assert loss.item() == 0 if form != "eq7" else abs(loss.item()) < 1e-12
    assert one.grad.isfinite().all()


def test_bad_calls(unit):
    with pytest.raises(ValueError, match="shape"):
        ssl_loss(unit(3, 4), unit(2, 4))
    with pytest.raises(ValueError, match="choose"):
        ssl_loss(unit(3, 4), unit(3, 4), form="other")


def test_half_precision_is_lifted(unit):
    z, z_pos = unit(6, 4, 1).half(), unit(6, 4, 2).half()
    expected = ssl_loss(z.double(), z_pos.double()).item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = ssl_loss(z, z_pos)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(expected, rel=1e-5)


def test_component_sums_over_towers(unit):
    loss = build(SslConfig(temperature=0.2), BuildContext(cache_dir=None))
    batch = AlignBatch(
        {name: Rows(unit(n, 4, n), torch.arange(n), views=unit(n, 4, n + 1)) for name, n in (("a", 4), ("b", 7))}
    )
    out = loss(batch, LossContext())
    values = {f"ssl/{name}": ssl_loss(rows.z, rows.views, 0.2).item() for name, rows in batch.towers.items()}
    assert {name: term.item() for name, term in out.terms.items()} == pytest.approx(values)
    assert out.loss.item() == pytest.approx(sum(values.values()))
    assert out.counts == {"ssl/a": 4, "ssl/b": 7}


def test_component_without_views(unit):
    loss = build(SslConfig(), BuildContext(cache_dir=None))
    batch = AlignBatch({"a": Rows(unit(3, 4), torch.arange(3))})
    assert loss(batch, LossContext(training=False)).loss.item() == 0
    with pytest.raises(ComponentError, match="second view of tower 'a'"):
        loss(batch, LossContext())
