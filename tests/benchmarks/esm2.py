"""ESM-2: our path against fair-esm's own model, same weights, same real chains, one process, interleaved.

A randomly initialised model of the 8M size is saved in fair-esm's format and loaded by both. Each round times every
variant once; the table gives the median time and the median over rounds of fair-esm's time divided by the variant's.
fair-esm's language-model head is taken off, since only features are wanted.

    python tests/benchmarks/esm2.py [--rounds 5] [--batch 64] [--threads 1] [--clock cpu]
"""

from __future__ import annotations

import argparse
import contextlib
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gentle_core.api import BuildContext
from gentle_protein.alphabet import encode
from gentle_protein.esm2 import encoder as ours
from gentle_protein.esm2.batching import pad
from gentle_protein.esm2.config import MODELS, Esm2Config
from gentle_protein.esm2.convert import reference

SIZE = "esm2_t6_8M_UR50D"


def real_chains(count: int, seed: int) -> list[str]:
    """Training chains of the shipped sample, drawn at random."""
    sample = np.load(str(files("gentle_protein") / "data" / "pdb_sample.npz"))
    ends = np.cumsum(sample["length"].astype(np.int64))
    letters = sample["sequence"].tobytes().decode()
    chains = [letters[end - length : end] for end, length in zip(ends, sample["length"].tolist(), strict=True)]
    train = np.flatnonzero(sample["split"] == 0)
    return [chains[i] for i in np.random.default_rng(seed).choice(train, count, replace=False)]


def save_random(path: Path) -> None:
    """A random 8M model in the format of the released checkpoints."""
    from esm.data import Alphabet
    from esm.model.esm2 import ESM2

    torch.manual_seed(0)
    shape = MODELS[SIZE]
    model = ESM2(shape.layers, shape.width, shape.heads, Alphabet.from_architecture("ESM-1b"))
    settings = argparse.Namespace(
        encoder_layers=shape.layers,
        encoder_embed_dim=shape.width,
        encoder_attention_heads=shape.heads,
        token_dropout=True,
    )
    state = {f"encoder.sentence_encoder.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({"cfg": {"model": settings}, "model": state}, path)


def fair_features(model: nn.Module, chains: list[str]) -> Tensor:
    tokens = pad([encode(chain) for chain in chains])
    states = model(tokens, repr_layers=[model.num_layers])["representations"][model.num_layers]
    residue = (tokens > 2).unsqueeze(-1)
    return torch.where(residue, states, 0).sum(1) / residue.sum(1)


def our_features(encoder: ours.Esm2Encoder, chains: list[str], bucketed: bool) -> Tensor:
    ours._OVERHEAD["cpu"] = DEFAULT_OVERHEAD if bucketed else math.inf
    return encoder(encoder.collate(chains))


DEFAULT_OVERHEAD = ours._OVERHEAD["cpu"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    clock = time.perf_counter if args.clock == "wall" else time.process_time

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "random.pt"
        save_random(path)
        fair = reference(path)
        encoder = ours.build(Esm2Config(path=path, dropout=0.0), BuildContext(cache_dir=None))
    fair.lm_head = nn.Identity()
    variants: dict[str, tuple[nn.Module, Callable[[list[str]], Tensor]]] = {
        "fair-esm": (fair, lambda chains: fair_features(fair, chains)),
        "ours, padded": (encoder, lambda chains: our_features(encoder, chains, bucketed=False)),
        "ours, bucketed": (encoder, lambda chains: our_features(encoder, chains, bucketed=True)),
    }
    chains = real_chains(args.batch, seed=0)
    print(f"{args.batch} chains of {min(map(len, chains))}-{max(map(len, chains))} residues, {args.threads} thread(s)")
    with torch.no_grad():
        gap = max((f(chains) - fair_features(fair, chains)).abs().max().item() for _, f in variants.values())
    print(f"largest difference between features: {gap:.1e}\n")
    print(f"{'pass':<18}{'precision':<12}{'variant':<18}{'seconds':>9}{'speed-up':>10}")
    for training in (False, True):
        for half in (False, True):
            times: dict[str, list[float]] = {name: [] for name in variants}
            for index in range(args.rounds + 1):  # the first round warms up
                batch = real_chains(args.batch, seed=index)
                for name, (model, features) in variants.items():
                    seconds = timed(model, features, batch, training, half, clock)
                    if index:
                        times[name].append(seconds)
            for name, seconds in times.items():
                ratio = statistics.median(a / b for a, b in zip(times["fair-esm"], seconds, strict=True))
                label = "forward+backward" if training else "forward"
                precision = "bfloat16" if half else "float32"
                print(
                    f"{label:<18}{precision:<12}{name:<18}{statistics.median(seconds):>9.2f}{ratio:>9.2f}x", flush=True
                )


def timed(
    model: nn.Module,
    features: Callable[[list[str]], Tensor],
    batch: list[str],
    training: bool,
    half: bool,
    clock: Callable[[], float],
) -> float:
    """Seconds of one pass over the batch."""
    model.train(training)
    cast: Any = torch.autocast("cpu", dtype=torch.bfloat16) if half else contextlib.nullcontext()
    began = clock()
    with torch.set_grad_enabled(training), cast:
        out = features(batch)
    if training:
        out.float().pow(2).sum().backward()
        model.zero_grad(set_to_none=True)
    return clock() - began


if __name__ == "__main__":
    main()
