"""Time and memory of the objective, side by side with the straightforward way, in one process.

    python tests/benchmarks/objective.py compare     # B = 4,096: against dense torch, and L_CL against open_clip
    python tests/benchmarks/objective.py products    # B = 8,192: against the matrix products alone
    python tests/benchmarks/objective.py transport   # SDD beside geomloss' Sinkhorn divergence and Gaussian MMD
    python tests/benchmarks/objective.py large       # B = 65,536, d = 256
    python tests/benchmarks/objective.py growth --plot growth.svg
    python tests/benchmarks/objective.py threshold   # dense or tiled, by size
    python tests/benchmarks/objective.py ranks       # two processes: tiles shared out, or each alone, by size

Alternatives take turns within each repeat, and a ratio is the median of the repeats' ratios: other work on the machine
then hits both. With --threads 1 times are the processor's, not the clock's, which keeps waiting out.
Memory is counted above what there was with the embeddings in place: "tensors" is the peak of what torch's allocator had
handed out, "resident" that of the whole process, with what its allocators keep for later.
open_clip and geomloss are used where they are installed.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import importlib
import importlib.util
import itertools
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from gentle_core import builtin
from gentle_core.batch import AlignBatch, BuildContext, LossContext, Rows
from gentle_core.losses import clip_loss, mk_mmd, sdd, sinkhorn_divergence
from gentle_core.losses.cells import ALONE_ROWS, TILE_ROWS
from gentle_core.losses.distances import median_bandwidth
from gentle_core.losses.products import add_product, times_transposed

SPECS = {f"core/{spec.name}": spec for spec in builtin.gentle_losses()}
ALPHA, MU, DELTA, ETA = 1.0, 0.15, 0.3, 1.0


def build(name: str, options: dict) -> torch.nn.Module:
    module, factory = SPECS[name].target.split(":")
    context = BuildContext(cache_dir=None, loss=build)
    return getattr(importlib.import_module(module), factory)(SPECS[name].config(**options), context)


def make_batch(B: int, d: int) -> AlignBatch:
    """Two towers of B rows, the first half matched, with a second view each."""
    torch.manual_seed(0)
    base, towers = torch.randn(B, d), {}
    for number, name in enumerate(("u", "v")):
        z = F.normalize(base + 2 * torch.randn(B, d), dim=1)
        views = F.normalize(z + 0.5 * torch.randn(B, d) / d**0.5, dim=1)
        ids = torch.arange(B)
        ids[B // 2 :] += B * (number + 1)
        towers[name] = Rows(z.requires_grad_(), ids, views=views.requires_grad_())
    return AlignBatch(towers)


# -- the straightforward way: cdist, logsumexp, autograd ---------------------------------------------------------------


def plain_clip(u: Tensor, v: Tensor, s: Tensor) -> Tensor:
    logits, target = s * u @ v.T, torch.arange(len(u))
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def plain_ssl(z: Tensor, views: Tensor, tau: float = 0.05) -> Tensor:
    both, n = torch.cat([z, views]), len(z)
    logits = (both @ both.T / tau).masked_fill(torch.eye(2 * n, dtype=torch.bool), -torch.inf)
    return F.cross_entropy(logits, torch.cat([torch.arange(n) + n, torch.arange(n)]))


def plain_mmd(u: Tensor, v: Tensor, beta: Tensor) -> Tensor:
    h = median_bandwidth(u, v)

    def mean(x: Tensor, y: Tensor) -> Tensor:
        gaussian = (-torch.cdist(x, y).square() / (2 * h * h)).exp().mean()
        return beta[0] * gaussian + beta[1] * ((x @ y.T + 1) / 2).square().mean()

    return mean(u, u) + mean(v, v) - 2 * mean(u, v)


def plain_sdd(u: Tensor, v: Tensor) -> Tensor:
    across, gammas = torch.cdist(u, v).square(), []
    for t, r, far in ((u, v, across), (v, u, across.T)):
        p = (-torch.cdist(t, t).square() / t.var(0).sum()).logsumexp(1).log_softmax(0)
        q = (-far / r.var(0).sum()).logsumexp(1).log_softmax(0)
        gammas.append((p.exp() * (p - q)).sum())
    return (gammas[0] + gammas[1]) / 2


def plain_objective(batch: AlignBatch, s: Tensor, beta: Tensor) -> Tensor:
    left, right = batch.towers.values()
    u, v, n = left.z, right.z, len(left.z) // 2
    ssl = plain_ssl(u, left.views) + plain_ssl(v, right.views)
    return ALPHA * (plain_clip(u[:n], v[:n], s) + MU * ssl) + DELTA * plain_mmd(u, v, beta) + ETA * plain_sdd(u, v)


# -- measuring ---------------------------------------------------------------------------------------------------------


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def peak(run: Callable[[], object]) -> float:
    """Peak resident memory above the start, in MiB."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before, highest, done = resident(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            highest[0] = max(highest[0], resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    run()
    done.set()
    watcher.join()
    return max(highest[0] - before, 0) / 2**20


def tensors(run: Callable[[], object]) -> float:
    """Peak of torch's own allocations above the start, in MiB; from the profiler, so not to be timed."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        run()
    events = [(e.start_ns(), e.nbytes()) for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
    return max(itertools.accumulate(nbytes for _, nbytes in sorted(events))) / 2**20


def seconds(run: Callable[[], object]) -> float:
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    run()
    return clock() - start


def take_turns(ways: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Times of each way; all ways once in every repeat."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, run in ways.items():
            times[name].append(seconds(run))
    return times


def ratio(times: dict[str, list[float]], name: str, other: str) -> float:
    """Median of time(name) / time(other) over repeats."""
    return statistics.median(a / b for a, b in zip(times[name], times[other], strict=True))


def step(batch: AlignBatch) -> Callable[[], None]:
    """Forward and backward of the whole objective; gradients must be finite, and are dropped again."""
    model = build("core/gentle", {"alpha": ALPHA, "mu": MU, "delta": DELTA, "eta": ETA})
    leaves = [x for rows in batch.towers.values() for x in (rows.z, rows.views)] + list(model.parameters())

    def run() -> None:
        gradients = torch.autograd.grad(model(batch, LossContext()).loss, leaves)
        if not all(x.sum().isfinite() for x in gradients):
            raise FloatingPointError("a gradient is not finite")

    return run


def show(name: str, *columns: str) -> None:
    print(f"{name:<58}" + "".join(f"{column:>18}" for column in columns), flush=True)


# -- what is compared --------------------------------------------------------------------------------------------------


def compare(repeats: int, B: int = 4096, d: int = 512) -> None:
    batch = make_batch(B, d)
    leaves = [x for rows in batch.towers.values() for x in (rows.z, rows.views)]
    s, beta = torch.tensor(1 / 0.07, requires_grad=True), torch.tensor([0.5, 0.5], requires_grad=True)

    def plain() -> None:
        torch.autograd.grad(plain_objective(batch, s, beta), [*leaves, s, beta])

    side_by_side(f"whole objective, B = {B}, d = {d}", {"dense": plain, "ours": step(batch)}, repeats)
    u, v = (rows.z for rows in batch.towers.values())
    reference = open_clip_loss()
    other = reference or (lambda x, y, scale: plain_clip(x, y, scale))
    dense_name = "open_clip" if reference else "dense"
    ways = {
        dense_name: lambda: torch.autograd.grad(other(u, v, s), (u, v, s)),
        "ours": lambda: torch.autograd.grad(clip_loss(u, v, s), (u, v, s)),
    }
    side_by_side(f"L_CL alone, B = {B}, d = {d}", ways, repeats)


def open_clip_loss() -> Callable[[Tensor, Tensor, Tensor], Tensor] | None:
    """open_clip's ClipLoss, from its file alone: the package itself wants torchvision."""
    found = importlib.util.find_spec("open_clip")
    if found is None or found.origin is None:
        return None
    spec = importlib.util.spec_from_file_location("open_clip_loss", Path(found.origin).with_name("loss.py"))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ClipLoss()


def side_by_side(title: str, ways: dict[str, Callable[[], object]], repeats: int) -> None:
    other = next(iter(ways))
    ways["ours"]()  # warm up
    memory = {name: (tensors(run), peak(run)) for name, run in ways.items()}
    times = take_turns(ways, repeats)
    show(title, "seconds (median)", "tensors, MiB", "resident, MiB")
    for name in ways:
        show(f"  {name}", f"{statistics.median(times[name]):.2f}", *(f"{mib:.0f}" for mib in memory[name]))
    smaller = (f"1/{a / b:.1f}" for a, b in zip(memory[other], memory["ours"], strict=True))
    show("  ours", f"{ratio(times, other, 'ours'):.1f}x faster", *smaller)


def products(repeats: int, B: int = 8192, d: int = 512) -> None:
    """The matrix products that two passes in tiles cannot do without.

    In units of B·B·d multiplications and additions, for two towers with two views: the cells of u and v (1), of each
    tower's two views (2), and of the four sets with themselves, by symmetry half of each (2): 5. Once more in the
    backward pass, since they are not kept: 5. From them the gradients of both sides: 2 each, 10. Together 20.
    """
    batch, side = make_batch(B, d), TILE_ROWS
    x, y = (rows.z.detach() for rows in batch.towers.values())
    cells = torch.randn(side, side)

    def ours() -> None:
        for i in range(0, B, side):
            for j in range(0, B, side):
                near_x, near_y = x[i : i + side], y[j : j + side]
                for _ in range(10):
                    times_transposed(near_x, near_y, out=out)
                for _ in range(5):
                    add_product(to_x[i : i + side], cells, near_y)
                    add_product(to_y[j : j + side], cells.T, near_x)

    def torch_mm() -> None:
        for i in range(0, B, side):
            for j in range(0, B, side):
                near_x, near_y = x[i : i + side], y[j : j + side]
                for _ in range(10):
                    near_x @ near_y.T
                for _ in range(5):
                    cells @ near_y
                    cells.T @ near_x

    out, to_x, to_y = torch.empty_like(cells), torch.zeros_like(x), torch.zeros_like(y)
    ways = {"products": ours, "products, torch.mm": torch_mm, "ours": step(batch)}
    ways["ours"]()
    times = take_turns(ways, repeats)
    show(f"whole objective, B = {B}, d = {d}", "seconds (median)")
    for name in ways:
        show(f"  {name}", f"{statistics.median(times[name]):.2f}")
    for name in list(ways)[:-1]:
        show(f"  ours / {name}", f"{ratio(times, 'ours', name):.2f}")


def transport(repeats: int, B: int = 2048, d: int = 256) -> None:
    u, v = (rows.z for rows in make_batch(B, d).towers.values())
    ways: dict[str, Callable[[], object]] = {
        "SDD (ours)": lambda: torch.autograd.grad(sdd(u, v), (u, v)),
        "Gaussian MMD (ours)": lambda: torch.autograd.grad(mk_mmd(u, v, (1.0, 0.0)), (u, v)),
    }
    if importlib.util.find_spec("geomloss") is None:
        print("geomloss is not installed", file=sys.stderr)
    else:
        from geomloss import SamplesLoss

        ways["Sinkhorn divergence, tiles (ours)"] = lambda: torch.autograd.grad(
            sinkhorn_divergence(u, v, tile=TILE_ROWS), (u, v)
        )
        h = median_bandwidth(u, v).item()
        for name, kind, blur in (("Sinkhorn divergence", "sinkhorn", 0.05), ("Gaussian MMD", "gaussian", h)):
            loss = SamplesLoss(kind, p=2, blur=blur, backend="tensorized")
            ways[f"{name} (geomloss)"] = lambda loss=loss: torch.autograd.grad(loss(u, v), (u, v))
    next(iter(ways.values()))()
    memory = {name: peak(run) for name, run in ways.items()}
    times = take_turns(ways, repeats)
    show(f"B = {B}, d = {d}", "seconds (median)", "resident, MiB", "time / SDD's")
    for name in ways:
        relative = ratio(times, name, "SDD (ours)")
        show(f"  {name}", f"{statistics.median(times[name]):.2f}", f"{memory[name]:.0f}", f"{relative:.2f}")


def large(repeats: int, B: int = 65536, d: int = 256) -> None:
    step(make_batch(512, 16))()
    run = step(make_batch(B, d))
    took: list[float] = []
    memory = peak(lambda: took.append(seconds(run)))
    show(f"whole objective, B = {B}, d = {d}", "seconds", "resident, MiB", "limit, MiB")
    show("  ours", f"{took[0]:.0f}", f"{memory:.0f}", "1536")


def growth(repeats: int, plot: str = "", d: int = 256, most: int = 65536) -> None:
    rows, times, memory = [], [], []
    step(make_batch(512, 16))()
    show(f"d = {d}", "B", "seconds", "resident, MiB")
    sizes = [B for k in range(20) if (B := 512 << k) <= most]
    for B in sizes:
        run, took = step(make_batch(B, d)), []
        memory.append(peak(lambda: took.append(seconds(run))))  # noqa: B023
        rows.append(B)
        times.append(took[0])
        show("", str(B), f"{took[0]:.2f}", f"{memory[-1]:.0f}")
    if plot:
        draw(rows, times, memory, d, plot)


def draw(rows: list[int], times: list[float], memory: list[float], d: int, path: str) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    for axis, values, slope, name in ((axes[0], times, 2, "seconds"), (axes[1], memory, 1, "resident MiB")):
        axis.loglog(rows, values, "o-", base=2)
        guide = [values[-1] * (B / rows[-1]) ** slope for B in rows]
        axis.loglog(rows, guide, ":", color="grey", base=2, label="B²" if slope == 2 else "B")
        axis.set_xlabel("rows a tower, B")
        axis.set_title(f"{name} (d = {d})", fontsize=10)
        axis.set_yscale("log", base=10)
        axis.legend(frameon=False)
    figure.savefig(path)


def threshold(repeats: int, d: int = 128) -> None:
    """Dense against tiled, for the two numbers at the head of gentle_core/losses/cells.py."""
    tiles = (0, 256, 512, 1024)
    show(f"milliseconds, d = {d}", *(f"tile {tile}" if tile else "dense" for tile in tiles))
    model = build("core/gentle", {})
    for B in (128, 256, 512, 768, 1024, 1536, 2048):
        batch = make_batch(B, d)
        ways = {str(t): lambda t=t, b=batch: model(b, LossContext(tile=t)).loss.backward() for t in tiles}
        ways["0"]()
        times = take_turns(ways, max(repeats, 5))
        show(f"  B = {B}", *(f"{1000 * min(times[str(t)]):.0f}" for t in tiles))


def ranks(repeats: int, d: int = 128) -> None:
    """Two processes with the same rows: sharing the tiles out, against each computing them all."""
    show(f"milliseconds, d = {d}", "shared", "each alone")
    with tempfile.NamedTemporaryFile() as store:
        torch.multiprocessing.spawn(one_rank, (store.name, repeats, d), nprocs=2)


def one_rank(rank: int, store: str, repeats: int, d: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(store, 2), rank=rank, world_size=2)
    model = build("core/gentle", {})
    for B in (128, 256, 512, 768, 1024, 1536, 2048):
        batch, times = make_batch(B, d), {}
        for name, group in (("shared", dist.group.WORLD), ("each alone", None)):
            context = LossContext(tile=TILE_ROWS if B <= ALONE_ROWS and group else "auto", group=group)
            model(batch, context).loss.backward()
            times[name] = []
            for _ in range(max(repeats, 5)):
                dist.barrier()
                start = time.perf_counter()
                model(batch, context).loss.backward()
                dist.barrier()
                times[name].append(time.perf_counter() - start)
        if rank == 0:
            show(f"  B = {B}", *(f"{1000 * min(took):.0f}" for took in times.values()))
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = {f.__name__: f for f in (compare, products, transport, large, growth, threshold, ranks)}
    parser.add_argument("what", choices=what)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rows", type=int, help="B, in place of the default")
    parser.add_argument("--dimension", type=int)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--plot", default="", help="file for the figure of `growth`")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    given = {"B": options.rows, "d": options.dimension}
    if options.what == "growth":
        given = {"most": options.rows, "d": options.dimension, "plot": options.plot or None}
    elif options.what in ("threshold", "ranks"):
        given.pop("B")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads", flush=True)
    what[options.what](options.repeats, **{key: value for key, value in given.items() if value is not None})


if __name__ == "__main__":
    main()
