from __future__ import annotations

import itertools

import pytest
import torch

from gentle_core.batch import AlignBatch, BuildContext, LossContext, Rows
from gentle_core.builtin import SddConfig
from gentle_core.losses import mk_mmd, sdd
from gentle_core.losses.density import build, sdd_floor

DOUBLE = torch.float64


def normal(count: int, d: int, seed: int, scale: float = 1.0, shift: float = 0.0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, d, generator=generator, dtype=DOUBLE) * scale + shift


@pytest.mark.parametrize(("m", "n"), [(5, 5), (3, 7), (2, 2)])
@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("exclude_self", [True, False])
def test_equals_the_loop(reference, m, n, normalise, exclude_self):
    u, v = normal(m, 4, 1), normal(n, 4, 2, 1.5, 0.3)
    for b in (1.0, 0.6):
        expected = reference.sdd(u.tolist(), v.tolist(), b, normalise, exclude_self)
        value = sdd(u, v, b, normalise, exclude_self).item()
        assert value == pytest.approx(expected, rel=1e-10, abs=1e-14)


def test_identical_sets_give_zero(unit):
    u = unit(9, 4)
    assert sdd(u, u).item() == pytest.approx(0, abs=1e-15)
    assert sdd(u, u.flip(0), normalise=False).item() == pytest.approx(0, abs=1e-15)
    assert sdd(u.float(), u.float()).item() == pytest.approx(0, abs=1e-8)


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("exclude_self", [True, False])
def test_gradients(normalise, exclude_self):
    u, v = normal(4, 3, 1).requires_grad_(), normal(5, 3, 2, 1.4, 0.5).requires_grad_()
    assert torch.autograd.gradcheck(lambda *x: sdd(*x, 0.8, normalise, exclude_self), (u, v))


def test_detached_target():
    u, v = normal(5, 3, 1).requires_grad_(), normal(6, 3, 2).requires_grad_()
    assert sdd(u, v, detach_target=True).item() == pytest.approx(sdd(u, v).item(), rel=1e-14)
    moving, fixed = (torch.autograd.grad(sdd(u, v, detach_target=flag), u)[0] for flag in (False, True))
    assert (moving - fixed).abs().max() > 1e-4


def test_euler_scale_and_translation_identities():
    u, v = normal(7, 4, 1).requires_grad_(), normal(9, 4, 2, 2.0).requires_grad_()
    sdd(u, v).backward()
    assert u.grad.norm() > 1e-2
    assert abs(((u * u.grad).sum() + (v * v.grad).sum()).item()) < 1e-12
    assert (u.grad.sum(0) + v.grad.sum(0)).abs().max() < 1e-13


@pytest.mark.parametrize("scale", [1e-6, 1e-2, 1e4])
def test_collapse_is_not_rewarded(scale):
    u, v = normal(40, 6, 1), normal(30, 6, 2, 1.3)
    value = sdd(u, v).item()
    assert sdd(u * scale, v * scale).item() == pytest.approx(value, rel=1e-9)
    assert sdd((u * scale).float(), (v * scale).float()).item() == pytest.approx(value, rel=1e-4)


def test_permutation_rotation_and_symmetry(rotation):
    u, v, q = normal(7, 4, 1), normal(9, 4, 2, 1.2), rotation(4)
    value = sdd(u, v).item()
    for other in (sdd(u.flip(0), v), sdd(u @ q, v @ q), sdd(v, u), sdd(u + 5, v + 5)):
        assert other.item() == pytest.approx(value, rel=1e-11)


def test_blind_to_a_gap_but_not_when_raw():
    """Normalised densities see no shift along free directions; the raw ones do, and so does MMD."""
    base_u, base_v = normal(60, 4, 1), normal(60, 4, 2)
    pad = torch.zeros(60, 1, dtype=DOUBLE)
    values, raw, means = [], [], []
    for gap in (0.0, 2.0, 8.0):
        u, v = torch.cat([base_u, pad], 1), torch.cat([base_v, pad + gap], 1)
        values.append(sdd(u, v).item())
        raw.append(sdd(u, v, normalise=False).item())
        means.append(mk_mmd(u, v, (1, 0)).item())
    assert max(values) < 1.01 * min(values)
    assert raw[0] < raw[1] < raw[2] and raw[2] > 10 * raw[0]
    assert means[2] > 10 * means[0]
    cross = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=DOUBLE)
    assert sdd(cross, cross.flip(1)).item() == pytest.approx(0, abs=1e-15)


def test_the_untrained_tower_in_a_tight_cone():
    """The plain form takes the logarithm of densities that have underflowed to 0."""
    cone = torch.nn.functional.normalize(normal(64, 32, 1, 0.01, 1.0), dim=1).float()
    wide = torch.nn.functional.normalize(normal(64, 32, 2), dim=1).float()
    plain = torch.exp(-torch.cdist(wide, cone).square() / cone.var(0).sum()).sum(1)
    assert (plain == 0).any()
    u, v = cone.clone().requires_grad_(), wide.clone().requires_grad_()
    value = sdd(u, v)
    value.backward()
    assert value.item() == pytest.approx(sdd(cone.double(), wide.double()).item(), rel=1e-4)
    assert value.item() > 10
    assert u.grad.isfinite().all() and v.grad.isfinite().all()


def test_near_duplicates_and_total_collapse():
    base = normal(20, 8, 1)
    near = torch.cat([base, base + 1e-9])
    value = sdd(near.float(), normal(30, 8, 2).float()).item()
    assert value == pytest.approx(sdd(near, normal(30, 8, 2)).item(), rel=1e-4)
    point, zeros, rows = torch.ones(4, 8), torch.zeros(4, 8), normal(6, 8, 3).float()
    for u, v in itertools.product((point, zeros, 1e-6 * rows, rows), (point, zeros, 1e4 * rows)):
        u, v = u.clone().requires_grad_(), v.clone().requires_grad_()
        loss = sdd(u, v)
        loss.backward()
        assert loss.isfinite() and u.grad.isfinite().all() and v.grad.isfinite().all()


@pytest.mark.parametrize(("m", "n"), [(0, 0), (0, 3), (1, 1), (1, 5), (4, 1)])
def test_too_few_rows_give_exactly_zero_with_a_graph(m, n):
    u, v = normal(m, 3, 1).requires_grad_(), normal(n, 3, 2).requires_grad_()
    loss = sdd(u, v)
    loss.backward()
    assert loss.item() == 0
    assert (u.grad == 0).all() and (v.grad == 0).all()


def test_it_is_a_quantity_of_the_whole_batch(unit):
    u, v = unit(256, 16, 1), unit(256, 16, 2)
    parts = [sdd(a, b).item() for a, b in zip(u.chunk(4), v.chunk(4), strict=True)]
    assert sum(parts) / 4 > 1.15 * sdd(u, v).item()


def test_floor_falls_with_the_batch(unit):
    small, large = (sdd_floor(unit(n, 16, 1), unit(n, 16, 2)).item() for n in (64, 512))
    assert small > 4 * large
    assert sdd(unit(64, 16, 1), unit(64, 16, 2)).item() == pytest.approx(small, rel=0.5)


def test_half_precision_is_lifted(unit):
    u, v = unit(30, 4, 1).half(), unit(20, 4, 2).half()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = sdd(u, v)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(sdd(u.double(), v.double()).item(), rel=1e-4)


def test_component(unit):
    sizes = {"a": 8, "b": 9, "c": 12}
    batch = AlignBatch({name: Rows(unit(n, 4, n), torch.arange(n)) for name, n in sizes.items()})
    loss = build(SddConfig(bandwidth=0.7), BuildContext(cache_dir=None))
    out = loss(batch, LossContext())
    values = [sdd(batch.towers[x].z, batch.towers[y].z, 0.7).item() for x, y in itertools.combinations("abc", 2)]
    assert out.loss.item() == pytest.approx(sum(values) / 3)
    assert out.logs["sdd/a-b"] == pytest.approx(values[0])
    assert {"sdd_floor", "sigma/a", "sigma/b", "sigma/c"} <= set(out.logs)
    assert out.counts == {"sdd": 29}


def test_the_floor_is_computed_where_someone_reads_it():
    batch = AlignBatch({name: Rows(z=normal(9, 4, seed), ids=torch.arange(9)) for seed, name in enumerate("ab")})
    loss = build(SddConfig(), BuildContext(cache_dir=None))
    read, unread = (loss(batch, LossContext(logs=logs)) for logs in (True, False))
    assert "sdd_floor" in read.logs and not unread.logs
    assert torch.equal(read.loss, unread.loss)
