"""What a step costs: floating-point operations, memory, and a trace of where the time goes."""

from __future__ import annotations

import contextlib
import resource
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from gentle_core.errors import CheckpointError

PEAKS = {
    "H200": (67, 989), "H100": (67, 989), "A100": (19.5, 312), "L40S": (91.6, 362), "A10": (31.2, 125),
    "L4": (30.3, 121), "V100": (15.7, 125), "T4": (8.1, 65),
}  # fmt: skip
"""TFLOP/s of dense products in float32 and in half precision, from the makers' data sheets, by a part of the name."""


def peak_tflops(device: torch.device, precision: str, given: float = 0.0) -> float:
    """TFLOP/s that a device reaches at best; 0 where that is not known."""
    if given or device.type != "cuda":
        return given
    name = torch.cuda.get_device_name(device)
    found = next((peaks for part, peaks in PEAKS.items() if part in name), (0, 0))
    return float(found[precision != "float32"])


def memory_gib(device: torch.device) -> float:
    """Peak memory of the CUDA device, or of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


class Flops:
    """Operations of one step, counted once: products, convolutions and attention, forwards and backwards."""

    def __init__(self) -> None:
        self.count: int | None = None

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        """Count what is inside, the first time."""
        if self.count is not None:
            yield
            return
        counter = FlopCounterMode(display=False)
        with counter:
            yield
        self.count = counter.get_total_flops()


@contextlib.contextmanager
def traced(path: Path | None, steps: int) -> Iterator[Callable[[], None]]:
    """Write a Chrome trace of up to three steps to `path`; call what this yields after every step."""
    if path is None:
        yield lambda: None
        return
    activities = [torch.profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(torch.profiler.ProfilerActivity.CUDA)

    def write(profiler: torch.profiler.profile) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            profiler.export_chrome_trace(str(path))
        except OSError as error:
            raise CheckpointError(f"cannot write {path}: {error.strerror or error}") from error

    schedule = torch.profiler.schedule(wait=1, warmup=1, active=3, repeat=1) if steps >= 5 else None
    with torch.profiler.profile(activities=activities, schedule=schedule, on_trace_ready=write) as profiler:
        yield profiler.step
