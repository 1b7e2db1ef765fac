"""What is measured on held-out embeddings, in training and at the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np
import torch

from gentle_core.data.streams import stream
from gentle_core.engine.splits import Embedded
from gentle_core.evaluate.bootstrap import paired_bootstrap
from gentle_core.evaluate.summary import evaluate_embeddings
from gentle_core.losses import mk_mmd, sdd


def measure(
    embedded: Embedded, pairs: Sequence[tuple[str, str]], shortcuts: Sequence[str], seed: int, scorer: Any = None
) -> dict[str, float]:
    """Flat metrics of a split: retrieval, geometry, shortcuts, and the distribution distances beside their floors."""
    found = embedded.ranks(pairs) if scorer is None else None
    metrics = dict(
        evaluate_embeddings(
            embedded.z, embedded.samples, embedded.attributes, pairs, shortcuts, scorer=scorer, found=found
        )
    )
    metrics |= distribution_distances(embedded, pairs, seed)
    return {name: float(value) for name, value in metrics.items()}


@torch.no_grad()
def distribution_distances(
    embedded: Embedded, pairs: Sequence[tuple[str, str]], seed: int, rows: int = 1024
) -> dict[str, float]:
    """SDD and MK-MMD between towers on at most `rows` held-out rows a side, and each one's floor.

    The floor is the same quantity between two halves of one tower's rows, averaged over the two towers: what two
    samples of a single distribution differ by at that size. The distance itself is taken at the floor's size.
    """
    found: dict[str, list[float]] = {name: [] for name in ("sdd", "sdd_floor", "mmd", "mmd_floor")}
    for a, b in pairs:
        u, v = (embedded.z[tower] for tower in (a, b))
        half = min(len(u), len(v), rows) // 2
        if half < 2:
            continue
        rng = stream(seed, "halves", a, b)
        (u1, u2), (v1, v2) = (_halves(z, half, rng) for z in (u, v))
        found["sdd"].append(float(sdd(u1, v2)))
        found["sdd_floor"].append(float(sdd(u1, u2) + sdd(v1, v2)) / 2)
        found["mmd"].append(float(mk_mmd(u1, v2)))
        found["mmd_floor"].append(float(mk_mmd(u1, u2) + mk_mmd(v1, v2)) / 2)
    return {name: float(np.mean(values)) for name, values in found.items() if values}


def _halves(z: torch.Tensor, half: int, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    order = torch.from_numpy(rng.permutation(len(z)))
    return z[order[:half]], z[order[half : 2 * half]]


def compare(
    ours: Embedded, theirs: Embedded, pairs: Sequence[tuple[str, str]], seed: int
) -> dict[str, dict[str, float]]:
    """Difference in mean recall, ours − theirs, with 95 % intervals of a paired bootstrap over samples."""
    shared = [(a, b) for a, b in pairs if a in theirs.z and b in theirs.z]
    if not shared:
        return {}
    differences = paired_bootstrap(ours.ranks(shared), theirs.ranks(shared), seed=seed)
    return {name: attrs.asdict(found) for name, found in differences.items()}
