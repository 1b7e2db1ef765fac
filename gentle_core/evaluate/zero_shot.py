"""Zero-shot classification: an item's class is the one whose name, as text, lies nearest (Radford et al. 2021, 3.1.4).

Shapes: n items, K classes, T templates, d dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from gentle_core.errors import DataError
from gentle_core.evaluate.arrays import as_tensor


def class_directions(prompts: Any) -> Tensor:
    """One unit vector a class (K, d) from the embeddings of its prompts (K, T, d): the mean of their directions."""
    unit = F.normalize(torch.as_tensor(np.asarray(prompts)).double(), dim=2)
    return F.normalize(unit.mean(1), dim=1)


@attrs.frozen(eq=False)
class Classification:
    """What was predicted.

    Attributes:
        classes: names by number.
        truth: (n,) the right class of each item.
        order: (n, k) the k best classes of each item, the best first; of equal scores the lower number first.
    """

    classes: tuple[str, ...]
    truth: np.ndarray
    order: np.ndarray

    def accuracy(self, k: int = 1, keep: np.ndarray | None = None) -> float:
        """Share of items whose class is among the first k, in percent; of those with `keep` (n,) bool alone."""
        hit = (self.order[:, :k] == self.truth[:, None]).any(1)
        return 100.0 * float((hit if keep is None else hit[keep]).mean())

    @property
    def confusion(self) -> np.ndarray:
        """(K, K) counts: row the right class, column the predicted one."""
        counts = np.zeros((len(self.classes),) * 2, dtype=np.int64)
        np.add.at(counts, (self.truth, self.order[:, 0]), 1)
        return counts

    @property
    def per_class(self) -> dict[str, float]:
        """Accuracy of each class that has items, in percent."""
        counts = self.confusion
        total = counts.sum(1)
        return {c: 100.0 * counts[i, i] / total[i] for i, c in enumerate(self.classes) if total[i]}


def classify(
    items: Any, directions: Tensor, labels: Sequence[str], classes: Sequence[str], k: int = 5
) -> Classification:
    """Rank the classes of unit rows `items` (n, d) by their inner product with `directions` (K, d), in float64."""
    if not len(labels):
        raise DataError("there are no labelled items to classify")
    number = {name: i for i, name in enumerate(classes)}
    scores = as_tensor(items).double() @ directions.to(as_tensor(items).device).T
    order = scores.cpu().sort(dim=1, descending=True, stable=True).indices[:, :k].numpy()
    return Classification(tuple(classes), np.array([number[label] for label in labels]), order)


def figures(found: Classification, seen: Sequence[bool] | None = None, prefix: str = "zero-shot") -> dict[str, Any]:
    """Flat metrics of a classification in percent, and the confusion matrix.

    `seen` says which items were also in training; where there are any, `top1_unseen` leaves them out.
    """
    count = np.bincount(found.truth, minlength=len(found.classes))
    per_class = found.per_class
    metrics: dict[str, Any] = {f"{prefix}/top1": found.accuracy()}
    if len(found.classes) > 5:
        metrics[f"{prefix}/top5"] = found.accuracy(5)
    metrics[f"{prefix}/mean_per_class"] = float(np.mean(list(per_class.values())))
    metrics[f"{prefix}/top1_chance"] = 100.0 / len(found.classes)
    metrics[f"{prefix}/majority"] = 100.0 * float(count.max()) / len(found.truth)
    metrics[f"{prefix}/items"] = len(found.truth)
    if seen is not None:
        fresh = ~np.asarray(seen, dtype=bool)
        metrics[f"{prefix}/seen_in_training"] = int((~fresh).sum())
        if fresh.any() and not fresh.all():
            metrics[f"{prefix}/top1_unseen"] = found.accuracy(keep=fresh)
    metrics |= {f"{prefix}/class/{name}": value for name, value in per_class.items()}
    confusion: Mapping[str, Any] = {"classes": list(found.classes), "counts": found.confusion.tolist()}
    return metrics | {"confusion": confusion}
