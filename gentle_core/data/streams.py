"""Random streams with names.

Every random decision of a run has a stream of its own, keyed by the seed and what it is for ("matched", epoch 3).
Switching one part of a run off therefore leaves all the others as they were, and nothing depends on how many
workers or ranks share the work, or on a resume.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def _digest(seed: int, key: tuple[str | int, ...]) -> bytes:
    return hashlib.blake2b(repr((seed, *key)).encode(), digest_size=16).digest()


def stream(seed: int, *key: str | int) -> np.random.Generator:
    """The generator of the stream `key`; the same arguments always give the same draws."""
    return np.random.Generator(np.random.Philox(key=int.from_bytes(_digest(seed, key), "little")))


def torch_seed(seed: int, *key: str | int) -> int:
    """A 63-bit seed for torch's generators, for dropout and batch-level augmentations."""
    return int.from_bytes(_digest(seed, key)[:8], "little") >> 1


def seed_torch(device: torch.device, seed: int, *key: str | int) -> None:
    """Start the stream `key` in the generators that operations on `device` draw from.

    `torch.manual_seed` does as much for every kind of device. Where one of them has not been used yet, it notes down a
    whole stack trace each time, and a step seeds often.
    """
    import torch

    if device.type == "cpu":
        torch.default_generator.manual_seed(torch_seed(seed, *key))
    else:
        torch.manual_seed(torch_seed(seed, *key))
