"""Random streams with names.

Every random decision of a run has a stream of its own, keyed by the seed and what it is for ("matched", epoch 3).
Switching one part of a run off therefore leaves all the others as they were, and nothing depends on how many
workers or ranks share the work, or on a resume.
"""

from __future__ import annotations

import hashlib

import numpy as np


def _digest(seed: int, key: tuple[str | int, ...]) -> bytes:
    return hashlib.blake2b(repr((seed, *key)).encode(), digest_size=16).digest()


def stream(seed: int, *key: str | int) -> np.random.Generator:
    """The generator of the stream `key`; the same arguments always give the same draws."""
    return np.random.Generator(np.random.Philox(key=int.from_bytes(_digest(seed, key), "little")))


def torch_seed(seed: int, *key: str | int) -> int:
    """A 63-bit seed for torch's generators, for dropout and batch-level augmentations."""
    return int.from_bytes(_digest(seed, key)[:8], "little") >> 1
