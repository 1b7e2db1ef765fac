"""Checks of datasets."""

from __future__ import annotations

import itertools
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from gentle_core.batch import ItemIndex
from gentle_core.data.features import content_key
from gentle_core.errors import GentleError
from gentle_core.factory import create
from gentle_core.split_lists import SPLITS
from gentle_core.testing.bench import Subject, one_line
from gentle_core.testing.cases import NotApplicable, Violation, check
from gentle_core.testing.contents import content
from gentle_core.testing.isolation import no_network

FEW = 4

Index = Mapping[str, Mapping[str, ItemIndex]]


@check("dataset", "builds")
def builds(subject: Subject) -> None:
    """Its factory returns an object with the methods of a dataset."""
    dataset = subject.build()
    missing = [name for name in ("index", "load", "facts") if not callable(getattr(dataset, name, None))]
    if missing:
        raise Violation(f"it lacks {', '.join(missing)}", "write index(split), load(modality, items) and facts()")


@check("dataset", "offline")
def offline(subject: Subject) -> None:
    """Building it and loading from it asks nothing of the network."""
    with no_network() as asked:
        dataset = subject.build()
        for modality, items in _first(_index(dataset)).items():
            dataset.load(modality, items)
    if asked:
        raise Violation(
            f"it tries to reach {', '.join(dict.fromkeys(asked))}",
            "read what is there; download only where an option asks for it, and give the spec an example without",
        )


@check("dataset", "index")
def index(subject: Subject) -> None:
    """Its splits hold items of the modalities that it declares, and there is something to train on."""
    dataset = subject.bench.dataset(subject.entry)
    found = {split: dataset.index(split) for split in SPLITS}
    for split, by_modality in found.items():
        for modality, items in by_modality.items():
            if not isinstance(items, ItemIndex):
                raise Violation(
                    f"index({split!r})[{modality!r}] is {type(items).__name__}", "return gentle_core.api.ItemIndex"
                )
            if modality not in subject.spec.modalities:
                raise Violation(
                    f"index({split!r}) holds {modality!r}, and its spec declares {', '.join(subject.spec.modalities)}",
                    "name every modality that it yields in the spec",
                )
            strange = [i for i in items.items if not isinstance(i, str) or not i]
            if strange:
                raise Violation(f"item ids must be non-empty strings, not {strange[0]!r}", "make ids of str")
    empty = [m for m in subject.spec.modalities if not any(len(found[s].get(m, ())) for s in SPLITS)]
    if empty:
        raise Violation(f"no split holds items of {', '.join(empty)}", "yield what the spec declares, or declare less")
    if not any(len(items) for items in found["train"].values()):
        raise Violation('index("train") is empty', "put something into the training split (of the example, too)")


@check("dataset", "stable")
def stable(subject: Subject) -> None:
    """Built again, it has the same ids in the same order: they do not depend on the process, the folder's order or
    chance."""
    first, again = _index(subject.bench.dataset(subject.entry)), _index(subject.build(seed=1))
    for split in SPLITS:
        for modality in subject.spec.modalities:
            one, two = first[split].get(modality), again[split].get(modality)
            if (one is None) != (two is None) or (one and two and (one.items, one.samples) != (two.items, two.samples)):
                raise Violation(
                    f"built twice, it has other {modality!r} ids (or another order) in {split!r}",
                    "make ids from content or names, and sort files and sets; no counters, addresses or hash()",
                )


@check("dataset", "splits")
def splits(subject: Subject) -> None:
    """No item and no sample is in two splits."""
    found = _index(subject.bench.dataset(subject.entry))
    for (one, other), what in itertools.product(itertools.combinations(SPLITS, 2), ("items", "samples")):
        for modality in subject.spec.modalities:
            ids = [set(getattr(found[split][modality], what)) for split in (one, other) if modality in found[split]]
            shared = sorted(set.intersection(*ids)) if len(ids) == 2 else []
            if shared:
                raise Violation(
                    f"{len(shared)} {what} of {modality!r} are in {one!r} and in {other!r}: {shared[0]!r} for one",
                    "divide samples, not items, and give what belongs together to one split",
                )


@check("dataset", "load")
def load(subject: Subject) -> None:
    """`load` returns the asked items in the asked order, the same each time."""
    dataset = subject.bench.dataset(subject.entry)
    for modality, items in _first(_index(dataset)).items():
        whole = dataset.load(modality, items)
        if not isinstance(whole, list) or len(whole) != len(items):
            shown = f"{len(whole)} items" if isinstance(whole, list) else type(whole).__name__
            raise Violation(f"load of {len(items)} {modality!r} items returns {shown}", "return a list, one an id")
        turned = dataset.load(modality, items[::-1])[::-1]
        if [content(i) for i in turned] != [content(i) for i in whole]:
            raise Violation(
                f"asked in another order, {modality!r} items of the same ids hold something else",
                "look items up by id, keep no position between calls, and leave randomness to augmentations",
            )
        if any(dataset.load(modality, [])):
            raise Violation("load of no items returns some", "return [] for []")


@check("dataset", "resumable")
def resumable(subject: Subject) -> None:
    """A copy that was sent to a worker, and one built afresh, load the same: what was read before leaves no trace."""
    dataset = subject.bench.dataset(subject.entry)
    wanted = _first(_index(dataset))
    for modality, items in wanted.items():
        dataset.load(modality, items[:1])
    try:
        sent = pickle.loads(pickle.dumps(dataset))
    except Exception as error:
        raise Violation(
            f"it cannot be pickled for loader workers: {one_line(error)}",
            "define its class at module level, and keep no open files, locks or lambdas in it (open files in load)",
        ) from error
    fresh = subject.build(seed=1)
    for modality, items in wanted.items():
        expected = [content(item) for item in dataset.load(modality, items)]
        for copy, what in ((sent, "a pickled copy"), (fresh, "one that is built afresh")):
            if [content(item) for item in copy.load(modality, items)] != expected:
                raise Violation(
                    f"{what} loads other {modality!r} items under the same ids",
                    "let an item depend on its id and the dataset's options alone",
                )


@check("dataset", "bad-input")
def bad_input(subject: Subject) -> None:
    """An unknown id, an unknown modality and a folder that is not there each give one clear error."""
    dataset = subject.bench.dataset(subject.entry)
    modality = next(iter(_first(_index(dataset))), subject.spec.modalities[0])
    _refuses("an unknown id", lambda: dataset.load(modality, ["no such item"]), "no such item")
    known = next(iter(_first(_index(dataset)).get(modality, [])), "")
    _refuses("an unknown modality", lambda: dataset.load("no-such-modality", [known]), "no-such-modality")
    config = subject.config()
    for field in attrs.fields(type(config)):
        value = getattr(config, field.name)
        if isinstance(value, Path):
            away = value.with_name("no-such-place")
            wrong = attrs.evolve(config, **{field.alias: away})
            _refuses(
                f"{field.name} = {away.name!r}, which does not exist",
                lambda wrong=wrong: _index(create(subject.entry, wrong, subject.bench.context())),
                away.name,
            )


def _refuses(what: str, action: Any, named: str) -> None:
    try:
        action()
    except GentleError as error:
        if named in str(error) and len(str(error).splitlines()) < 12 and "failed while it was built" not in str(error):
            return
        raise Violation(
            f"{what}: the error does not name {named!r} in clear words: {one_line(error)}",
            "raise gentle_core.api.DataError(f'{path}: what is wrong; what to do')",
        ) from error
    except Exception as error:
        raise Violation(
            f"{what} gives {one_line(error)}",
            "raise gentle_core.api.DataError with a line that names it and says what to do",
        ) from error
    raise Violation(f"{what} goes unnoticed", "raise gentle_core.api.DataError with a line that names it")


@check("dataset", "items")
def items_hash(subject: Subject) -> None:
    """Items can be told apart by content, as cached features of frozen encoders need."""
    dataset = subject.bench.dataset(subject.entry)
    for modality, items in _first(_index(dataset)).items():
        for item in dataset.load(modality, items):
            try:
                content_key(item)
            except GentleError as error:
                raise Violation(
                    f"an item of {modality!r} has no content to hash: {error}",
                    "make items str, bytes, arrays, tensors, images, or attrs classes, lists and mappings of these",
                ) from error


@check("dataset", "facts")
def facts(subject: Subject) -> None:
    """Its facts go into a manifest, and the shortcuts that they name are attributes of the index."""
    dataset = subject.bench.dataset(subject.entry)
    found = dataset.facts()
    try:
        json.dumps(dict(found))
    except (TypeError, ValueError) as error:
        raise Violation(f"facts() is not fit for JSON: {error}", "return a dict of str, numbers, lists") from error
    named = {name for by in _index(dataset).values() for items in by.values() for name in items.attributes}
    if strange := [name for name in found.get("shortcuts", ()) if name not in named]:
        raise Violation(f"shortcuts name {strange[0]!r}, which is no attribute of its index", "add the column")


def _index(dataset: Any) -> Index:
    found = {split: dataset.index(split) for split in SPLITS}
    if not all(isinstance(items, ItemIndex) for by_modality in found.values() for items in by_modality.values()):
        raise NotApplicable("its index is none: see the check `index`")
    return found


def _first(index: Index) -> dict[str, list[str]]:
    """A few ids of each modality, from the first split that has any."""
    found: dict[str, list[str]] = {}
    for by_modality in index.values():
        for modality, items in by_modality.items():
            if len(items):
                found.setdefault(modality, list(items.items[:FEW]))
    if not found:
        raise NotApplicable("it holds no items")
    return found
