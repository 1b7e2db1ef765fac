"""`protein/fold` and `protein/reaction`: each chain has one class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np

from gentle_core.api import BuildContext, DataError, EmbeddingModel, knn_accuracy, linear_probe
from gentle_protein.datasets.cdconv_layout import Benchmark, read_fold, read_reaction
from gentle_protein.tasks.config import FoldConfig, ProbeConfig, ReactionConfig
from gentle_protein.tasks.features import embed
from gentle_protein.tasks.retained import facts

FOLD_SIZES = {"train": 12_312, "val": 736, "test_fold": 718, "test_superfamily": 1_254, "test_family": 1_272}
REACTION_SIZES = {"train": 29_215, "val": 2_562, "test": 5_651}


@attrs.frozen(eq=False)
class Classification:
    """Accuracy in percent of a linear probe and of the nearest training neighbour (cosine), for each tower.

    The probe's regularisation is chosen on `val`, so its figure there is optimistic; the test splits are scored once.
    """

    benchmark: Benchmark
    config: ProbeConfig
    official: Mapping[str, int]

    def evaluate(self, model: EmbeddingModel) -> dict[str, Any]:
        """`<tower>/<probe|1nn>/<split>` and `majority/<split>`, the accuracy of always naming the commonest class."""
        splits = self.benchmark.splits
        labels = {split: found.labels for split, found in splits.items()}
        held_out = [split for split in splits if split != "train"]
        common = np.bincount(labels["train"]).argmax()
        found: dict[str, Any] = {f"majority/{split}": _accuracy(labels[split] == common) for split in held_out}
        chosen = {}
        for tower, x in embed(model, self.config, {split: part.chains for split, part in splits.items()}).items():
            probe = linear_probe(x["train"], labels["train"], x["val"], labels["val"])
            chosen[tower] = probe.strength
            classes = np.array(probe.classes)
            for split in held_out:
                predicted = classes[probe.probe.logits(x[split]).argmax(dim=1).cpu().numpy()]
                found[f"{tower}/probe/{split}"] = _accuracy(predicted == labels[split])
                found[f"{tower}/1nn/{split}"] = knn_accuracy(x["train"], labels["train"], x[split], labels[split])
        more = {"metric": "accuracy, %", "space": self.config.space, "C (chosen on val)": chosen}
        return {**found, "facts": {**more, **facts(splits, self.official)}}


def _accuracy(right: np.ndarray) -> float:
    return 100.0 * float(right.mean())


def build_fold(config: FoldConfig, context: BuildContext) -> Classification:
    """Raises DataError where the folder is not in this layout or lacks the asked test split."""
    benchmark = read_fold(config.path)
    if config.level != "all":
        wanted = f"test_{config.level}"
        if wanted not in benchmark.splits:
            raise DataError(f"{config.path}: has no {wanted}.fasta, which level = {config.level!r} asks for")
        kept = {split: found for split, found in benchmark.splits.items() if split in ("train", "val", wanted)}
        benchmark = attrs.evolve(benchmark, splits=kept)
    return Classification(benchmark, config, FOLD_SIZES)


def build_reaction(config: ReactionConfig, context: BuildContext) -> Classification:
    """Raises DataError where the folder is not in this layout."""
    return Classification(read_reaction(config.path), config, REACTION_SIZES)
