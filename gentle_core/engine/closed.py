"""Closed forms on a run's data: the features they see, how they embed splits, and the model they are saved as."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file
from safetensors.numpy import save as serialise
from torch import Tensor, nn
from torch.nn import functional as F

from gentle_core.closed_form.features import Features
from gentle_core.closed_form.forms import Form
from gentle_core.closed_form.storage import from_arrays, to_arrays
from gentle_core.data.pools import Pools
from gentle_core.engine.build import Builder
from gentle_core.engine.checkpoint import replace_durably
from gentle_core.engine.splits import Embedded, Split
from gentle_core.engine.towers import AlignedModel, ProjectionHead, Tower
from gentle_core.errors import CheckpointError, DataError, RecipeError
from gentle_core.recipe.model import HeadTable

ARRAYS, FACTS = "closed_form.safetensors", "closed_form.json"


class FeatureSource:
    """What closed forms see of a tower: encoder features, joint embeddings or both, and the tower's descriptors.

    Args:
        model: whose features; trained or not.
        descriptors: a tower's further encoders, each wrapped as a model of that one tower.
        kind: `baseline.features` of the recipe.
        heads: whether the joint embeddings follow in the last columns, for the form `Trained`.
    """

    def __init__(
        self, model: AlignedModel, descriptors: Mapping[str, Sequence[AlignedModel]], kind: str, heads: bool = False
    ):
        self.model, self.descriptors, self.kind, self.heads = model, descriptors, kind, heads
        self._splits: dict[tuple[int, str, int], Split] = {}

    def of(self, split: Split, tower: str, positions: Sequence[int] | None = None) -> Tensor:
        """(n, W) in index order; with `positions` only these rows are computed, and the others are not to be used."""
        parts = []
        if self.kind != "none":
            parts += self._own(tower, split.features(self.model, tower, positions))
        for number, descriptor in enumerate(self.descriptors.get(tower, ())):
            # A split keeps the features of one encoder a tower.
            key = (id(split), tower, number)
            if key not in self._splits:
                index = {split.towers[tower]: split.index[tower]}
                towers = {tower: split.towers[tower]}
                self._splits[key] = Split(split.dataset, index, towers, split.name, split.display, split.ranks)
            parts.append(self._splits[key].features(descriptor, tower, positions))
        parts += self._joint(tower, split.features(self.model, tower, positions)) if self.heads else []
        return torch.cat(parts, dim=1)

    def of_items(self, tower: str, items: Sequence[Any], features: Tensor) -> Tensor:
        """(n, W) of raw items whose encoder features are known."""
        parts = self._own(tower, features) if self.kind != "none" else []
        parts += [descriptor.encode(tower, items) for descriptor in self.descriptors.get(tower, ())]
        parts += self._joint(tower, features) if self.heads else []
        return torch.cat(parts, dim=1)

    def joint(self, tower: str) -> int:
        """How many of the columns, the last ones, are joint embeddings."""
        return self.model.tower(tower).head.dimension if self.heads else 0

    def _own(self, tower: str, features: Tensor) -> list[Tensor]:
        own = [features] if self.kind in ("feature", "both") else []
        return own + (self._joint(tower, features) if self.kind in ("joint", "both") else [])

    def _joint(self, tower: str, features: Tensor) -> list[Tensor]:
        return [AlignedModel.head(self.model, tower, features)]


def build_descriptors(builder: Builder, device: torch.device | str = "cpu") -> dict[str, list[AlignedModel]]:
    """The descriptors of all towers of a recipe."""
    found = {}
    for name, table in builder.recipe.towers.items():
        wrapped = []
        for encoder in builder.descriptors(name):
            tower = Tower(
                encoder, ProjectionHead(encoder.width, HeadTable(dimension=1, hidden=0)), table.modality, True
            )
            wrapped.append(AlignedModel({name: tower}, builder.recipe.train.precision).to(device).eval())
        found[name] = wrapped
    return found


def feature_source(builder: Builder, model: AlignedModel, heads: bool = False) -> FeatureSource:
    """The source that the recipe's `[baseline] features` and `descriptors` describe, with the joint embeddings of a
    trained model in the last columns where its `heads` are to be a form as well.

    Raises:
        RecipeError: a tower with features = "none" and no descriptor.
    """
    kind = builder.recipe.baseline.features
    descriptors = build_descriptors(builder, model.device)
    bare = [name for name in descriptors if kind == "none" and not descriptors[name]]
    if bare:
        raise RecipeError(
            f'baseline.features = "none" leaves nothing of tower {bare[0]!r}: give it descriptors, or choose '
            '"feature", "joint" or "both"'
        )
    return FeatureSource(model, descriptors, kind, heads and not isinstance(model, ClosedFormModel))


def gather(
    source: FeatureSource,
    train: Split,
    validation: Split | None,
    pools: Pools,
    pair: tuple[str, str],
    *,
    use_pools: bool,
) -> Features | None:
    """The features of a tower pair's matched items, pools and validation items; None with fewer than three pairs.

    Without a validation split there are no validation items. The pools come in the index's order, each by itself. Which
    items are mates is not looked at.
    """
    matched = pools.all_of_both(*pair)
    if len(set(matched[0][1])) < 3:
        return None
    parts: dict[str, Any] = {}
    for side, tower, (positions, numbers) in zip("xy", pair, matched, strict=True):
        rows = positions.tolist()
        pool = pools.unmatched[tower].tolist() if use_pools else []
        used = [*rows, *pool]
        features = source.of(train, tower, used)
        bad = (~features[used].isfinite().all(dim=1)).nonzero().flatten().tolist()
        if bad:
            names = ", ".join(train.index[tower].items[used[i]] for i in bad[:3])
            raise DataError(
                f"tower {tower!r}: the features of {len(bad)} training items are not finite (first: {names}); "
                "mend these items or leave them out"
            )
        parts |= {f"items_{side}": features[rows], f"labels_{side}": numbers, f"pool_{side}": features[pool]}
        held = features[:0] if validation is None else source.of(validation, tower)
        samples = () if validation is None else validation.index[tower].samples
        parts |= {f"{side}_val": held, f"samples_{side}_val": samples}
    return Features(**parts, joint=(source.joint(pair[0]), source.joint(pair[1])))


def embedded(form: Form, source: FeatureSource, split: Split, pair: tuple[str, str]) -> Embedded:
    """A split through a form."""
    a, b = pair
    return Embedded(
        z={a: form.embed(source.of(split, a), "x").float(), b: form.embed(source.of(split, b), "y").float()},
        items={tower: split.index[tower].items for tower in pair},
        samples={tower: split.index[tower].samples for tower in pair},
        attributes={tower: split.index[tower].attributes for tower in pair},
    )


class ClosedFormModel(AlignedModel):
    """A model whose joint space is a closed form's: what `gentle baseline` saves, and `load_model` gives back."""

    def __init__(self, model: AlignedModel, form: Form, source: FeatureSource, pair: tuple[str, str]):
        super().__init__({name: model.tower(name) for name in model.towers}, model.precision)
        self.form, self.pair = form, pair
        self.descriptor_models = nn.ModuleDict({n: nn.ModuleList(found) for n, found in source.descriptors.items()})
        self.source = FeatureSource(self, source.descriptors, source.kind, source.heads)

    def joint(self, tower: str, items: Sequence[Any], features: Tensor) -> Tensor:
        """Raw items, with their encoder features, to unit embeddings (B, D) of the closed form.

        Raises:
            DataError: a tower beyond the two that the form aligns.
        """
        return self._through(tower, self.source.of_items(tower, items, features))

    def head(self, name: str, features: Tensor) -> Tensor:
        """The same of encoder features alone, where the tower has no descriptors.

        Raises:
            DataError: descriptors want the raw items; or a tower beyond the two that the form aligns.
        """
        if self.source.descriptors.get(name):
            raise DataError(
                f"{self.form.label} sees descriptors of tower {name!r}, which need its raw items: features alone are "
                "not enough"
            )
        return self._through(name, self.source.of_items(name, (), features))

    def _through(self, tower: str, seen: Tensor) -> Tensor:
        if tower not in self.pair:
            known = " and ".join(self.pair)
            raise DataError(f"tower {tower!r} is not aligned by {self.form.label}, which knows {known}")
        z = self.form.embed(seen, "x" if tower == self.pair[0] else "y")
        return F.normalize(z.float(), dim=-1)


def save_form(folder: Path, model: ClosedFormModel) -> None:
    """Write the closed form beside a saved model's towers."""
    arrays, facts = to_arrays(model.form)
    replace_durably(folder / ARRAYS, serialise(arrays))
    facts |= {"pair": list(model.pair), "features": model.source.kind, "heads": model.source.heads}
    replace_durably(folder / FACTS, (json.dumps(facts, indent=1, default=_plain) + "\n").encode())


def read_form(folder: Path, model: AlignedModel, builder: Builder) -> ClosedFormModel:
    """`model` with the closed form that was saved beside it; weights of the descriptors are still to be filled in.

    Raises:
        CheckpointError: the files do not fit together.
    """
    try:
        facts = json.loads((folder / FACTS).read_text())
        form = from_arrays(load_file(folder / ARRAYS), facts)
        a, b = facts["pair"]
        source = FeatureSource(model, build_descriptors(builder), facts["features"], facts.get("heads", False))
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / ARRAYS} and {FACTS} do not fit together: {error}") from error
    return ClosedFormModel(model, form, source, (a, b))


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)
