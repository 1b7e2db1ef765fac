"""The data of tasks: registered datasets by name, and whether a run was trained on an item."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from torch import Tensor

from gentle_core.batch import BuildContext
from gentle_core.catalog import Catalog, Entry
from gentle_core.data.features import KEY_BYTES, FeatureStore, content_key, encode_all
from gentle_core.data.pools import pools_of
from gentle_core.engine.artifact import RECIPE
from gentle_core.engine.build import Builder
from gentle_core.engine.checkpoint import replace_durably
from gentle_core.engine.towers import AlignedModel
from gentle_core.errors import CheckpointError, ComponentError, GentleError, Stopped
from gentle_core.factory import cache_folder, create
from gentle_core.recipe.load import Resolved, component_config, load_recipe

LOADED_AT_ONCE = 512


class CachedModel:
    """A model as tasks see it, with the features of frozen encoders kept on disk as in training."""

    def __init__(self, model: AlignedModel):
        self.model = model
        self._stores: dict[str, FeatureStore | None] = {}

    @property
    def towers(self) -> dict[str, str]:
        """Modality of each tower."""
        return self.model.towers

    def embed(self, tower: str, items: Sequence[Any], space: str = "joint") -> Tensor:
        """See `AlignedModel.embed`."""
        if tower not in self._stores:
            self._stores[tower] = self._store(tower)
        encoder = self.model.tower(tower).encoder
        features = encode_all(
            lambda raw, _: encoder.collate(raw),
            lambda inputs: self.model.encode_inputs(tower, inputs),
            encoder.size,
            lambda rows: [items[row] for row in rows],
            len(items),
            store=self._stores[tower],
            budget=self.model.budget,
        )
        return features if space == "feature" else self.model.joint(tower, items, features)

    def _store(self, tower: str) -> FeatureStore | None:
        if not self.model.tower(tower).frozen:
            return None
        key = f"{self.model.tower(tower).encoder.fingerprint()[:32]}-{self.model.precision}"
        return FeatureStore(cache_folder(), key)


@attrs.define
class TaskData:
    """What `BuildContext.dataset` and `BuildContext.trained_on` do for the tasks on a run.

    Attributes:
        run_dir: the run directory, or the folder of a saved model.
        notify: receives what the user must know.
        progress: receives what takes a while.
    """

    run_dir: Path
    catalog: Catalog
    notify: Callable[[str], None]
    progress: Callable[[str], None] = lambda _: None
    _keys: dict[str, frozenset[bytes] | None] = attrs.field(factory=dict)

    def dataset(self, name: str, options: Mapping[str, Any], modality: str) -> tuple[str, Any, str]:
        """See `BuildContext.dataset`."""
        entry = self.catalog.get("dataset", name) if name else self._labelled(modality)
        yields = self._readable(entry, modality)
        if not yields:
            raise ComponentError(
                f"{entry.full_name} yields {', '.join(entry.spec.modalities)}; the tower reads {modality!r}"
            )
        context = BuildContext(cache_dir=cache_folder(), notify=self.notify, progress=self.progress)
        return entry.full_name, create(entry, component_config(entry, options), context), yields[0]

    def _readable(self, entry: Entry, modality: str) -> list[str]:
        """What of the dataset's modalities a tower of `modality` can read, the closest first.

        A tower for images reads scenes; and one that was trained on scenes has an encoder for images."""
        close = [m for m in entry.spec.modalities if m == modality]
        special = [m for m in entry.spec.modalities if self.catalog.reads(modality, m)]
        general = [m for m in entry.spec.modalities if self.catalog.reads(m, modality)]
        return list(dict.fromkeys(close + special + general))

    def _labelled(self, modality: str) -> Entry:
        able = [e for e in self.catalog.entries("dataset") if e.spec.labelled and self._readable(e, modality)]
        exact = [e for e in able if modality in e.spec.modalities]
        found = exact or able
        if len(found) == 1:
            return found[0]
        if not found:
            raise ComponentError(
                f"no installed dataset reads folders of labelled items for a tower of {modality!r}: "
                "name a dataset with --set dataset.use=owner/name"
            )
        names = ", ".join(e.full_name for e in found)
        raise ComponentError(f"several datasets read labelled folders ({names}): choose with --set dataset.use=…")

    # -- what the run was trained on --------------------------------------------------------------------------------

    def trained_on(self, tower: str, items: Sequence[Any]) -> list[bool] | None:
        """See `BuildContext.trained_on`."""
        if tower not in self._keys:
            self._keys[tower] = self._training_keys(tower)
        keys = self._keys[tower]
        return None if keys is None else [content_key(item) in keys for item in items]

    def _training_keys(self, tower: str) -> frozenset[bytes] | None:
        """Content keys of the tower's training items, kept in the run directory once they were computed."""
        path = self.run_dir / "tasks" / f"trained-on.{tower}"
        try:
            found = np.frombuffer(path.read_bytes(), dtype=np.uint8).reshape(-1, KEY_BYTES)
            return frozenset(key.tobytes() for key in found)
        except (OSError, ValueError):
            pass
        try:
            keys = sorted(self._computed(tower))
        except Stopped:
            raise
        except (GentleError, OSError) as error:
            self.notify(f"whether these items were in training is not known: the training data are gone ({error})")
            return None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_durably(path, b"".join(keys))
        except (OSError, CheckpointError):  # a run directory that cannot be written: compute again next time
            pass
        return frozenset(keys)

    @cached_property
    def _training(self) -> tuple[Resolved, Any]:
        place = self.run_dir / "resolved.toml"
        if not place.is_file():
            place = next(p for p in (self.run_dir / "model" / RECIPE, self.run_dir / RECIPE) if p.is_file())
        resolved = load_recipe(place, catalog=self.catalog)
        return resolved, Builder(recipe=resolved.recipe, catalog=self.catalog, notify=lambda _: None).dataset()

    def _computed(self, tower: str) -> set[bytes]:
        resolved, dataset = self._training
        table, index = resolved.recipe.dataset, dataset.index("train")
        towers = {name: t.modality for name, t in resolved.recipe.towers.items()}
        pools = pools_of(table, index, towers, resolved.recipe.train.seed)
        used = sorted(set(pools.unmatched[tower].tolist()).union(*(g.tolist() for g in pools.matched[tower])))
        items = index[towers[tower]].items
        keys: set[bytes] = set()
        for start in range(0, len(used), LOADED_AT_ONCE):
            chosen = [items[p] for p in used[start : start + LOADED_AT_ONCE]]
            keys.update(content_key(item) for item in dataset.load(towers[tower], chosen))
        return keys
