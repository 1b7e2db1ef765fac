"""`protein/ec` and `protein/go`: each chain has any number of terms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np

from gentle_core.api import BuildContext, EmbeddingModel, knn_predict, multilabel_probe
from gentle_protein.datasets.cdconv_layout import Benchmark, read_cutoffs, read_function
from gentle_protein.metrics import fmax
from gentle_protein.tasks.config import EcConfig, GoConfig
from gentle_protein.tasks.features import embed
from gentle_protein.tasks.retained import facts

EC_SIZES = {"train": 15_551, "val": 1_729, "test": 1_919}
GO_SIZES = {"train": 29_898, "val": 3_322, "test": 3_415}


@attrs.frozen(eq=False)
class FunctionPrediction:
    """Protein-centric Fmax (0-1) of a linear probe and of the nearest training neighbour's terms, for each tower.

    The probe's regularisation is chosen on `val`, so its figure there is optimistic; the test chains are scored once,
    for each cut-off those of lower identity to training (all of them where the list of identities is missing).
    """

    benchmark: Benchmark
    config: EcConfig | GoConfig
    official: Mapping[str, int]
    cutoffs: Mapping[str, frozenset[int]]

    def evaluate(self, model: EmbeddingModel) -> dict[str, Any]:
        """`<tower>/<probe|1nn>/<split>` and `naive/<split>`, which predicts each term by its frequency in training."""
        splits = self.benchmark.splits
        train = splits["train"].labels
        subsets = self._subsets()

        def figures(name: str, scores: Mapping[str, np.ndarray]) -> dict[str, float]:
            return {
                f"{name}/{subset}": fmax(scores[split][rows], splits[split].labels[rows])
                for subset, (split, rows) in subsets.items()
            }

        held_out = [split for split in splits if split != "train"]
        found: dict[str, Any] = figures("naive", {s: np.tile(train.mean(0), (len(splits[s]), 1)) for s in held_out})
        chosen = {}
        for tower, x in embed(model, self.config, {split: part.chains for split, part in splits.items()}).items():
            probe = multilabel_probe(
                x["train"], train.astype(np.float32), x["val"], splits["val"].labels.astype(np.float32), select=fmax
            )
            chosen[tower] = probe.strength
            scores = {s: probe.probe.logits(x[s]).sigmoid().double().cpu().numpy() for s in held_out}
            found |= figures(f"{tower}/probe", scores)
            mates = {s: knn_predict(x["train"], range(len(train)), x[s]) for s in held_out}
            found |= figures(f"{tower}/1nn", {s: train[mates[s]].astype(np.float64) for s in held_out})
        more = {"metric": "Fmax, 0-1", "space": self.config.space, "C (chosen on val)": chosen}
        counts = {subset: int(rows.sum()) for subset, (split, rows) in subsets.items() if subset != split}
        return {**found, "facts": {**more, **({"cut-offs": counts} if counts else {}), **facts(splits, self.official)}}

    def _subsets(self) -> dict[str, tuple[str, np.ndarray]]:
        """What is scored: name → split and rows (bool)."""
        subsets = {}
        for split, part in self.benchmark.splits.items():
            if split == "test" and self.cutoffs:
                for percent in self.config.cutoffs:
                    rows = np.array([percent in self.cutoffs.get(chain.id, ()) for chain in part.chains])
                    if rows.any():
                        subsets[f"test<{percent}%"] = (split, rows)
            elif split != "train":
                subsets[split] = (split, np.ones(len(part), dtype=bool))
        return subsets


def build_ec(config: EcConfig, context: BuildContext) -> FunctionPrediction:
    """Raises DataError where the folder is not in this layout."""
    return FunctionPrediction(read_function(config.path, "EC"), config, EC_SIZES, read_cutoffs(config.path, "EC"))


def build_go(config: GoConfig, context: BuildContext) -> FunctionPrediction:
    """Raises DataError where the folder is not in this layout."""
    benchmark = read_function(config.path, "GO", config.ontology)
    return FunctionPrediction(benchmark, config, GO_SIZES, read_cutoffs(config.path, "GO"))
