"""How SDD and MK-MMD behave as the batch grows, and what 10^5 to 10^6 rows would take: docs/explanation/scale.md.

    python tests/benchmarks/scale.py floor     # values for two samples of one distribution, and for a small shift
    python tests/benchmarks/scale.py shards    # the value of a whole batch against the mean over parts of it
    python tests/benchmarks/scale.py cost      # time and memory by rows, and what follows for more
    python tests/benchmarks/scale.py ranks     # how evenly tiles spread over ranks, and what ranks send

Rows are unit vectors: a Gaussian cloud about a common direction, normalised, as towers give. `--rows` sets the largest
batch, `--dimension` the width. "cost" counts processor time of one thread, which other work on the machine disturbs
least. Beyond the largest batch, figures are extrapolated and marked so: costs with the square of the rows (fitted to
the two largest batches measured), memory with the rows.
"""

from __future__ import annotations

import argparse
import math
import time
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from gentle_core.engine.foresee import peak_bytes
from gentle_core.losses import mk_mmd, sdd
from gentle_core.losses.cells import Block, Kernel
from gentle_core.losses.tileplan import Plan

TERMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"SDD": sdd, "MK-MMD": mk_mmd}
FAR = (100_000, 300_000, 1_000_000)


def cloud(rows: int, dimension: int, seed: int, shift: float = 0.0) -> Tensor:
    """Unit vectors about the first axis; `shift` moves them along the second."""
    z = torch.randn(rows, dimension, generator=torch.Generator().manual_seed(seed)) / dimension**0.5
    z[:, 0] += 0.5
    z[:, 1] += shift
    return F.normalize(z, dim=1)


def sizes(largest: int, first: int = 256) -> list[int]:
    found = [first]
    while found[-1] * 2 <= largest:
        found.append(found[-1] * 2)
    return found


@torch.no_grad()
def floor(largest: int, dimension: int, repeats: int = 4, shift: float = 0.05) -> None:
    """Means over draws: of two samples of one distribution (the floor), and of two whose means differ by `shift`."""
    print(f"| rows | {' | '.join(f'{t} floor | {t} shifted | shifted / floor' for t in TERMS)} |")
    print("|---:|" + "---:|" * (3 * len(TERMS)))
    floors: dict[str, list[tuple[int, float]]] = {name: [] for name in TERMS}
    for rows in sizes(largest):
        cells = []
        for name, term in TERMS.items():
            values = [
                [float(term(cloud(rows, dimension, 2 * n), cloud(rows, dimension, 2 * n + 1, by)))
                 for n in range(repeats)] for by in (0.0, shift)
            ]  # fmt: skip
            low, moved = (sum(v) / repeats for v in values)
            floors[name].append((rows, low))
            cells += [f"{low:.3g}", f"{moved:.3g}", f"{moved / low:.2f}"]
        print(f"| {rows:,} | {' | '.join(cells)} |", flush=True)
    for name, points in floors.items():
        (b1, m1), (b2, m2) = points[-2:]
        power = math.log(m2 / m1) / math.log(b2 / b1)
        far = ", ".join(f"{m2 * (rows / b2) ** power:.2g} at {rows:,}" for rows in FAR)
        print(f"{name}: the floor falls as rows^{power:.2f}; extrapolated {far}")


@torch.no_grad()
def shards(rows: int, dimension: int) -> None:
    print(f"| parts of {rows:,} rows | " + " | ".join(f"{name}, mean over parts" for name in TERMS) + " |")
    print("|---:|" + "---:|" * len(TERMS))
    u, v = cloud(rows, dimension, 0), cloud(rows, dimension, 1, 0.05)
    parts = 1
    while rows // parts >= 64:
        means = [
            sum(float(t(a, b)) for a, b in zip(u.chunk(parts), v.chunk(parts), strict=True)) / parts
            for t in TERMS.values()
        ]
        print(f"| {parts} | " + " | ".join(f"{mean:.3g}" for mean in means) + " |", flush=True)
        parts *= 4


def cost(largest: int, dimension: int) -> None:
    """Forward and backward of both terms."""
    print("| rows of each set | processor time, s | memory above the embeddings, MiB | of a row, bytes |")
    print("|---:|---:|---:|---:|")
    found = []
    for rows in sizes(largest, 2048):

        def work(rows: int = rows) -> None:
            u, v = (cloud(rows, dimension, seed).requires_grad_() for seed in (0, 1))
            sum(term(u, v) for term in TERMS.values()).backward()  # type: ignore[union-attr]

        began = time.process_time()
        work()
        took = time.process_time() - began
        memory = peak_bytes(work) if rows <= 16384 else math.nan
        found.append((rows, took, memory))
        shown = f"{memory / 2**20:.0f} | {memory / rows:.0f}" if memory == memory else "— | —"
        print(f"| {rows:,} | {took:.2f} | {shown} |", flush=True)
    rows, took, _ = found[-1]
    before, earlier, _ = found[-2]
    power = math.log(took / earlier) / math.log(rows / before)
    row_bytes = [m / r for r, _, m in found if m == m][-1]
    rate = 2.0 * rows * rows * dimension / took
    print(f"time grows as rows^{power:.2f}")
    for far in FAR:
        seconds = took * (far / rows) ** 2
        print(
            f"extrapolated: {far:,} rows: {seconds / 60:,.0f} min of this core, {far * row_bytes / 2**30:.1f} GiB; "
            f"{3 * 2.0 * far * far * dimension / 1e12:,.0f} TFLOP in a pass over the three pairs of sets"
        )
    print(f"({rate / 1e9:.1f} GFLOP/s, were each pair of rows one product of {dimension} numbers)")


def ranks(dimension: int) -> None:
    """From the book-keeping itself: tiles of each rank in the three blocks of two sets, and bytes that a rank sends."""
    print("| rows of each set | ranks | tile | tiles of a rank, most / mean | MiB gathered | MiB summed |")
    print("|---:|---:|---:|---:|---:|---:|")
    for rows in (4096, 65_536, 1_000_000):
        for world in (2, 8, 64):
            side = max(1, min(512 if rows < 10**5 else 4096, -(-rows // world)))
            most, mean = spread(rows, side, world)
            embeddings = 2 * 4 * rows * dimension * (world - 1) / world / 2**20
            print(f"| {rows:,} | {world} | {side} | {most / mean:.3f} | {embeddings:.0f} | {2 * embeddings:.0f} |")


def spread(rows: int, side: int, world: int) -> tuple[int, float]:
    """Cells of the busiest rank, and of the mean one."""
    cells: Counter[int] = Counter()
    plan = Plan([Block(torch.zeros(1, 1), None, [Kernel(torch.ones(()))])], [], side, None)
    plan.side, plan.world = side, world
    for rank in range(world):
        plan.rank = rank
        for symmetric in (True, True, False):
            for tile in plan.tiles(rows, rows, symmetric):
                cells[rank] += (tile.i.stop - tile.i.start) * (tile.j.stop - tile.j.start)
    return max(cells.values()), sum(cells.values()) / world


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("floor", "shards", "cost", "ranks"))
    parser.add_argument("--rows", type=int, default=16384)
    parser.add_argument("--dimension", type=int, default=128)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.what == "ranks":
        ranks(args.dimension)
    else:
        {"floor": floor, "shards": shards, "cost": cost}[args.what](args.rows, args.dimension)


if __name__ == "__main__":
    main()
