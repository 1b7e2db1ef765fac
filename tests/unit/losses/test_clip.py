from __future__ import annotations

import math

import pytest
import torch

from gentle_core.batch import AlignBatch, BuildContext, LossContext, Rows
from gentle_core.builtin import ClipConfig
from gentle_core.losses import clip_loss
from gentle_core.losses.clip import build

S = 1 / 0.07


def as_lists(*tensors):
    return [t.tolist() for t in tensors]


def test_equals_the_loop_by_position(unit, reference):
    u, v = unit(5, 4, 1), unit(5, 4, 2)
    expected = reference.clip(*as_lists(u, v), S, list(range(5)), list(range(5)))
    assert clip_loss(u, v, S).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("negatives", ["paired", "all"])
@pytest.mark.parametrize(
    ("ids_u", "ids_v"),
    [
        ([3, 1, 7, 9], [9, 3, 20, 21, 1]),  # unequal counts, other order, unmatched rows on both sides
        ([1, 1, 2, 8], [2, 1, 5, 2, 2]),  # several rows of one sample on either side
        ([4, 5, 6, 7], [4, 14, 15, 16, 17]),  # one pair
        ([4, 4, 4, 4], [4, 4, 4, 4, 4]),
    ],
)
def test_equals_the_loop_by_id(unit, reference, ids_u, ids_v, negatives):
    u, v = unit(4, 3, 1), unit(5, 3, 2)
    ids = torch.tensor(ids_u), torch.tensor(ids_v)
    expected = reference.clip(*as_lists(u, v), S, ids_u, ids_v, negatives)
    assert clip_loss(u, v, S, ids=ids, negatives=negatives).item() == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_ids_in_order_and_positions_agree(unit):
    u, v, ids = unit(6, 4, 1), unit(6, 4, 2), torch.arange(6)
    assert clip_loss(u, v, S, ids=(ids, ids)).item() == pytest.approx(clip_loss(u, v, S).item(), rel=1e-14)


def test_all_equal_gives_log_n(unit):
    same = unit(1, 4).expand(7, 4)
    assert clip_loss(same, same, S).item() == pytest.approx(math.log(7), rel=1e-12)


def test_orthonormal_and_shared_closed_form():
    eye = torch.eye(6, dtype=torch.float64)
    assert clip_loss(eye, eye, S).item() == pytest.approx(math.log1p(5 * math.exp(-S)), rel=1e-9)


def test_several_positives_floor_is_the_entropy_of_the_targets():
    eye = torch.eye(2, dtype=torch.float64)
    u, v = eye, eye.repeat_interleave(3, 0)
    ids = torch.tensor([0, 1]), torch.tensor([0, 0, 0, 1, 1, 1])
    # One way log 3 (three equal captions share the target), the other way 0.
    assert clip_loss(u, v, 1000.0, ids=ids).item() == pytest.approx(math.log(3) / 2, rel=1e-12)


def test_rotation_leaves_it(unit, rotation):
    u, v, q = unit(5, 4, 1), unit(5, 4, 2), rotation(4)
    assert clip_loss(u @ q, v @ q, S).item() == pytest.approx(clip_loss(u, v, S).item(), rel=1e-12)


def test_rows_of_the_logit_gradient_sum_to_zero(unit):
    # Logits are s·u·vᵀ; with v orthonormal dL/du = s·(dL/dlogits) in v's basis, so its row sums are those of dL/dlogits
    # for the direction u → v, and together with v → u the whole still sums to 0.
    u, v = unit(5, 5, 1).requires_grad_(), torch.eye(5, dtype=torch.float64)
    logits = S * (u @ v.T)
    logits.retain_grad()
    (logits.logsumexp(1) - logits.diagonal()).mean().backward()
    assert logits.grad.sum(1).abs().max() < 1e-15
    u.grad = None
    clip_loss(u, v, S).backward()
    assert abs(u.grad.sum().item()) < 1e-13


@pytest.mark.parametrize("negatives", ["paired", "all"])
def test_gradients(unit, negatives):
    u, v = unit(4, 3, 1).requires_grad_(), unit(5, 3, 2).requires_grad_()
    s = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    ids = torch.tensor([3, 1, 7, 3]), torch.tensor([9, 3, 20, 21, 1])
    assert torch.autograd.gradcheck(lambda *x: clip_loss(*x, ids=ids, negatives=negatives), (u, v, s))


@pytest.mark.parametrize("count", [0, 1])
def test_no_or_one_pair_is_exactly_zero_with_a_graph(unit, count):
    u, v = unit(3, 4, 1).requires_grad_(), unit(2, 4, 2).requires_grad_()
    s = torch.tensor(S, dtype=torch.float64, requires_grad=True)
    ids = torch.arange(3), torch.tensor([0 if count else 8, 9])
    loss = clip_loss(u, v, s, ids=ids)
    loss.backward()
    assert loss.item() == 0
    assert all((x.grad == 0).all() for x in (u, v, s))


def test_empty_sides():
    empty = torch.zeros(0, 4, requires_grad=True)
    clip_loss(empty, empty, S).backward()
    ids = torch.zeros(0, dtype=torch.long), torch.arange(3)
    assert clip_loss(empty, torch.eye(3, 4), S, ids=ids).item() == 0


def test_bad_calls():
    with pytest.raises(ValueError, match="3 and 4"):
        clip_loss(torch.eye(3, 4), torch.eye(4), S)
    with pytest.raises(ValueError, match="choose"):
        clip_loss(torch.eye(3), torch.eye(3), S, negatives="some")


def test_half_precision_is_lifted(unit):
    u, v = unit(6, 4, 1), unit(6, 4, 2)
    expected = clip_loss(u.half().double(), v.half().double(), 100.0).item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = clip_loss(u.half(), v.half(), 100.0)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(expected, rel=1e-5)
    assert clip_loss(u, v, 1.0).dtype == torch.float64


def batch_of(unit, *sizes):
    ids = [torch.arange(n) + 100 * (n - 4) * (n > 4) for n in sizes]
    return AlignBatch({f"t{i}": Rows(unit(n, 4, i), ids[i]) for i, n in enumerate(sizes)})


def test_component_averages_over_pairs(unit):
    batch = AlignBatch({name: Rows(unit(4, 4, i), torch.arange(4)) for i, name in enumerate("abc")})
    loss = build(ClipConfig(), BuildContext(cache_dir=None))
    out = loss(batch, LossContext())
    pairs = [("a", "b"), ("a", "c"), ("b", "c")]
    values = [clip_loss(batch.towers[x].z, batch.towers[y].z, 1 / 0.07).item() for x, y in pairs]
    assert out.loss.item() == pytest.approx(sum(values) / 3, rel=1e-6)
    assert [out.logs[f"clip/{x}-{y}"] for x, y in pairs] == pytest.approx(values, rel=1e-6)
    named = loss(batch, LossContext(pairs=(("a", "c"),)))
    assert named.loss.item() == pytest.approx(values[1], rel=1e-6)
    assert named.counts == {"clip": 4}


def test_component_clamps_the_scale(unit):
    loss = build(ClipConfig(), BuildContext(cache_dir=None))
    assert loss.log_scale.item() == pytest.approx(math.log(1 / 0.07))
    loss.log_scale.data.fill_(9.0)
    assert loss.logit_scale.item() == pytest.approx(100.0)
    loss.post_step(LossContext())
    assert loss.log_scale.item() == pytest.approx(math.log(100.0))
    assert len(loss.param_groups().min) == 1
    assert build(ClipConfig(learn_temperature=False), BuildContext(cache_dir=None)).param_groups().min == []
