"""Batches for trying losses: random rows, partly matched, as leaves of the graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.nn import functional as F

from gentle_core.batch import AlignBatch, LossContext, LossOut, Rows
from gentle_core.builtin import needs
from gentle_core.testing.bench import DIMENSION, TOWERS, Subject
from gentle_core.testing.cases import NotApplicable, Violation

PROVIDED = {"pairs", "unpaired", "views", "raw", "labels"}
CLASSES = 3


@attrs.define
class Inputs:
    """Projections before normalisation, by tower: leaves (2 views, rows, dimension), ids (rows,), labels (rows, …)."""

    leaves: dict[str, Tensor]
    ids: dict[str, Tensor]
    needs: frozenset[str]
    labels: dict[str, Tensor]

    def batch(self, views: bool = True) -> AlignBatch:
        """What the training loop would make of them."""
        towers = {}
        for name, leaf in self.leaves.items():
            first, second = leaf[0], leaf[1]
            towers[name] = Rows(
                z=F.normalize(first, dim=1), ids=self.ids[name], raw=first,
                views=F.normalize(second, dim=1) if views and "views" in self.needs else None,
                raw_views=second if views and "views" in self.needs else None,
                extras={"labels": self.labels[name]} if "labels" in self.needs else {},
            )  # fmt: skip
        return AlignBatch(towers)

    def permuted(self, orders: Mapping[str, Tensor]) -> Inputs:
        """The rows of each tower in another order; new leaves."""
        return Inputs(
            {name: leaf.detach()[:, orders[name]].requires_grad_() for name, leaf in self.leaves.items()},
            {name: ids[orders[name]] for name, ids in self.ids.items()},
            self.needs,
            {name: labels[orders[name]] for name, labels in self.labels.items()},
        )

    def scaled(self, scale: float) -> Inputs:
        """The projections times `scale`; new leaves."""
        return self.of({name: leaf.detach() * scale for name, leaf in self.leaves.items()})

    def of(self, leaves: Mapping[str, Tensor]) -> Inputs:
        """Other projections of the same rows."""
        return attrs.evolve(
            self, leaves={name: leaf.detach().clone().requires_grad_() for name, leaf in leaves.items()}
        )

    def to(self, dtype: torch.dtype) -> Inputs:
        return self.of({name: leaf.to(dtype) for name, leaf in self.leaves.items()})


def numbers_of_towers(subject: Subject) -> tuple[int, int]:
    """The least and the largest number of towers that the loss and those inside it declare, as far as the kit goes."""
    least, most = subject.spec.min_modalities, subject.spec.max_modalities or len(TOWERS)
    children = getattr(subject.config(), "children", None)
    for child in children() if callable(children) else ():
        inner = subject.bench.catalog.get("loss", child.use).spec
        least, most = max(least, inner.min_modalities), min(most, inner.max_modalities or len(TOWERS))
    return least, most


def make_inputs(
    subject: Subject,
    counts: Sequence[int] = (7, 5, 6),
    pairs: int = 3,
    *,
    towers: int | None = None,
    dimensions: Mapping[str, int] | None = None,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> Inputs:
    """Random rows for the loss of `subject`. The mates of tower a's first `pairs` rows stand elsewhere in the others.

    Raises:
        NotApplicable: the loss needs what no batch of the training loop holds, or too many towers.
    """
    config = subject.config()
    try:
        wanted = needs(subject.spec, config, lambda name: subject.bench.catalog.get("loss", name).spec)
    except ValueError as error:
        raise Violation(
            f"with {config!r} it does not know what it needs: {error}", "mend the spec's example"
        ) from error
    if strange := sorted(wanted - PROVIDED):
        raise NotApplicable(f"it needs {', '.join(strange)}, which the training loop does not provide yet")
    least, most = numbers_of_towers(subject)
    number = min(max(2, least), most) if towers is None else towers
    if number > len(TOWERS):
        raise NotApplicable(f"it aligns {number} towers or more; the kit tries {len(TOWERS)}")
    generator = torch.Generator().manual_seed(seed)
    leaves, ids, labels = {}, {}, {}
    for position, name in enumerate(TOWERS[:number]):
        rows, dimension = counts[position], (dimensions or {}).get(name, DIMENSION)
        leaf = torch.randn(2, rows, dimension, generator=generator, dtype=torch.float64)
        leaf[1] = leaf[0] + 0.3 * leaf[1]  # a second view resembles the first
        leaves[name] = leaf.to(dtype).requires_grad_()
        own = torch.arange(rows) + 1000 * (position + 1)
        if position == 0:
            own[:pairs] = torch.arange(pairs)
        elif pairs:
            own[rows - pairs :] = torch.arange(pairs).flip(0)
        ids[name], labels[name] = own, torch.arange(rows) % CLASSES
    inputs = Inputs(leaves, ids, wanted, labels)
    if "labels" in wanted and _wants_columns(subject, inputs):
        inputs.labels = {name: _columns(own) for name, own in labels.items()}
    return inputs


def _columns(labels: Tensor) -> Tensor:
    """Labels as 0 and 1 (rows, classes); every row has its own class and some have a second."""
    table = F.one_hot(labels, CLASSES)
    table[::4, 0] = 1
    return table.float()


def _wants_columns(subject: Subject, inputs: Inputs) -> bool:
    """Whether the loss reads labels as columns of 0 and 1: it then refuses class numbers."""

    def probe() -> bool:
        try:
            evaluate(subject.build().double(), inputs.to(torch.float64))
        except Exception:
            return True
        return False

    return subject.bench.remembered(f"labels of {subject.entry.full_name}", probe)


def evaluate(loss: Any, inputs: Inputs, *, views: bool = True, **context: Any) -> LossOut:
    """The loss of a batch made of `inputs`."""
    names = list(inputs.leaves)
    pairs = tuple((a, b) for i, a in enumerate(names) for b in names[i + 1 :])
    out = loss(inputs.batch(views), LossContext(step=1, steps=10, pairs=pairs, **context))
    if not isinstance(out, LossOut) or not isinstance(out.loss, Tensor) or out.loss.dim():
        raise NotApplicable("it returns no scalar loss: see the check `value`")
    return out


def gradients(value: Tensor, inputs: Inputs, loss: Any = None) -> dict[str, Tensor]:
    """Of a value in its inputs, by tower, and in the parameters of `loss`, by name; 0 where there is none."""
    into = dict(inputs.leaves)
    if loss is not None:
        into |= {f"parameter {name}": p for name, p in loss.named_parameters() if p.requires_grad}
    if not value.requires_grad:
        return {name: torch.zeros_like(leaf) for name, leaf in into.items()}
    found = torch.autograd.grad(value, list(into.values()), allow_unused=True)
    return {
        name: torch.zeros_like(leaf) if gradient is None else gradient
        for (name, leaf), gradient in zip(into.items(), found, strict=True)
    }


def difference(a: Tensor, b: Tensor) -> float:
    """The largest difference, against the largest number in `b` (or 1, where that is less)."""
    if a.numel() == 0:
        return 0.0
    a, b = a.detach().double(), b.detach().double()
    return float((a - b).abs().max() / b.abs().max().clamp_min(1.0))
