"""CDConv: the fast form against gather and scatter, same parameters, same real chains, one process, interleaved.

The baseline is the reference of the parity tests: it finds the neighbours and the geometry of every block anew, as the
published code does, and writes every edge's whole message. "Given geometry" spares it that work. Each round times
forward + backward of every variant once on the same batch; the table gives the median time, the median over rounds of
how much longer the baseline took, and what each keeps in memory for its backward pass.

    python tests/benchmarks/cdconv.py [--presets small ec] [--rounds 5] [--batch 64] [--threads 1] [--clock cpu]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gentle_core.api import BuildContext
from gentle_protein.cdconv.cache import GeometryCache
from gentle_protein.cdconv.config import CDConvConfig, parameters
from gentle_protein.cdconv.encoder import build
from gentle_protein.chain import Structure
from gentle_protein.datasets.pdb_sample import read_sample

sys.path.insert(0, str(Path(__file__).parents[2] / "plugins/protein/tests/cdconv"))
from scatter_cdconv import ScatterCDConv, prepare

Variant = tuple[str, Callable[[], Tensor], str | None]
"""Name, forward pass, and the name of the variant that it is compared with."""


def real_chains(count: int) -> list[Structure]:
    """Training chains of the shipped sample, drawn at random."""
    train = read_sample()["train"]
    return [
        Structure(train[i].id, train[i].ca) for i in np.random.default_rng(0).choice(len(train), count, replace=False)
    ]


def variants(config: CDConvConfig, chains: list[Structure]) -> tuple[torch.nn.Module, list[Variant]]:
    encoder = build(config, BuildContext(cache_dir=None))
    batch = prepare([chain.ca for chain in chains], config.frame, torch.float32)
    known: list[Any] = []
    scatter, scatter_given = ScatterCDConv(encoder), ScatterCDConv(encoder, known)
    keep, forget = GeometryCache(1 << 30), GeometryCache(0)

    def collated(cache: GeometryCache) -> Any:
        encoder.cache = cache
        return encoder.collate(chains)

    for _ in range(2):  # the first fills the cache
        inputs = collated(keep)
    return encoder, [
        ("scatter", lambda: scatter(batch), None),
        ("scatter, given geometry", lambda: scatter_given(batch), None),
        ("fast, new geometry", lambda: encoder(collated(forget)), "scatter"),
        ("fast, cached geometry", lambda: encoder(collated(keep)), "scatter"),
        ("fast, given geometry", lambda: encoder(inputs), "scatter, given geometry"),
    ]


def saved_mib(forward: Callable[[], Tensor], encoder: torch.nn.Module) -> float:
    """MiB that autograd keeps for the backward pass, parameters aside."""
    own = {p.untyped_storage().data_ptr() for p in encoder.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = forward()
    del out
    return sum(kept.values()) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=["small", "ec"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    clock = time.perf_counter if args.clock == "wall" else time.process_time
    chains = real_chains(args.batch)
    lengths = [len(chain) for chain in chains]
    print(
        f"{args.batch} chains of {min(lengths)}-{max(lengths)} residues, {args.threads} thread(s), {args.clock} clock"
    )

    for preset in args.presets:
        # Without noise, so that all variants compute the same.
        config = CDConvConfig(preset=preset, dropout=0.0, position_noise=0.0, noise_channels=0)
        encoder, todo = variants(config, chains)
        times = measure(encoder, todo, args.rounds, clock)
        print(f"\n{preset}: {parameters(config):,} parameters")
        print(f"{'variant':<26}{'ms a step':>10}{'speed-up':>10}{'saved MiB':>11}")
        for name, forward, baseline in todo:
            ratio = ""
            if baseline:
                pairs = zip(times[baseline], times[name], strict=True)
                ratio = f"{statistics.median(a / b for a, b in pairs):.1f}x"
            saved = saved_mib(forward, encoder)
            print(f"{name:<26}{1e3 * statistics.median(times[name]):>10.1f}{ratio:>10}{saved:>11.0f}", flush=True)


def measure(
    encoder: torch.nn.Module, todo: list[Variant], rounds: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Seconds of forward + backward in each round by variant; the variants must agree."""
    times: dict[str, list[float]] = {name: [] for name, _, _ in todo}
    expected = None
    for index in range(rounds + 1):  # the first round warms up
        for name, forward, _ in todo:
            began = clock()
            out = forward()
            out.square().sum().backward()
            seconds = clock() - began
            encoder.zero_grad(set_to_none=True)
            if index:
                times[name].append(seconds)
            expected = out.detach() if expected is None else expected
            if index == 0:
                torch.testing.assert_close(out.detach(), expected, rtol=1e-3, atol=1e-3)
    return times


if __name__ == "__main__":
    main()
