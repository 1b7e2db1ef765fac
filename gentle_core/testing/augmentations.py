"""Checks of augmentations."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch

from gentle_core.catalog import Entry
from gentle_core.errors import DataError
from gentle_core.testing.bench import Bench, Subject, one_line
from gentle_core.testing.cases import NotApplicable, Violation, check
from gentle_core.testing.contents import content, leaves


@check("augmentation", "builds")
def builds(subject: Subject) -> None:
    """Its factory returns a function (item, rng)."""
    made = subject.build()
    if not callable(made):
        raise Violation(f"its factory returns {type(made).__name__}", "return a function (item, rng) -> item")


@check("augmentation", "seeded")
def seeded(subject: Subject) -> None:
    """Its result depends on the item and the given generator alone."""
    augment = subject.build()
    for modality in subject.modalities():
        for item in _inputs(subject, modality):
            first = content(augment(copy.deepcopy(item), _rng(1)))
            _stir()
            if content(augment(copy.deepcopy(item), _rng(1))) != first:
                raise Violation(
                    f"an item of {modality!r} comes out differently under one generator state",
                    "draw from the given `rng` alone: not from random, numpy.random or torch, and keep no state",
                )


@check("augmentation", "untouched")
def untouched(subject: Subject) -> None:
    """It leaves its input as it was."""
    augment = subject.build()
    for modality in subject.modalities():
        for item in _inputs(subject, modality):
            before = content(item)
            for draw in range(3):
                augment(item, _rng(draw))
            if content(item) != before:
                raise Violation(
                    f"it changes the item of {modality!r} that it is given",
                    "work on a copy (array.copy(), attrs.evolve): the same item serves other views and steps",
                )


@check("augmentation", "varies")
def varies(subject: Subject) -> None:
    """Another generator state gives another result, for some item."""
    augment = subject.build()
    for modality in subject.modalities():
        items = _inputs(subject, modality)
        if all(content(augment(item, _rng(draw))) == content(item) for item in items for draw in range(8)):
            raise Violation(
                f"with these options it never changes an item of {modality!r}",
                "choose defaults (or an example) that do something",
            )


@check("augmentation", "pairing")
def pairing(subject: Subject) -> None:
    """It keeps the pairing: an item stays what it is, and both sides of a pair get the same draws."""
    augment = subject.build()
    used: dict[str, float] = {}
    for modality in subject.modalities():
        for item in _inputs(subject, modality):
            rng = _rng(5)
            result = augment(copy.deepcopy(item), rng)
            if type(result) is not type(item):
                raise Violation(
                    f"it makes {type(result).__name__} of {type(item).__name__}", "return an item of the same kind"
                )
            for key in ("id", "key", "name"):
                if (own := _get(item, key)) is not None and _get(result, key) != own:
                    raise Violation(
                        f"it changes the item's {key!r} from {own!r} to {_get(result, key)!r}", "leave identity alone"
                    )
            used.setdefault(modality, rng.random())
    if len(set(used.values())) > 1:
        raise Violation(
            f"it makes other numbers of draws for {', '.join(used)}: the two sides of a pair would part ways",
            "draw all choices first, the same number whatever the item and its modality",
        )


@check("augmentation", "readable")
def readable(subject: Subject) -> None:
    """Encoders of its modality can read what it makes."""
    if subject.spec.stage != "item":
        raise NotApplicable("it acts on collated inputs, which other checks try")
    augment = subject.build()
    for modality in subject.modalities():
        encoder = _encoder(subject, modality)
        if encoder is None:
            continue
        items = [augment(item, _rng(draw)) for draw, item in enumerate(subject.items(modality))]
        try:
            with torch.no_grad():
                features = encoder(encoder.collate(items))
        except Exception as error:
            raise Violation(
                f"what it makes of {modality!r} cannot be encoded: {one_line(error)}", "keep shape, dtype and meaning"
            ) from error
        if not torch.isfinite(features).all():
            raise Violation(f"what it makes of {modality!r} gives features that are not finite", "keep values in range")


@check("augmentation", "by-row")
def by_row(subject: Subject) -> None:
    """Where it changes a batch row by row, a row depends on its own generator alone."""
    augment = subject.build()
    if subject.spec.stage != "batch" or not callable(getattr(augment, "by_row", None)):
        return
    for modality in subject.modalities():
        for inputs in _inputs(subject, modality):
            count = len(subject.items(modality))
            before = content(inputs)
            first = augment.by_row(inputs, [_rng(seed) for seed in range(count)])
            second = augment.by_row(inputs, [_rng(0), *(_rng(100 + seed) for seed in range(1, count))])
            if content(inputs) != before:
                raise Violation("by_row changes the inputs that it is given", "work on copies")
            if any(not torch.equal(one[0], other[0]) for one, other in _rows(first, second, count)):
                raise Violation(
                    "by_row changes a row when only the generators of the others are other ones",
                    "draw for row i from rngs[i] alone",
                )


# -- helpers ---------------------------------------------------------------------------------------------------------


def _rows(first: Any, second: Any, count: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Tensors of two collated inputs that hold one row an item."""
    for one, other in zip(leaves(first), leaves(second), strict=True):
        if isinstance(one, torch.Tensor) and one.dim() and len(one) == count and one.shape == other.shape:
            yield one, other


def _rng(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


def _stir() -> None:
    """Move every generator but the one that is given."""
    random.random(), np.random.random(), torch.rand(1)


def _inputs(subject: Subject, modality: str) -> list[Any]:
    """Items, or for stage "batch" one collated input."""
    items = subject.items(modality)
    if subject.spec.stage == "item":
        return items
    encoder = _encoder(subject, modality)
    if encoder is None:
        raise NotApplicable(f"it acts on collated inputs, and there is no encoder of {modality!r} to collate any")
    return [encoder.collate(items)]


def _encoder(subject: Subject, modality: str) -> Any:
    """An encoder that reads the modality, of the same plugin if possible; None where none can be built."""
    bench = subject.bench
    for entry in sorted(bench.catalog.entries("encoder"), key=lambda e: (e.owner != bench.owner, e.full_name)):
        if bench.catalog.reads(entry.spec.modality, modality):
            try:
                return bench.remembered(f"encoder {entry.full_name}", partial(_evaluated, bench, entry))
            except (Violation, NotApplicable, DataError):
                continue
    return None


def _evaluated(bench: Bench, entry: Entry) -> Any:
    return bench.build(entry).eval()


def _get(item: Any, key: str) -> Any:
    return item.get(key) if isinstance(item, dict) else getattr(item, key, None)
