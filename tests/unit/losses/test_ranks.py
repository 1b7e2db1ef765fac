from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gentle_core.losses.cells import Cells
from gentle_core.losses.tileplan import Plan


@pytest.mark.slow
def test_gradients_are_those_of_a_single_process(tmp_path):
    """1, 2 and 4 processes; unequal rows, none in one place; matched rows on some ranks; plain DDP."""
    worker = Path(__file__).with_name("ranks_worker.py")
    ranks = [
        subprocess.Popen(
            [sys.executable, str(worker), str(rank), "4", str(tmp_path / "store")], stderr=subprocess.PIPE, text=True
        )
        for rank in range(4)
    ]
    try:
        errors = [process.communicate(timeout=110)[1] for process in ranks]
    finally:
        for process in ranks:
            process.kill()
    assert [process.returncode for process in ranks] == [0] * 4, "\n".join(errors)


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
