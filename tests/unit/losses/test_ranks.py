from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from gentle_core.losses.cells import Cells
from gentle_core.losses.tileplan import Plan


@pytest.mark.timeout(400)
@pytest.mark.parametrize("world", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_gradients_are_those_of_a_single_process(tmp_path, world):
    """Unequal rows, with four ranks none in one place; matched rows on some ranks; under DistributedDataParallel."""
    worker = Path(__file__).with_name("ranks_worker.py")
    ranks = [
        subprocess.Popen(
            [sys.executable, str(worker), str(rank), str(world), str(tmp_path / "store")],
            stderr=subprocess.PIPE, text=True,
        )
        for rank in range(world)
    ]  # fmt: skip
    until = time.monotonic() + 360
    try:
        while any(process.poll() is None for process in ranks) and time.monotonic() < until:
            if any(process.poll() for process in ranks):  # the others would wait for one that has failed
                until = min(until, time.monotonic() + 5)
            time.sleep(0.1)
    finally:
        for process in ranks:
            process.kill()
    errors = [process.communicate()[1] for process in ranks]
    assert [process.returncode for process in ranks] == [0] * world, "\n".join(errors)


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("symmetric", [True, False])
def test_ranks_share_the_tiles_without_gap_or_overlap(world, symmetric):
    x, y = torch.zeros(23, 2), torch.zeros(23 if symmetric else 17, 2)
    cells = Cells()
    (cells.within(x) if symmetric else cells.between(x, y)).kernel(torch.ones(())).ask("rows")
    seen, shares = torch.zeros(23, len(y)), []
    for rank in range(world):
        plan = Plan(list(cells.blocks.values()), [], 4, None)
        plan.rank, plan.world = rank, world
        shares.append(0)
        for tile in plan.tiles(23, len(y), symmetric):
            seen[tile.i, tile.j] += 1
            if symmetric and not tile.mirror:
                seen[tile.j, tile.i] += 1
            shares[-1] += 1
    assert (seen == 1).all()
    assert max(shares) - min(shares) <= 1
