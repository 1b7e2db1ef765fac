"""Checks of tasks, with a model that embeds items by a hash of their content."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gentle_core.data.features import content_key
from gentle_core.testing.bench import Subject
from gentle_core.testing.cases import NotApplicable, Violation, check

WIDTH = {"joint": 8, "feature": 12}


class RandomModel:
    """Towers for some modalities. Equal items have equal embeddings; beyond that they mean nothing."""

    def __init__(self, modalities: Sequence[str]):
        self.towers = {f"tower{number}": modality for number, modality in enumerate(modalities)}

    def embed(self, tower: str, items: Sequence[Any], space: str = "joint") -> Tensor:
        rows = []
        for item in items:
            seed = int.from_bytes(content_key(item)[:7], "big")
            rows.append(torch.randn(WIDTH[space], generator=torch.Generator().manual_seed(seed)))
        found = torch.stack(rows) if rows else torch.empty(0, WIDTH[space])
        return torch.nn.functional.normalize(found, dim=1) if space == "joint" else found


@check("task", "builds")
def builds(subject: Subject) -> None:
    """Its factory returns an object with `evaluate(model)`."""
    made = subject.build()
    if not callable(getattr(made, "evaluate", None)):
        raise Violation(f"its factory returns {type(made).__name__} without evaluate", "write evaluate(model)")


@check("task", "figures")
def figures(subject: Subject) -> None:
    """It returns flat names with finite numbers, and facts that are fit for JSON."""
    found = dict(subject.build().evaluate(_model(subject)))
    facts = found.pop("facts", {})
    if not found:
        raise Violation("it returns no figure", "return {name: number} for every split and tower that it evaluates")
    for name, number in found.items():
        if isinstance(number, bool) or not isinstance(number, (int, float)) or not math.isfinite(number):
            raise Violation(
                f"{name!r} is {number!r}", "return plain finite numbers (.item()); everything else goes under 'facts'"
            )
    try:
        json.dumps(facts)
    except (TypeError, ValueError) as error:
        raise Violation(f"its facts are not fit for JSON: {error}", "return str, numbers, lists, dicts") from error


@check("task", "repeatable")
def repeatable(subject: Subject) -> None:
    """The same model gets the same figures twice."""
    model = _model(subject)
    first, second = (dict(subject.build(seed=seed).evaluate(model)) for seed in (0, 1))
    changed = [k for k, v in first.items() if k != "facts" and repr(second.get(k)) != repr(v)]
    if changed or first.keys() != second.keys():
        raise Violation(
            f"evaluated twice, {', '.join(changed[:3]) or 'the names of its figures'} differ",
            "draw from a generator with a fixed seed",
        )


def _model(subject: Subject) -> RandomModel:
    if not subject.spec.modalities:
        raise NotApplicable("it declares no modality of its own, so that the kit does not know what to show it")
    return RandomModel(subject.spec.modalities)
