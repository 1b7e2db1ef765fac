"""Token batches without wasted padding.

Chains of one batch differ in length, and a padded position costs as much as a residue. Sorted by length and cut into
a few groups, each padded to its own maximum, a batch costs little more than its residues.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gentle_protein.alphabet import CLS, EOS, PAD


def group_by_length(lengths: Sequence[int], overhead: int) -> list[list[int]]:
    """Cut a batch into groups of similar length, at the least total cost.

    A group of n chains costs n × (its longest chain) + `overhead` token positions, the last for the fixed cost of
    one more call of the model. The optimum over all cuts of the sorted batch is found by dynamic programming.

    Returns:
        The indices of the chains by group, longest chains first.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    longest = np.array([lengths[i] for i in order])
    best = np.zeros(len(order) + 1)
    first = np.zeros(len(order) + 1, dtype=int)
    for end in range(1, len(order) + 1):
        starts = np.arange(end)
        cost = best[:end] + (end - starts) * longest[:end] + overhead
        first[end] = int(cost.argmin())
        best[end] = cost[first[end]]
    groups: list[list[int]] = []
    end = len(order)
    while end:
        groups.append(order[first[end] : end])
        end = first[end]
    return groups[::-1]


def pad(chains: Sequence[np.ndarray]) -> Tensor:
    """Residue tokens of several chains to (B, T) int64: CLS, residues, EOS, and padding up to the longest."""
    tokens = np.full((len(chains), max(map(len, chains)) + 2), PAD, dtype=np.int64)
    tokens[:, 0] = CLS
    for row, chain in zip(tokens, chains, strict=True):
        row[1 : len(chain) + 1] = chain
        row[len(chain) + 1] = EOS
    return torch.from_numpy(tokens)
