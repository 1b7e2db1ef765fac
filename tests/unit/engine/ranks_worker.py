"""One rank of test_ranks.py: the runs of a list, one after another. Exits with 0 if all end as they should."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from gentle_core.engine.progress import Display
from gentle_core.engine.run import run_recipe
from gentle_core.losses import cells
from gentle_core.plugins import discover
from gentle_core.recipe import load_recipe


def main(folder: Path, toy: str) -> None:
    torch.set_num_threads(1)
    cells.TILE_ROWS, cells.ALONE_ROWS = 8, 0  # several tiles even in a small batch, shared out
    catalog = discover(files=[toy])
    for name, sets, resume in json.loads((folder / "runs.json").read_text()):
        resolved = load_recipe(folder / "toy.toml", sets, catalog)
        run_recipe(resolved, folder / name, resume, Display(quiet=True), report=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
