"""Tiled and dense reductions agree, in values and gradients; numerics at float32."""

from __future__ import annotations

import importlib
import itertools
from functools import partial

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from gentle_core import builtin
from gentle_core.batch import AlignBatch, BuildContext, LossContext, Rows
from gentle_core.losses import clip_loss, mk_mmd, products, sdd, ssl_loss, tileplan
from gentle_core.losses.cells import Cells

DOUBLE = torch.float64
SPECS = {f"core/{spec.name}": spec for spec in builtin.gentle_losses()}
IDS = {
    "one to one": ([3, 1, 7, 9, 4, 30], [9, 3, 20, 21, 1, 4, 22]),
    "several": ([1, 1, 2, 8, 2, 5], [2, 1, 5, 2, 2, 40, 41]),
    "far apart": ([1, 50, 51, 52, 53, 2], [2, 60, 61, 62, 63, 64, 1]),  # whole tiles without a matched row
}


def ids(name):
    return tuple(torch.tensor(x) for x in IDS[name])


TERMS = {
    "clip by position": lambda u, v, s, tile: clip_loss(u, v[:6], s, tile=tile),
    **{
        f"clip {name} {negatives}": lambda u, v, s, tile, name=name, negatives=negatives: clip_loss(
            u, v, s, ids=ids(name), negatives=negatives, tile=tile
        )
        for name, negatives in itertools.product(IDS, ("paired", "all"))
    },
    **{
        f"ssl {form}": lambda u, v, s, tile, form=form: ssl_loss(u, v[:6], 0.3, form, tile=tile) * s
        for form in ("ntxent", "simcse", "eq7")
    },
    **{
        f"mmd degree {degree}": lambda u, v, s, tile, degree=degree: mk_mmd(
            u, v, torch.stack([s, 1 / s]), degree=degree, offset=0.7, tile=tile
        )
        for degree in (1, 2, 3)
    },
    "mmd bandwidth": lambda u, v, s, tile: mk_mmd(u, v, bandwidth=s / 9, tile=tile),
    **{
        f"sdd {flags}": lambda u, v, s, tile, flags=flags: sdd(u * s, v * s, 0.8, *flags, tile=tile)
        for flags in itertools.product((True, False), repeat=3)
    },
}


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("tile", [1, 4, 64])
def test_tiled_equals_dense(unit, name, tile):
    def value_and_gradients(tile):
        leaves = [unit(6, 4, 1, centre=0.2).requires_grad_(), unit(7, 4, 2).requires_grad_()]
        leaves.append(torch.tensor(6.0, dtype=DOUBLE, requires_grad=True))
        value = TERMS[name](*leaves, tile)
        gradients = torch.autograd.grad(value, leaves, allow_unused=True)
        return [value, *(torch.zeros(()) if g is None else g for g in gradients)]

    for tiled, dense in zip(value_and_gradients(tile), value_and_gradients(0), strict=True):
        assert torch.allclose(tiled, dense, rtol=1e-11, atol=1e-13)


def test_one_set_against_itself(unit):
    values = []
    for tile in (0, 2):
        u = unit(5, 4).requires_grad_()
        loss = sdd(u, u, tile=tile, detach_target=True) + clip_loss(u, u, 5.0, tile=tile) + mk_mmd(u, u, tile=tile)
        values.append((loss.item(), torch.autograd.grad(loss, u)[0]))
    assert values[0][0] == pytest.approx(values[1][0], rel=1e-12)
    assert torch.allclose(values[0][1], values[1][1], rtol=1e-11, atol=1e-13)


def make(name, options):
    module, factory = SPECS[name].target.split(":")
    return getattr(importlib.import_module(module), factory)(SPECS[name].config(**options), context)


context = BuildContext(cache_dir=None, loss=make)


def three_towers(unit):
    towers = {}
    for i, (name, size) in enumerate({"a": 9, "b": 11, "c": 12}.items()):
        rows = torch.arange(size)
        rows[::2] += 100 * (i + 1)  # every other row is on its own
        towers[name] = Rows(unit(size, 4, i), rows, views=unit(size, 4, i + 10))
    return AlignBatch(towers)


@pytest.mark.parametrize("options", [{}, {"clip": {"negatives": "all"}, "mmd": {"degree": 3}}, {"mu": 0, "eta": 0}])
@pytest.mark.parametrize("tile", [3, 5])
def test_the_whole_objective(unit, options, tile):
    found = []
    for size in (0, tile):
        batch, loss = three_towers(unit), make("core/gentle", options)
        leaves = [x.requires_grad_() for rows in batch.towers.values() for x in (rows.z, rows.views)]
        leaves += list(loss.parameters())
        out = loss(batch, LossContext(tile=size))
        out.loss.backward()
        found.append((out, [torch.zeros(()) if x.grad is None else x.grad for x in leaves]))
    (dense, gradients), (tiled, others) = found
    assert tiled.loss.item() == pytest.approx(dense.loss.item(), rel=1e-6)  # float32 parameters in float64 sums
    assert {k: v.item() for k, v in tiled.terms.items()} == pytest.approx({k: v.item() for k, v in dense.terms.items()})
    for a, b in zip(gradients, others, strict=True):
        assert torch.allclose(a, b, rtol=1e-6, atol=1e-9)


def test_one_product_for_each_pair_of_sets(unit, monkeypatch):
    """CLIP, MMD and SDD of a pair of towers, and SSL, share their distances."""
    plans = []
    run = Cells.run
    monkeypatch.setattr(Cells, "run", lambda self: (plans.append(self), run(self))[1])
    batch = three_towers(unit)
    batch.towers.pop("c")
    make("core/gentle", {"mmd": {"bandwidth": 1.0}})(batch, LossContext(training=False))
    whole = max(plans, key=lambda plan: len(plan.blocks))
    kernels = sorted(len(block.kernels) for block in whole.blocks.values())
    # 2 × views within, 2 × across views; z within: SSL, SDD, MMD; between towers: CLIP, MMD, SDD both ways
    assert kernels == [1, 1, 1, 1, 3, 3, 4]


def test_second_derivative_is_refused_clearly(unit):
    u, v = unit(4, 3, 1).requires_grad_(), unit(4, 3, 2)
    gradient = torch.autograd.grad(sdd(u, v, tile=0), u, create_graph=True)[0]
    gradient.square().sum().backward()
    with pytest.raises(RuntimeError, match="tile=0"):
        torch.autograd.grad(sdd(u, v, tile=2), u, create_graph=True)


@pytest.mark.parametrize("tile", [-1, 0.5, "big"])
def test_bad_tile(unit, tile):
    with pytest.raises(ValueError, match="tile="):
        sdd(unit(4, 3), unit(4, 3, 1), tile=tile)


def test_memory_does_not_grow_with_the_square_of_the_rows(unit):
    """torch's own account of its allocations; one table of cells alone would take 16 MiB."""
    u, v = (unit(2048, 8, seed, torch.float32).requires_grad_() for seed in (1, 2))
    # The median of the distances is taken among 1,024 rows, however many there are.
    terms = OURS | {"mmd": partial(mk_mmd, bandwidth=0.5)}
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        for term in (partial(term, tile=128) for term in terms.values()):
            torch.autograd.grad(term(u, v), (u, v))
    events = [(e.start_ns(), e.nbytes()) for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
    assert max(itertools.accumulate(nbytes for _, nbytes in sorted(events))) < 3 * 2**20


@pytest.mark.parametrize("onednn", [True, False])
def test_the_product_either_way(unit, monkeypatch, onednn):
    if not onednn:
        monkeypatch.setattr(products, "_onednn", lambda: False)
    x, y = unit(33, 20, 1, torch.float32), unit(20, 17, 2, torch.float32)
    expected = x.double() @ y.double()
    for a, b in ((x, y), (x.T.contiguous().T, y.T.contiguous().T)):
        product = products.times_transposed(a, b.T, 0.5, out=torch.full((33, 17), torch.nan))
        assert torch.allclose(product.double(), expected / 2, atol=1e-6)
        total = torch.ones(33, 17)
        products.add_product(total, a, b)
        assert torch.allclose(total.double(), expected + 1, atol=1e-6)
    wide = products.times_transposed(x.double(), y.double().T, out=torch.empty(33, 17, dtype=DOUBLE))
    assert wide.dtype == DOUBLE and torch.allclose(wide, expected, atol=1e-14)


def test_gradient_of_one_side_only(unit):
    u, v = unit(5, 3, 1).requires_grad_(), unit(6, 3, 2)
    one = torch.autograd.grad(sdd(u, v, tile=2), u)[0]
    both = torch.autograd.grad(sdd(u, v.clone().requires_grad_(), tile=2), u)[0]
    assert torch.equal(one, both)


@pytest.mark.parametrize("tile", [3, 64])
@pytest.mark.parametrize("cells", [0, 150, 10**6])
def test_what_is_kept_for_the_backward_pass_changes_no_bit(unit, monkeypatch, cells, tile):
    def gradients(cells):
        monkeypatch.setattr(tileplan.Kept, "beside", lambda sets: tileplan.Kept(cells))
        batch, loss = three_towers(unit), make("core/gentle", {"mmd": {"bandwidth": 1.0}})
        leaves = [x.requires_grad_() for rows in batch.towers.values() for x in (rows.z, rows.views)]
        value = loss(batch, LossContext(tile=tile)).loss
        first = torch.autograd.grad(value, leaves, retain_graph=True)
        return first, torch.autograd.grad(value, leaves)  # what was kept is used up by the first pass

    first, second = gradients(cells)
    reference, _ = gradients(0)
    for a, b, c in zip(first, second, reference, strict=True):
        assert torch.equal(a, c) and torch.equal(b, c)


def test_what_is_kept_is_bounded_by_the_rows():
    kept = tileplan.Kept.beside([torch.zeros(10, 4), torch.zeros(5, 4)])
    tile = tileplan.Tile(slice(0, 10), slice(0, 10), (0, 0), False)
    assert [kept.room(tile) for _ in range(4)] == [True, True, False, False]  # 4 × 60 numbers
    assert tileplan.Kept.beside([torch.empty(10**6, 512, device="meta")]).left == tileplan.KEPT_BYTES / 4


def test_no_graph_no_memory(unit):
    """The autograd graph and the plan do not hold each other: what is dropped is freed at once."""
    import gc
    import weakref

    gc.collect()
    gc.disable()
    try:
        u = unit(6, 4).requires_grad_()
        loss = sdd(u, u * 2, tile=2)
        loss.backward()
        node = weakref.ref(loss)
        saved = weakref.ref(u)
        del loss, u
        assert node() is None and saved() is None
    finally:
        gc.enable()


# -- float32 --------------------------------------------------------------------------------------------------------


def plain_terms(u, v):
    """The four terms as one would write them down."""
    m = len(u)
    far = torch.cdist(u, v).square()
    pooled = torch.cat([u, v])
    h2 = torch.pdist(pooled.detach().double()).square().median().to(u.dtype)
    near = [torch.cdist(x, x).square() for x in (u, v)]
    mmd = sum(
        ((-d / (2 * h2)).exp().mean() + ((x @ x.T + 1) / 2).square().mean()) / 2
        for d, x in zip(near, (u, v), strict=True)
    )
    mmd = mmd - (-far / (2 * h2)).exp().mean() - ((u @ v.T + 1) / 2).square().mean()
    gammas = []
    for d, x, across, y in ((near[0], u, far, v), (near[1], v, far.T, u)):
        p = (-d / x.var(0).sum()).logsumexp(1).log_softmax(0)
        q = (-across / y.var(0).sum()).logsumexp(1).log_softmax(0)
        gammas.append((p.exp() * (p - q)).sum())
    target, clip = torch.arange(m), {}
    for name, scale in (("clip", 1 / 0.07), ("sharp", 100.0)):
        logits = u @ v.T * scale
        clip[name] = sum(torch.nn.functional.cross_entropy(x, target) for x in (logits, logits.T)) / 2
    both = torch.cat([u, v])
    logits = (both @ both.T / 0.05).fill_diagonal_(-torch.inf)
    ssl = torch.nn.functional.cross_entropy(logits, torch.cat([target + m, target]))
    return {**clip, "ssl": ssl, "mmd": mmd, "sdd": sum(gammas) / 2}


OURS = {
    "clip": lambda u, v, tile: clip_loss(u, v, 1 / 0.07, tile=tile),
    "sharp": lambda u, v, tile: clip_loss(u, v, 100.0, tile=tile),  # too steep for one exponential to serve both ways
    "ssl": lambda u, v, tile: ssl_loss(u, v, tile=tile),
    "mmd": lambda u, v, tile: mk_mmd(u, v, tile=tile),
    "sdd": lambda u, v, tile: sdd(u, v, tile=tile),
}


def hard_sets(unit, kind, seed, rows=96):
    """So many rows a side, float32."""
    u, v = unit(rows, 16, 2 * seed, centre=0.3), unit(rows, 16, 2 * seed + 1)
    if kind == "near duplicates":
        u[rows // 2 :] = u[: rows - rows // 2] + 1e-6 * v[: rows - rows // 2]
    elif kind == "tight cones":
        u, v = u[:1] + 1e-4 * u, v[:1] + 1e-4 * v
    elif kind == "one cluster":
        u[8:], v[8:] = u[:1] + 1e-4 * u[8:], u[:1] + 1e-4 * v[8:]
    elif kind in ("1e-6", "1e4"):
        u, v = float(kind) * u, float(kind) * v
    elif kind == "aligned":
        v = torch.nn.functional.normalize(u + 1e-3 * v, dim=1)
    return u.float(), v.float()


@pytest.mark.parametrize("tile", [0, 40])
@pytest.mark.parametrize("kind", ["plain", "near duplicates", "tight cones", "one cluster", "1e-6", "1e4", "aligned"])
def test_error_is_at_most_twice_that_of_plain_torch(unit, kind, tile):
    """Against float64, root mean square over draws; where plain torch is right to the last digit, two such digits."""

    def value_and_gradient(terms, u, v, dtype):
        x, y = u.to(dtype).requires_grad_(), v.to(dtype).requires_grad_()
        value = terms(x, y)
        return value.detach().double(), torch.cat(torch.autograd.grad(value, (x, y))).double()

    draws = [hard_sets(unit, kind, seed) for seed in range(6)]
    for name in ("sdd", "mmd") if kind in ("1e-6", "1e4") else OURS:
        squares = torch.zeros(2, 3, dtype=DOUBLE)  # value and gradient; our error, plain torch's, size
        for u, v in draws:
            true = value_and_gradient(partial(OURS[name], tile=0), u, v, DOUBLE)
            found = value_and_gradient(partial(OURS[name], tile=tile), u, v, torch.float32)
            plain = value_and_gradient(lambda x, y: plain_terms(x, y)[name], u, v, torch.float32)  # noqa: B023
            for row, (a, b, c) in zip(squares, zip(found, plain, true, strict=True), strict=True):
                assert a.isfinite().all()
                row += torch.stack([(a - c).square().sum(), (b - c).square().sum(), c.square().sum()])
        for error, of_plain, size in squares.sqrt():
            assert error <= max(2 * of_plain, 2 * torch.finfo(torch.float32).eps * size), name


@pytest.mark.parametrize("kind", ["plain", "near duplicates", "tight cones", "one cluster", "1e-6", "1e4", "aligned"])
@pytest.mark.parametrize("rows", [2, 3, 65, 500])
@pytest.mark.parametrize("tile", [0, 48])
def test_finite_whatever_the_rows(unit, rows, kind, tile):
    u, v = (x.requires_grad_() for x in hard_sets(unit, kind, 1, rows))
    loss = sum(term(u, v, tile) for term in OURS.values())
    loss.backward()
    assert loss.isfinite() and u.grad.isfinite().all() and v.grad.isfinite().all()


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("rows", [8192, 65536])
def test_finite_for_many_rows(unit, rows):
    u, v = (unit(rows, 8, seed, torch.float32).requires_grad_() for seed in (1, 2))
    loss = sum(OURS[name](u, v, "auto") for name in ("clip", "ssl", "mmd", "sdd"))
    loss.backward()
    assert loss.isfinite() and u.grad.isfinite().all() and v.grad.isfinite().all()


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("tile", [0, 16])
def test_autocast_reaches_neither_pass(unit, name, tile):
    """The same bits with and without; embeddings that come in half precision are lifted first."""
    u, v = unit(40, 8, 1).half(), unit(40, 8, 2).half()
    found = []
    for lifted in (True, False):
        x, y = ((z.float() if lifted else z.clone()).requires_grad_() for z in (u, v))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=not lifted):
            value = OURS[name](x, y, tile)
            gradient = torch.autograd.grad(value, x)[0]
        assert value.dtype == torch.float32
        found.append((value, gradient.half()))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])


def test_a_lower_matmul_precision_does_not_reach_the_distances(unit):
    u, v = unit(64, 64, 1, torch.float32), unit(64, 64, 2, torch.float32)
    before = sdd(u, v, tile=16).item()
    torch.set_float32_matmul_precision("medium")
    try:
        assert sdd(u, v, tile=16).item() == before
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
