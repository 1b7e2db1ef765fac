"""What can be read from frozen features: nearest neighbours and linear probes, single- and multi-label.

Both probes standardise the features with training statistics and choose their regularisation on validation data.
They solve scikit-learn's logistic regression problem, 1/2 |W|² + C Σ loss with a free intercept, but all classes at
once by L-BFGS in torch: two thousand Gene Ontology terms are one matrix product, on whatever device the features are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from gentle_core.errors import DataError
from gentle_core.evaluate.arrays import Ids, as_tensor, blocks, match_codes, plain

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Values of C that are tried: the weight of the data against the prior."""


def knn_predict(
    train: Any, train_labels: Ids, query: Any | None = None, k: int = 1, block: int | None = None
) -> list[Any]:
    """Labels of `query` (m, d) by the `k` nearest rows of `train` (n, d) in cosine; most votes win.

    Of labels with equal votes, the one with the higher sum of cosines wins. Without `query`, every training row is
    predicted from all others (leave one out). Memory is O(block * n).
    """
    known = F.normalize(as_tensor(train).double(), dim=1)
    asked = known if query is None else F.normalize(as_tensor(query).double().to(known.device), dim=1)
    codes, _ = match_codes(train_labels, [])
    names = _names(train_labels, codes)
    label = torch.as_tensor(codes, device=known.device)
    neighbours = min(k, len(known) - (query is None))
    if neighbours < 1:
        raise DataError("nearest neighbours need at least one labelled row besides the query")
    predicted: list[Any] = []
    for part in blocks(len(asked), max(len(known), len(names)), block):
        cosine = asked[part] @ known.T
        if query is None:
            rows = torch.arange(len(cosine), device=cosine.device)
            cosine[rows, rows + part.start] = -torch.inf
        nearest, index = cosine.topk(neighbours, dim=1)
        # A vote weighs more than any sum of cosines, which lie in [-k, k].
        votes = torch.zeros(len(cosine), len(names), dtype=torch.float64, device=cosine.device)
        votes.scatter_add_(1, label[index], nearest + 4.0 * neighbours)
        predicted += [names[i] for i in votes.argmax(dim=1).tolist()]
    return predicted


def knn_accuracy(
    train: Any, train_labels: Ids, query: Any | None = None, query_labels: Ids | None = None, k: int = 1
) -> float:
    """Accuracy of `knn_predict` in percent; leave one out on the training rows where no query is given."""
    truth = plain(train_labels if query_labels is None else query_labels)
    return accuracy(knn_predict(train, train_labels, query, k), truth)


def accuracy(predicted: Sequence[Any], truth: Ids) -> float:
    """Share of equal labels in percent."""
    truth = plain(truth)
    if len(predicted) != len(truth) or not truth:
        raise DataError(f"{len(predicted)} predictions cannot be compared with {len(truth)} labels")
    return 100.0 * sum(p == t for p, t in zip(predicted, truth, strict=True)) / len(truth)


@attrs.frozen(eq=False)
class Probe:
    """A linear map of standardised features: logits = ((x - mean) / scale) W + b."""

    mean: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor

    def logits(self, x: Any) -> Tensor:
        """(n, classes) of features (n, d)."""
        x = as_tensor(x).to(self.weight)
        return ((x - self.mean) / self.scale) @ self.weight + self.bias


@attrs.frozen(eq=False)
class LinearProbe:
    """A multi-class probe and how it did.

    Attributes:
        accuracy: on the test data in percent, or None where none were given.
        validation: accuracy on the validation data for each C, in percent.
        strength: the C that was chosen (of equals, the smallest).
        predictions: labels of the test data.
        classes: labels by column of the logits. A test label that training never saw counts as an error.
        probe: the fitted map.
    """

    accuracy: float | None
    validation: dict[float, float]
    strength: float
    predictions: list[Any]
    classes: list[Any]
    probe: Probe


def linear_probe(
    train: Any,
    train_labels: Ids,
    val: Any,
    val_labels: Ids,
    test: Any | None = None,
    test_labels: Ids | None = None,
    *,
    strengths: Sequence[float] = STRENGTHS,
) -> LinearProbe:
    """Multinomial logistic regression on features (n, d), with C chosen by validation accuracy.

    The test data are looked at once, with the chosen C.
    """
    codes, _ = match_codes(train_labels, [])
    classes = _names(train_labels, codes)
    if len(classes) < 2:
        raise DataError(f"a linear probe needs at least two classes; the training labels have {len(classes)}")

    def predict(probe: Probe, x: Any) -> list[Any]:
        return [classes[i] for i in probe.logits(x).argmax(dim=1).tolist()]

    probes = _path(as_tensor(train), torch.as_tensor(codes), len(classes), strengths)
    validation = {c: accuracy(predict(probe, val), val_labels) for c, probe in probes.items()}
    best = max(sorted(validation), key=validation.__getitem__)
    predictions = [] if test is None else predict(probes[best], test)
    score = accuracy(predictions, test_labels) if test_labels is not None else None
    return LinearProbe(score, validation, best, predictions, classes, probes[best])


@attrs.frozen(eq=False)
class MultiLabelProbe:
    """A multi-label probe.

    Attributes:
        scores: (m, T) probabilities of the test data, or None where none were given.
        val_scores: (l, T) probabilities of the validation data under the chosen C.
        validation: what `select` gave for each C.
        strength: the C that was chosen.
        probe: the fitted map.
    """

    scores: np.ndarray | None
    val_scores: np.ndarray
    validation: dict[float, float]
    strength: float
    probe: Probe


def multilabel_probe(
    train: Any,
    train_targets: Any,
    val: Any,
    val_targets: Any,
    test: Any | None = None,
    *,
    select: Callable[[np.ndarray, np.ndarray], float] | None = None,
    strengths: Sequence[float] = STRENGTHS,
) -> MultiLabelProbe:
    """One logistic regression a term on features (n, d) and targets (n, T) of 0 and 1, with one C for all terms.

    Args:
        select: (scores (l, T), targets (l, T)) -> a figure that is better when higher, such as a validation Fmax;
            by default the negative mean cross-entropy.
    """
    targets = as_tensor(train_targets)
    truth = as_tensor(val_targets).double().cpu().numpy()
    choose = select or _negative_cross_entropy
    probes = _path(as_tensor(train), targets, targets.shape[1], strengths)
    scores = {c: _probabilities(probe, val) for c, probe in probes.items()}
    validation = {c: float(choose(score, truth)) for c, score in scores.items()}
    best = max(sorted(validation), key=validation.__getitem__)
    tested = None if test is None else _probabilities(probes[best], test)
    return MultiLabelProbe(tested, scores[best], validation, best, probes[best])


def _probabilities(probe: Probe, x: Any) -> np.ndarray:
    return probe.logits(x).sigmoid().double().cpu().numpy()


def _negative_cross_entropy(scores: np.ndarray, targets: np.ndarray) -> float:
    clipped = np.clip(scores, 1e-12, 1 - 1e-12)
    return float(np.mean(targets * np.log(clipped) + (1 - targets) * np.log1p(-clipped)))


def _names(labels: Ids, codes: np.ndarray) -> list[Any]:
    """Label of each code, which `match_codes` numbers by first appearance."""
    values = plain(labels)
    return [values[row] for row in np.unique(codes, return_index=True)[1]]


@torch.inference_mode(False)
def _path(x: Tensor, targets: Tensor, classes: int, strengths: Sequence[float]) -> dict[float, Probe]:
    """The probes for all C, each started from the solution for the next smaller one.

    `targets`: (n,) int64 for softmax, (n, classes) floats for independent sigmoids.
    """
    if len(x) != len(targets):
        raise DataError(f"{len(x)} rows of features but {len(targets)} labels")
    x = x if x.dtype == torch.float64 else x.float()
    mean, scale = x.mean(dim=0), x.std(dim=0, correction=0)
    scale = torch.where(scale > 1e-6 * scale.max().clamp_min(1e-30), scale, torch.ones_like(scale))
    features = (x - mean) / scale
    # A copy, because autograd refuses tensors that the caller made in inference mode.
    targets = targets.clone().to(x.device) if targets.ndim == 1 else targets.clone().to(x)
    weight = torch.zeros(x.shape[1], classes, dtype=x.dtype, device=x.device)
    bias = torch.zeros(classes, dtype=x.dtype, device=x.device)
    probes = {}
    for c in sorted(strengths):
        weight, bias = _logistic(features, targets, weight, bias, c)
        probes[c] = Probe(mean, scale, weight, bias)
    return probes


def _logistic(x: Tensor, targets: Tensor, weight: Tensor, bias: Tensor, c: float) -> tuple[Tensor, Tensor]:
    """Minimise 1/2 |W|² / (C n) + mean loss from (weight, bias) by L-BFGS with a strong Wolfe line search."""
    weight, bias = weight.clone().requires_grad_(), bias.clone().requires_grad_()
    optimiser = torch.optim.LBFGS(
        [weight, bias],
        max_iter=300,
        history_size=20,
        tolerance_grad=1e-6,
        tolerance_change=1e-10,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        with torch.enable_grad():
            logits = x @ weight + bias
            if targets.ndim == 1:
                loss = F.cross_entropy(logits, targets)
            else:
                loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="sum") / len(x)
            objective = loss + weight.square().sum() / (2.0 * c * len(x))
            objective.backward()
        return objective.detach()

    optimiser.step(closure)
    return weight.detach(), bias.detach()
