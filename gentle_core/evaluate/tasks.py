"""Tasks on labelled items, for towers of any modality: `core/zero-shot`, `core/linear-probe`, `core/knn`.

The items come from a registered dataset whose index has the attribute "label". Its facts may say how classes are
called in a text ("class_names") and in which sentences ("templates").
"""

from __future__ import annotations

import abc
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor

from gentle_core.batch import BuildContext
from gentle_core.builtin import KnnConfig, LabelledConfig, LinearProbeConfig, ZeroShotConfig
from gentle_core.errors import ComponentError, DataError, RecipeError
from gentle_core.evaluate.probes import accuracy, knn_predict, linear_probe
from gentle_core.evaluate.zero_shot import class_directions, classify, figures
from gentle_core.protocols import EmbeddingModel
from gentle_core.split_lists import SPLITS

SHARES = (0.6, 0.2)
LOADED_AT_ONCE = 256


@attrs.frozen(eq=False)
class Labelled:
    """Labelled items of a dataset.

    Attributes:
        name: the dataset's component.
        dataset, modality: what loads them.
        items, labels, splits: (n,) item ids, class names, and the split that each item is in.
    """

    name: str
    dataset: Any
    modality: str
    items: tuple[str, ...]
    labels: tuple[str, ...]
    splits: tuple[str, ...]

    def only(self, keep: Sequence[bool]) -> Labelled:
        """The items at which `keep` (n,) is true."""
        items, labels, splits = (
            tuple(x for x, k in zip(column, keep, strict=True) if k)
            for column in (self.items, self.labels, self.splits)
        )
        return attrs.evolve(self, items=items, labels=labels, splits=splits)

    def chunks(self) -> Iterator[list[Any]]:
        """The raw items, some at a time."""
        for start in range(0, len(self.items), LOADED_AT_ONCE):
            yield self.dataset.load(self.modality, self.items[start : start + LOADED_AT_ONCE])


def read_labelled(config: LabelledConfig, context: BuildContext, modality: str) -> Labelled:
    """The labelled items that the options name, for a tower of `modality`.

    Raises:
        DataError: there are none.
    """
    if context.dataset is None:
        raise ComponentError("a task on labelled items finds its dataset through BuildContext.dataset")
    options = dict(config.dataset)
    use = options.pop("use", "")
    if config.path is not None:
        options.setdefault("path", str(config.path))
    elif not options and not use:
        raise RecipeError("say where the labelled items are: --data FOLDER, or --set dataset.use=… and its options")
    name, dataset, held = context.dataset(use, options, modality)
    rows: list[tuple[str, str, str]] = []
    for split in SPLITS:
        index = dataset.index(split).get(held)
        if index is None or not len(index):
            continue
        if "label" not in index.attributes:
            raise DataError(f"the {split} items of {name} have no attribute 'label'; choose a labelled dataset")
        rows += [(i, str(label), split) for i, label in zip(index.items, index.attributes["label"], strict=True)]
    if not rows:
        raise DataError(f"{name} has no {held} items at {config.path or options}")
    items, labels, splits = zip(*rows, strict=True)
    return Labelled(name, dataset, held, items, labels, splits)


class _Task:
    """What the three tasks share: the tower, its items, and what of them was in training."""

    def __init__(self, config: Any, context: BuildContext):
        self.config, self.context = config, context

    def find(self, model: EmbeddingModel, split: str = "all") -> tuple[str, Labelled, list[bool] | None]:
        """The tower, the labelled items of a split, and which of them it was trained on (None: that is not known)."""
        tower, data = self._tower(model)
        if split != "all":
            data = data.only([one == split for one in data.splits])
        if self.context.trained_on is None:
            return tower, data, None
        seen: list[bool] = []
        for raw in data.chunks():
            part = self.context.trained_on(tower, raw)
            if part is None:
                return tower, data, None
            seen += part
        if not any(seen):
            return tower, data, seen
        first = [item for item, was in zip(data.items, seen, strict=True) if was][:3]
        text = f"{sum(seen)} of {len(seen)} items are among the run's training items (first: {', '.join(first)})"
        if self.config.overlap == "refuse":
            raise DataError(f"{text}; leave them out with --set overlap=drop")
        if self.config.overlap == "drop":
            self.context.notify(f"{text}; they are left out")
            return tower, data.only([not was for was in seen]), [False] * (len(seen) - sum(seen))
        self.context.notify(f"{text}; --set overlap=drop leaves them out")
        return tower, data, seen

    def _tower(self, model: EmbeddingModel) -> tuple[str, Labelled]:
        """The tower whose items are classified: the one named, or the one for which a labelled dataset is found."""
        if self.config.tower:
            tower = _named(model, self.config.tower, "tower")
            return tower, read_labelled(self.config, self.context, model.towers[tower])
        found, reasons = {}, []
        for name, modality in model.towers.items():
            try:
                found[name] = read_labelled(self.config, self.context, modality)
            except ComponentError as error:
                reasons.append(str(error))
        if not found:
            raise ComponentError("; ".join(dict.fromkeys(reasons)))
        if len(found) > 1:
            raise RecipeError(
                f"the items fit the towers {', '.join(found)}: choose with --set tower={next(iter(found))}"
            )
        return next(iter(found.items()))


def _named(model: EmbeddingModel, name: str, key: str) -> str:
    if name not in model.towers:
        raise RecipeError(f"{key}: the model has no tower {name!r}; it has {', '.join(model.towers)}")
    return name


def _embed(model: EmbeddingModel, tower: str, data: Labelled, space: str) -> Tensor:
    return torch.cat([model.embed(tower, raw, space).cpu() for raw in data.chunks()])


def _facts(data: Labelled, seen: Sequence[bool] | None, tower: str) -> dict[str, Any]:
    return {
        "dataset": data.name,
        "tower": tower,
        "classes": len(set(data.labels)),
        "in training": "not known" if seen is None else sum(seen),
    }


class ZeroShot(_Task):
    """`core/zero-shot`"""

    def evaluate(self, model: EmbeddingModel) -> Mapping[str, Any]:
        tower, data, seen = self.find(model, self.config.split)
        reader = self._reader(model, tower)
        about = data.dataset.facts()
        classes = sorted(set(data.labels))
        templates = self.config.templates or tuple(about.get("templates", ())) or ("{}",)
        called = {label: str(about.get("class_names", {}).get(label, label)) for label in classes}
        prompts = [template.replace("{}", called[label]) for label in classes for template in templates]
        embedded = model.embed(reader, prompts).cpu()
        directions = class_directions(embedded.view(len(classes), len(templates), -1))
        found = classify(_embed(model, tower, data, "joint"), directions, data.labels, classes)
        facts = _facts(data, seen, tower) | {"templates": list(templates), "class names": called}
        return figures(found, seen) | {"facts": facts}

    def _reader(self, model: EmbeddingModel, tower: str) -> str:
        if self.config.names:
            return _named(model, self.config.names, "names")
        others = [name for name in model.towers if name != tower]
        if len(others) != 1:
            raise RecipeError(f"which tower reads the names of the classes? --set names=… of {', '.join(others)}")
        return others[0]


class _Probe(_Task, abc.ABC):
    """Classification by labelled training items, in each space."""

    name = "probe"

    @abc.abstractmethod
    def predict(self, rows: Mapping[str, tuple[Tensor, list[str]]]) -> tuple[list[str], dict[str, Any]]:
        """Labels of the test rows, and facts; `rows` are features and labels by split."""

    def evaluate(self, model: EmbeddingModel) -> Mapping[str, Any]:
        tower, data, seen = self.find(model)
        split = np.array(deal(data, self.config.split_seed))
        labels = np.array(data.labels)
        for part in SPLITS:
            if not (split == part).any():
                raise DataError(f"no labelled items for {part}: a {self.name} needs train, val and test")
        truth = labels[split == "test"].tolist()
        common = np.unique(labels[split == "train"], return_counts=True)
        metrics: dict[str, Any] = {f"majority/{tower}": accuracy([common[0][common[1].argmax()]] * len(truth), truth)}
        facts = _facts(data, seen, tower) | {f"items/{part}": int((split == part).sum()) for part in SPLITS}
        for space in ("feature", "joint") if self.config.space == "both" else (self.config.space,):
            z = _embed(model, tower, data, space)
            rows = {part: (z[split == part], labels[split == part].tolist()) for part in SPLITS}
            predicted, more = self.predict(rows)
            right = np.array([p == t for p, t in zip(predicted, truth, strict=True)])
            metrics[f"{self.name}/{tower}/{space}"] = 100.0 * float(right.mean())
            by_class = [float(right[np.array(truth) == c].mean()) for c in sorted(set(truth))]
            metrics[f"{self.name}/{tower}/{space}/mean_per_class"] = 100.0 * float(np.mean(by_class))
            facts |= {f"{space}: {key}": value for key, value in more.items()}
        return metrics | {"facts": facts}


class LinearProbe(_Probe):
    """`core/linear-probe`"""

    def predict(self, rows: Mapping[str, tuple[Tensor, list[str]]]) -> tuple[list[str], dict[str, Any]]:
        probe = linear_probe(*rows["train"], *rows["val"], rows["test"][0])
        return probe.predictions, {"C (chosen on val)": probe.strength}


class Knn(_Probe):
    """`core/knn`: cosine, most votes; the validation items are left alone, so that both tasks have one training set."""

    name = "knn"

    def predict(self, rows: Mapping[str, tuple[Tensor, list[str]]]) -> tuple[list[str], dict[str, Any]]:
        return knn_predict(*rows["train"], rows["test"][0], self.config.k), {"k": self.config.k}


def deal(data: Labelled, seed: int) -> list[str]:
    """The split of each item: the dataset's own where it has all three, else by a hash, class by class.

    Of each class the first three fifths in the order of the hash are for training, a fifth each for val and test.
    """
    if set(data.splits) == set(SPLITS):
        return list(data.splits)
    by_class: dict[str, list[int]] = {}
    for row, label in enumerate(data.labels):
        by_class.setdefault(label, []).append(row)
    found = [""] * len(data.items)
    for rows in by_class.values():
        rows.sort(key=lambda row: hashlib.blake2b(f"{seed}/{data.items[row]}".encode()).digest())
        first, second = (round(len(rows) * share) for share in (SHARES[0], SHARES[0] + SHARES[1]))
        for place, row in enumerate(rows):
            found[row] = "train" if place < first else "val" if place < second else "test"
    return found


def build_zero_shot(config: ZeroShotConfig, context: BuildContext) -> ZeroShot:
    return ZeroShot(config, context)


def build_linear_probe(config: LinearProbeConfig, context: BuildContext) -> LinearProbe:
    return LinearProbe(config, context)


def build_knn(config: KnnConfig, context: BuildContext) -> Knn:
    return Knn(config, context)
