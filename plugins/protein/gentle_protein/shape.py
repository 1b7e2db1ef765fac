"""`protein/shape`: a hand-made description of a Cα trace, with nothing to learn.

Local geometry (what helices, strands and turns look like) and the pattern of contacts, as histograms and means that do
not depend on pose. It serves closed forms as a further set of features beside a learned encoder's, and costs a
millisecond a chain.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gentle_core.api import BuildContext, DataError, EncoderModule, NoOptions
from gentle_protein.chain import MIN_RESIDUES

VERSION = 1
"""To be raised with every change of the numbers, so that cached features are not taken for the new ones."""

STEPS = (2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32)
"""Separations along the chain at which distances are described."""
ANGLES, TORSIONS = np.linspace(70, 160, 7), np.linspace(-180, 180, 13)
SEPARATIONS = (3, 4, 5, 6, 9, 12, 17, 24, 36, 52, 76, 110, 1 << 30)
CONTACT = (6.0, 8.0, 12.0)
"""Å: close pairs are counted by separation and distance."""
SPREAD = np.array([0.05, 0.25, 0.5, 0.75, 0.95])

WIDTH = len(STEPS) * (len(SPREAD) + 1) + (len(ANGLES) - 1) * (len(TORSIONS) - 1)
WIDTH += len(CONTACT) * (len(SEPARATIONS) - 1) + len(STEPS) + len(SPREAD) + 6


def describe(ca: np.ndarray) -> np.ndarray:
    """(WIDTH,) float32 of a trace (L, 3) in Å. What a short chain has no residues for is 0."""
    p = ca.astype(np.float64)
    length = len(p)
    u = np.diff(p, axis=0)
    u /= np.maximum(np.linalg.norm(u, axis=1, keepdims=True), 1e-6)
    found = [np.concatenate([_distances(p, k) for k in STEPS]), _turns(u), _contacts(p)]
    # How the directions of the chain stay or change: strands keep theirs, helices come back to it.
    found.append(np.array([np.mean((u[k:] * u[:-k]).sum(1)) if length - 1 > k else 0.0 for k in STEPS]))
    centred = p - p.mean(axis=0)
    radius = np.linalg.norm(centred, axis=1)
    size = max(float(np.sqrt(np.mean(radius**2))), 1e-6)
    found.append(np.quantile(radius / size, SPREAD))
    axes = np.sqrt(np.clip(np.linalg.eigvalsh(centred.T @ centred / length), 0, None))[::-1] / size
    found.append(np.array([np.log(size), size / length ** (1 / 3), *axes, np.log(length)]))
    return np.concatenate(found).astype(np.float32)


def _distances(p: np.ndarray, k: int) -> np.ndarray:
    """Quantiles of |p_{i+k} − p_i| over k, and the mean handedness of the turn in between."""
    if len(p) <= k:
        return np.zeros(len(SPREAD) + 1)
    way = p[k:] - p[:-k]
    first, last = k // 3 or 1, 2 * k // 3 or 1
    a, b, c = (p[i : len(p) - k + i] for i in (first, last, k))
    a, b, c = a - p[:-k], b - a, c - b
    volume = (np.cross(a, b) * c).sum(1)
    scale = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1) * np.linalg.norm(c, axis=1)
    hand = float(np.mean(volume / np.maximum(scale, 1e-6)))
    return np.array([*np.quantile(np.linalg.norm(way, axis=1), SPREAD) / k**0.6, hand])


def _turns(u: np.ndarray) -> np.ndarray:
    """The joint histogram of virtual bond angles and torsions, as shares of the residues."""
    if len(u) < 3:
        return np.zeros((len(ANGLES) - 1) * (len(TORSIONS) - 1))
    angle = np.degrees(np.arccos(np.clip(-(u[1:-1] * u[:-2]).sum(1), -1, 1)))
    n, m = np.cross(u[:-2], u[1:-1]), np.cross(u[1:-1], u[2:])
    torsion = np.degrees(np.arctan2((u[:-2] * m).sum(1), (n * m).sum(1)))
    angle = np.clip(angle, ANGLES[0], ANGLES[-1])
    table, _, _ = np.histogram2d(angle, torsion, bins=(ANGLES, TORSIONS))
    return np.sqrt(table.ravel() / len(angle))  # the square root evens out counts of very different size


def _contacts(p: np.ndarray) -> np.ndarray:
    """Close pairs a residue, by separation along the chain."""
    i, j = np.triu_indices(len(p), SEPARATIONS[0])
    distance = np.linalg.norm(p[i] - p[j], axis=1)
    place = np.searchsorted(SEPARATIONS, j - i, side="right") - 1
    bins = len(SEPARATIONS) - 1
    counts = [np.bincount(place[distance < limit], minlength=bins)[:bins] for limit in CONTACT]
    return np.sqrt(np.concatenate(counts) / len(p))


class Shape(EncoderModule):
    """Features (B, WIDTH) of structures; the numbers are made in `collate`."""

    width = WIDTH

    def collate(self, items: Sequence[Any]) -> Tensor:
        """
        Raises:
            DataError: a chain of fewer than three residues, or with coordinates that are not numbers.
        """
        for item in items:
            if len(item.ca) < MIN_RESIDUES or not np.isfinite(item.ca).all():
                raise DataError(
                    f"chain {item.id!r} has {len(item.ca)} residues or coordinates that are not finite numbers; "
                    f"protein/shape wants {MIN_RESIDUES} residues or more"
                )
        return torch.from_numpy(np.stack([describe(item.ca) for item in items]))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs

    def size(self, item: Any) -> int:
        return len(item)

    def fingerprint(self) -> str:
        return hashlib.sha256(f"protein/shape {VERSION}".encode()).hexdigest()

    def facts(self) -> Mapping[str, Any]:
        return {"weights": "none: a hand-made description", "width": WIDTH}


def build(config: NoOptions, context: BuildContext) -> Shape:
    return Shape()
