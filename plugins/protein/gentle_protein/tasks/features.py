"""Chains through the towers of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gentle_core.api import DataError, EmbeddingModel
from gentle_protein.chain import SEQUENCE, STRUCTURE, Structure
from gentle_protein.datasets.chains import Chain
from gentle_protein.tasks.config import ProbeConfig

TOGETHER = "together"
"""Name of the features of all towers side by side."""


def choose_towers(model: EmbeddingModel, wanted: str) -> list[str]:
    """The towers that read chains, or the wanted one alone.

    Raises DataError where there is none, or where the wanted tower is missing or reads something else.
    """
    readable = [name for name, modality in model.towers.items() if modality in (SEQUENCE, STRUCTURE)]
    have = ", ".join(f"{name} ({modality})" for name, modality in model.towers.items())
    if wanted and wanted not in readable:
        raise DataError(f"tower {wanted!r} does not exist or reads no chains; the model has {have}")
    if not readable:
        raise DataError(f"no tower reads {SEQUENCE} or {STRUCTURE}; the model has {have}")
    return [wanted] if wanted else readable


def embed(
    model: EmbeddingModel, config: ProbeConfig, splits: Mapping[str, Sequence[Chain]]
) -> dict[str, dict[str, np.ndarray]]:
    """Features (n, d), float32, by tower and split. With several towers, `together` has them side by side.

    Encoder features are standardised with training statistics and divided by the square root of their width, so that
    cosines mean something and towers weigh the same in `together`. Joint embeddings are unit vectors and stay so.
    """
    features = {
        tower: {split: _embed(model, tower, config.space, chains) for split, chains in splits.items()}
        for tower in choose_towers(model, config.tower)
    }
    if config.space == "feature":
        features = {tower: _standardised(by_split) for tower, by_split in features.items()}
    if len(features) > 1:
        parts = list(features.values())
        features[TOGETHER] = {split: np.concatenate([part[split] for part in parts], axis=1) for split in splits}
    return features


def _embed(model: EmbeddingModel, tower: str, space: str, chains: Sequence[Chain]) -> np.ndarray:
    items: list[Any] = [_item(chain, model.towers[tower]) for chain in chains]
    return np.asarray(model.embed(tower, items, space).detach().cpu().float().numpy())


def _item(chain: Chain, modality: str) -> Any:
    if modality == SEQUENCE:
        return chain.sequence
    assert chain.ca is not None
    return Structure(chain.id, chain.ca)


def _standardised(by_split: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    train = by_split["train"]
    mean, scale = train.mean(0), train.std(0)
    scale = np.where(scale > 1e-6 * max(float(scale.max()), 1e-30), scale, 1.0) * np.sqrt(train.shape[1])
    return {split: (x - mean) / scale for split, x in by_split.items()}
