"""One rank of test_ranks.py: gradients across ranks against those of a single process. Exits with 0 if all agree."""

from __future__ import annotations

import copy
import importlib
import sys
import time

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from gentle_core import builtin
from gentle_core.batch import AlignBatch, BuildContext, LossContext, Rows
from gentle_core.engine.ranks import LAG
from gentle_core.losses import clip_loss, klot_loss, mk_mmd, neighbour_loss, sdd, sinkhorn_divergence, ssl_loss
from gentle_core.losses.distances import median_bandwidth, total_variance
from gentle_core.losses.ranks import AcrossRanks, gather_rows
from gentle_core.losses.tileforms import Bases

DOUBLE = torch.float64
SPECS = {f"core/{spec.name}": spec for spec in builtin.gentle_losses()}
SIZES = {"a": [7, 3, 0, 5], "b": [2, 6, 8, 1]}  # rows of each rank; more than 4 ranks are not tried


def make(name, options):
    module, factory = SPECS[name].target.split(":")
    context = BuildContext(cache_dir=None, loss=make)
    return getattr(importlib.import_module(module), factory)(SPECS[name].config(**options), context)


def unit(x):
    return torch.nn.functional.normalize(x, dim=1)


def global_inputs(world):
    """Raw inputs (2 views, rows, 6) of two towers, and ids; the mates of rank 0's rows lie on several ranks."""
    generator = torch.Generator().manual_seed(5)
    found = {}
    for number, (name, sizes) in enumerate(SIZES.items()):
        rows = sum(sizes[:world])
        x = torch.randn(2, rows, 6, generator=generator, dtype=DOUBLE)
        ids = torch.arange(rows) + 100 * (number + 1)
        found[name] = (x, ids)
    found["a"][1][[0, 2, 4]] = torch.tensor([1, 2, 3])
    found["b"][1][[-1, 0, 1]] = torch.tensor([1, 2, 3])
    return found


def share(x, name, rank, dim):
    start = sum(SIZES[name][:rank])
    return x.narrow(dim, start, SIZES[name][rank])


def close(a, b, what):
    assert torch.allclose(a, b, rtol=1e-9, atol=1e-12), (what, (a - b).abs().max())


def check_terms(rank, world, group):
    """The functions and their arguments."""
    inputs = global_inputs(world)
    u, v = (unit(inputs[name][0][0]) for name in "ab")
    ids = inputs["a"][1], inputs["b"][1]
    s = torch.tensor(7.0, dtype=DOUBLE, requires_grad=True)
    beta = torch.tensor([0.3, 0.7], dtype=DOUBLE, requires_grad=True)
    n = len(u)
    terms = {
        "clip": lambda x, y, **o: clip_loss(x, y, s, ids=ids, **o),
        "clip all": lambda x, y, **o: clip_loss(x, y, s, ids=ids, negatives="all", **o),
        "ssl": lambda x, y, **o: ssl_loss(x, unit(x.roll(1, 1)), **o),
        "mmd": lambda x, y, **o: mk_mmd(x, y, beta, **o),
        "mmd cubic": lambda x, y, **o: mk_mmd(x, y, beta, degree=3, **o),
        "sdd": lambda x, y, **o: sdd(s * x, y, **o),
        "klot": lambda x, y, **o: klot_loss(x, y, x.detach().roll(1, 0), y.detach(), 0.2, steps=300, **o),
        "sinkhorn": lambda x, y, tile=4, **o: sinkhorn_divergence(x, y, 0.3, tile=tile or 99, **o),
        "neighbours": lambda x, y, **o: neighbour_loss(x, y.detach().roll(1, 0), y, **o),
        "sdd raw": lambda x, y, **o: sdd(s * x, y, 0.8, False, True, **o),
        "sigma": lambda x, y, **o: total_variance(x) * s,
        "bandwidth": lambda x, y, **o: median_bandwidth(x, y) * s,  # a constant for the rows
    }
    for name, term in terms.items():
        x, y = u.clone().requires_grad_(), v.clone().requires_grad_()
        whole = term(x, y, tile=0)
        expected = torch.autograd.grad(whole, (x, y, s, beta), allow_unused=True)
        mine = [share(z, tower, rank, 0).clone().requires_grad_() for z, tower in ((u, "a"), (v, "b"))]
        value = term(*(gather_rows(z, group) for z in mine), tile=3, group=group)
        found = torch.autograd.grad(value, (*mine, s, beta), allow_unused=True)
        close(value, whole, name)
        for k, tower in enumerate("ab"):
            if expected[k] is not None:
                close(found[k], share(expected[k], tower, rank, 0), name)
        for k in (2, 3):
            assert (found[k] is None) == (expected[k] is None)
            if found[k] is not None:
                close(found[k], expected[k], name)
    assert n == sum(SIZES["a"][:world])


def check_module(rank, world, group):
    """The whole objective on linear towers under DistributedDataParallel: parameters' gradients, terms and logs."""
    inputs = global_inputs(world)
    torch.manual_seed(0)
    towers = nn.ModuleDict({name: nn.Linear(6, 4) for name in SIZES}).double()
    loss = make("core/gentle", {"mmd": {"weights": (0.7, 0.3)}}).double()

    def batch(model, part):
        rows = {}
        for name in SIZES:
            x, ids = inputs[name]
            x, ids = part(x, name, 1), part(ids, name, 0)
            z, views = model(name, x[0]), model(name, x[1])
            rows[name] = Rows(z, ids, views=views)
        return AlignBatch(rows)

    class Towers(nn.Module):
        def __init__(self, towers):
            super().__init__()
            self.towers = towers

        def forward(self, name, x):
            return unit(self.towers[name](x))

    class Both(nn.Module):  # one forward call a step, as DistributedDataParallel wants it
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, part):
            return batch(self.model, part)

    single, reference = Both(Towers(copy.deepcopy(towers))), copy.deepcopy(loss)
    given = [copy.deepcopy((towers, loss)) for _ in range(2)]
    expected = reference(single(lambda x, name, dim: x), LossContext(tile=0))
    expected.loss.backward()
    for (towers, loss), tile in zip(given, (3, "auto"), strict=True):
        spread = DistributedDataParallel(Both(Towers(towers)), process_group=group)
        across = AcrossRanks(loss, group)
        out = across(spread(lambda x, name, dim: share(x, name, rank, dim)), LossContext(tile=tile))
        out.loss.backward()
        close(out.loss, expected.loss, "loss")
        for name, term in expected.terms.items():
            close(out.terms[name], term, name)
        assert out.counts == expected.counts
        for name, value in expected.logs.items():
            assert abs(out.logs[name] - value) < 1e-9 * max(1, abs(value)), name
        for (name, mine), theirs in zip(spread.module.named_parameters(), single.parameters(), strict=True):
            close(mine.grad, theirs.grad, name)
        for (name, mine), theirs in zip(loss.named_parameters(), reference.parameters(), strict=True):
            assert mine.grad.abs().max() > 0
            close(mine.grad, theirs.grad, name)


def check_work(rank, world, group):
    """Communication grows as B·d, and each rank computes its share of the tiles."""
    sent, tiles = [], []
    names = ("all_reduce", "all_gather")
    kept = {name: getattr(dist, name) for name in names}

    def counted(name):
        def call(*args, **options):
            tensors = args[0] if isinstance(args[0], list) else args[:1]
            sent.append(sum(x.numel() for x in tensors))
            return kept[name](*args, **options)

        return call

    of_tile = Bases.of_tile
    d, found = 16, {}
    try:
        for name in names:
            setattr(dist, name, counted(name))
        Bases.of_tile = lambda self, tile, *rest: (tiles.append(tile.at), of_tile(self, tile, *rest))[1]
        for rows in (64, 256):
            sent.clear()
            tiles.clear()
            generator = torch.Generator().manual_seed(rank)
            towers = {}
            for number, name in enumerate("ab"):
                z, views = unit(torch.randn(2 * rows, d, generator=generator)).requires_grad_().split(rows)
                ids = torch.arange(rows) + rows * rank + 10_000 * number * (rank == 0)  # rank 0 has no matched rows
                towers[name] = Rows(z, ids, views=views)
            loss = AcrossRanks(make("core/gentle", {}), group)
            loss(AlignBatch(towers), LossContext(tile=16)).loss.backward()
            found[rows] = sum(sent)
            counts = [torch.zeros(1) for _ in range(world)]
            kept["all_gather"](counts, torch.tensor([float(len(tiles))]), group=group)
            shares = [int(count) for count in counts]
            assert max(shares) - min(shares) < 0.05 * sum(shares), shares
            # To and fro four sets with themselves and three with another; SDD's floor needs no gradient
            across = rows * world // 16
            itself = across * (across + 1) // 2
            assert sum(shares) == 2 * (4 * itself + 3 * across**2) + 2 * itself + across**2, shares
        few, sent[:] = unit(torch.randn(32, d, generator=generator)).requires_grad_(), []
        (mk_mmd(few, few.roll(1, 1), group=group) + sdd(few, few.roll(1, 1), group=group)).backward()
        assert not sent  # every rank by itself
    finally:
        Bases.of_tile = of_tile
        for name in names:
            setattr(dist, name, kept[name])
    # Two towers with two views each, to and fro; and sums for each row
    assert found[256] <= 256 * world * 4 * (2 * d + 16), found
    assert found[256] <= 4.2 * found[64], found


def main(rank: int, world: int, store: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(store, world), rank=rank, world_size=world)
    for size in range(1, world + 1):
        if world % size:
            continue
        group = dist.new_group(list(range(size)))
        if rank < size:
            check_terms(rank, size, group)
            check_module(rank, size, group)
            check_work(rank, size, group)
    dist.barrier()
    dist.destroy_process_group()
    time.sleep(LAG)  # for the groups' threads, which others still hold; see `Ranks.close`


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
