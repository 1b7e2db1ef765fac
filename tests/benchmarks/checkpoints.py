"""Time of a checkpoint against writing the same bytes.

Both flush to the disk; they take turns, and the ratio is the median over rounds. Processor time is given beside. A
checkpoint also hashes what it writes (on a second thread, where there is a second core) and writes manifest and state.

    python tests/benchmarks/checkpoints.py [--folder DIR] [--mib 64 256 1024] [--rounds 5]
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import torch

from gentle_core.engine.checkpoint import load_checkpoint, save_checkpoint


def state(mib: int) -> dict[str, dict[str, torch.Tensor]]:
    """Weights, and optimiser state of twice the size, in tensors of 4 MiB."""
    count = max(mib // 12, 1)
    part = lambda k: {f"w{i}.{k}": torch.randn(1024, 1024) for i in range(count)}  # noqa: E731
    return {"model": part(""), "optimizer": part("exp_avg") | part("exp_avg_sq")}


def plain(folder: Path, blocks: list[bytes]) -> tuple[float, float]:
    began, used = time.perf_counter(), time.process_time()
    folder.mkdir()
    for number, block in enumerate(blocks):
        with open(folder / str(number), "wb") as file:
            file.write(block)
            file.flush()
            os.fsync(file.fileno())
    return time.perf_counter() - began, time.process_time() - used


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--mib", type=int, nargs="+", default=[12, 96, 384])
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    print("| MiB | bytes alone, s | checkpoint, s | ratio | processor: bytes | checkpoint | reading it back, s |")
    print("|---:|---:|---:|---:|---:|---:|---:|", flush=True)
    for mib in args.mib:
        tensors, times = state(mib), []
        size = sum(t.numel() * 4 for part in tensors.values() for t in part.values())
        blocks = [os.urandom(size // 3), os.urandom(size - size // 3)]
        with tempfile.TemporaryDirectory(dir=args.folder) as name:
            folder = Path(name)
            for number in range(args.rounds + 1):  # the first warms up
                bare, bare_used = plain(folder / "plain", blocks)
                began, used = time.perf_counter(), time.process_time()
                path = save_checkpoint(folder / "checkpoints", number, tensors, {})
                saved, saved_used = time.perf_counter() - began, time.process_time() - used
                began = time.perf_counter()
                load_checkpoint(path)
                times.append((bare, saved, time.perf_counter() - began, bare_used, saved_used))
                shutil.rmtree(folder / "plain")
                shutil.rmtree(path)
        medians = [statistics.median(column) for column in zip(*times[1:], strict=True)]
        ratio = statistics.median(s / b for b, s, *_ in times[1:])
        bare, saved, read, bare_used, saved_used = (f"{value:.3f}" for value in medians)
        print(
            f"| {size / 2**20:.0f} | {bare} | {saved} | {ratio:.2f} | {bare_used} | {saved_used} | {read} |", flush=True
        )


if __name__ == "__main__":
    main()
