"""A run in progress: the parts that a recipe names, built, and the splits they are measured on."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gentle_core.builtin import needs
from gentle_core.data.features import FeatureStore
from gentle_core.data.loader import StepDataset, TowerSource
from gentle_core.data.pools import Pools, missing_pairs, pools_of
from gentle_core.data.rows import RowPlan, rows_per_batch
from gentle_core.data.sampler import BatchSampler
from gentle_core.data.streams import stream
from gentle_core.data.views import Augmentations
from gentle_core.engine.artifact import load_model
from gentle_core.engine.backend import Backend, make_backend
from gentle_core.engine.build import Builder
from gentle_core.engine.interrupt import InterruptFlag
from gentle_core.engine.loop import Trainer
from gentle_core.engine.measure import compare, measure
from gentle_core.engine.progress import Display
from gentle_core.engine.pseudo import PseudoPairing, View
from gentle_core.engine.ranks import ALONE, Ranks
from gentle_core.engine.recompute import checkpoint_activations
from gentle_core.engine.rundir import RunDirectory, environment
from gentle_core.engine.splits import Embedded, Split, limited
from gentle_core.engine.starts import start_heads
from gentle_core.engine.towers import AlignedModel
from gentle_core.errors import DataError, GentleError, RecipeError
from gentle_core.losses.chunks import BATCH_NORMS
from gentle_core.modules import EncoderModule
from gentle_core.recipe.load import Resolved, differences
from gentle_core.recipe.model import Recipe
from gentle_core.recipe.structure import plain

FREE_TO_CHANGE = (
    "engine", "report", "baseline", "evaluate", "train.workers", "train.keep_last", "train.log_every",
    "train.checkpoint_every", "train.on_nonfinite", "train.max_skipped", "description", "name",
)  # fmt: skip
"""Settings that may differ when a run is resumed: they change nothing that was computed so far."""


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """The device of `[engine] device`; "auto" prefers CUDA, then MPS, then the CPU. Of several CUDA devices each rank
    of a machine takes one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        if name == "cuda" and torch.cuda.is_available():
            device = torch.device("cuda", local_rank % torch.cuda.device_count())
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise RecipeError(f"engine.device: {name!r} cannot be used here: {str(error).splitlines()[0]}") from error
    return device


STATISTICS_ROWS = 512
"""Items whose features standardise the head of an encoder that trains."""


class Session:
    """A run in progress: the built parts and the splits, from the recipe to the finished directory."""

    def __init__(
        self, resolved: Resolved, out: Path, resume: str, display: Display, ranks: Ranks = ALONE,
        interrupt: InterruptFlag | None = None,
    ):  # fmt: skip
        self.interrupt = interrupt or InterruptFlag()
        self.resolved, self.recipe, self.resume, self.display = resolved, resolved.recipe, resume, display
        self.ranks = ranks
        self.run = RunDirectory(out, writes=ranks.main)
        self.began = time.time()
        self.backend: Backend | None = None
        self.profile = False
        self.stores: dict[str, FeatureStore] = {}
        ranks.on_main(self._open_directory)

    def build(self) -> None:
        """Build dataset, towers and objective, and choose the rows of a batch."""
        recipe: Recipe = self.recipe
        if recipe.engine.threads:
            torch.set_num_threads(recipe.engine.threads)
        self.device = choose_device(recipe.engine.device, self.ranks.local_rank)
        self.builder = Builder(
            recipe=recipe, catalog=self.resolved.catalog, notify=self.notice, progress=self.display.say
        )
        with self.ranks.together():
            self.dataset = self.builder.dataset()
        self.towers = {name: table.modality for name, table in recipe.towers.items()}
        self.loss = self.builder.loss().to(self.device)
        self.needs = self._needs()
        self.pools, self.rows = self._pools()
        with self.ranks.together():
            self.model: AlignedModel = self.builder.model().to(self.device)
            if recipe.engine.activation_checkpointing:
                for name, table in recipe.towers.items():
                    if not table.encoder.freeze:
                        checkpoint_activations(self.model.tower(name).encoder)
        self.train = self.split("train")
        self.splits = self._held_out()
        self.validation = self._validation()
        self.cut = {name: found for name in self.towers if (found := self._cut(name))}
        frozen = [name for name, table in recipe.towers.items() if table.encoder.freeze]
        self.fingerprints = {name: self.model.tower(name).encoder.fingerprint() for name in frozen}

    # -- set-up -----------------------------------------------------------------------------------------------------

    def notice(self, message: str) -> None:
        self.display.warn(message)
        self.run.notice(message)

    def _open_directory(self) -> None:
        text = self.resolved.to_toml()
        if self.run.exists() and self.run.worth_keeping():
            if self.resume == "never":
                raise GentleError(
                    f"{self.run.path} already holds a run: go on with --resume auto, or choose another --out"
                )
            changed = [
                key for key in differences((self.run.path / "resolved.toml").read_text(), text)
                if not any(key == free or key.startswith(f"{free}.") for free in FREE_TO_CHANGE)
            ]  # fmt: skip
            if changed:
                raise RecipeError(
                    f"{self.run.path} was made with other settings ({', '.join(changed[:5])}): "
                    "resume with the same recipe, or choose another --out"
                )
            self.run.manifest = self.run.read_json("manifest.json")
        self.run.create(self.resolved.source_text, text)
        facts = environment(self.resolved.catalog.versions())
        self.run.manifest.setdefault("notices", [])
        self.run.manifest.pop("error", None)
        self.run.update_manifest(**facts, seed=self.recipe.train.seed, status="running")
        for warning in self.resolved.warnings:
            self.notice(warning)

    def _needs(self) -> frozenset[str]:
        """What the objective with its options must find in a batch."""
        spec = self.resolved.catalog.get("loss", self.recipe.objective.use).spec
        return needs(spec, self.recipe.objective.config, lambda name: self.resolved.catalog.get("loss", name).spec)

    def split(self, name: str, index: Mapping[str, Any] | None = None) -> Split:
        """All items of a split, or those of an index."""
        index = self._index(name) if index is None else index
        return Split(self.dataset, index, self.towers, name, self.display, self.ranks, self.stores)

    def _index(self, split: str) -> Mapping[str, Any]:
        return self.dataset.index(split)

    def _pools(self) -> tuple[Pools, RowPlan]:
        table, index = self.recipe.dataset, self._index("train")
        for tower, modality in self.towers.items():
            if not len(index.get(modality, ())):
                raise DataError(f"the training split of {table.use} has no {modality} items for tower {tower!r}")
        pools = pools_of(table, index, self.towers, self.recipe.train.seed)
        if not pools.pairs and "pairs" in self.needs:
            raise DataError(
                f"{self.recipe.objective.use} needs matched pairs, and there are none: raise dataset.paired, "
                "bring items with the same ids in two modalities, or choose an objective with unpaired terms"
            )
        if said := missing_pairs(table, pools):
            self.notice(said)
        own = {name: tower.unpaired_rows for name, tower in self.recipe.towers.items()}
        return pools, rows_per_batch(self.recipe.train, pools.pairs, pools.pool_sizes, "unpaired" in self.needs, own)

    def _held_out(self) -> dict[str, Split]:
        found = {}
        for name in self.recipe.evaluate.splits:
            index = limited(self._index(name), self.recipe.evaluate.limit, self.recipe.train.seed)
            if all(len(index.get(modality, ())) for modality in self.towers.values()):
                found[name] = self.split(name, index)
            else:
                self.notice(f"split {name!r} has no items for every tower and is not evaluated")
        return found

    def _validation(self) -> Split | None:
        """The "val" split, on which everything is chosen, whether or not it is among the splits of the end."""
        index = limited(self._index("val"), self.recipe.evaluate.limit, self.recipe.train.seed)
        if "val" in self.splits or not all(len(index.get(modality, ())) for modality in self.towers.values()):
            return self.splits.get("val")
        return self.split("val", index)

    def _cut(self, tower: str) -> dict[str, list[str]]:
        """Items by split of which the tower's encoder sees a part alone.

        Raises:
            DataError: there are any, and the dataset is `strict`.
        """
        encoder = self.model.tower(tower).encoder
        if getattr(type(encoder), "cut", EncoderModule.cut) is EncoderModule.cut:
            return {}
        found: dict[str, list[str]] = {}
        for name, split in {"train": self.train, "val": self.validation, **self.splits}.items():
            positions = self._used(tower) if name == "train" else range(len(split.index[tower])) if split else ()
            if split and len(positions):
                cut = encoder.cut(split.load(tower, positions))
                found[name] = [split.index[tower].items[positions[i]] for i in cut]
        if not any(found.values()):
            return {}
        first = next(item for items in found.values() for item in items)
        counts = ", ".join(f"{name} {len(items)}" for name, items in found.items() if items)
        said = f"tower {tower!r}: items longer than its encoder reads ({counts}; the first: {first})"
        if getattr(self.recipe.dataset.config, "strict", False):
            raise DataError(f"{said}; shorten them or set dataset.strict = false, and only their beginnings are seen")
        self.notice(f"{said}: only their beginnings are seen")
        return found

    def finish(self, status: str, error: str = "") -> None:
        """Put how the run ended into the manifest."""
        facts = {"error": error} if error else {}
        seconds = self.run.manifest.get("seconds", 0) + time.time() - self.began
        self.run.update_manifest(status=status, seconds=seconds, **facts)

    def last_words(self, message: str) -> None:
        """Record a failure of another rank when this one hangs and is about to be ended."""
        self.display.stop()
        self.display.warn(message)
        self.finish("failed", message)

    def _sources(self) -> dict[str, TowerSource]:
        """Where each tower's training inputs come from; features of frozen towers are computed here."""
        sources = {}
        for name, table in self.recipe.towers.items():
            tower = self.model.tower(name)
            items = self.builder.augmentations(name, "item")
            batch = self.builder.augmentations(name, "batch")
            tower.batch_augment = [function for _, function in batch]
            features = None
            used = self._used(name)
            if table.encoder.freeze and not items and not batch:
                features = self.train.features(self.model, name, used)
            elif table.encoder.freeze and table.encoder.views:
                augment = Augmentations(self._augmentation_names(name), items, batch)
                features = self.train.views(self.model, name, used, augment, table.encoder.views)
            if table.head.standardize:
                sample = self._statistics_rows(used, name) if features is None else used
                found = self.train.features(self.model, name, sample) if features is None else features
                shown = found[..., sample, :].flatten(0, -2)  # all views of an item count
                self.check_finite(name, sample * (len(shown) // len(sample)), shown)
                tower.head.standardize(shown.to(self.device))
            sources[name] = TowerSource(
                modality=self.towers[name], index=self.train.index[name], load=self.dataset.load,
                collate=tower.encoder.collate, augment=items, features=features, labels=self._labels(name),
            )  # fmt: skip
        if "labels" in self.needs and all(source.labels is None for source in sources.values()):
            raise DataError(
                f"{self.recipe.objective.use} needs labels, and {self.recipe.dataset.use} gives its items none; "
                "`gentle plugins info` shows the dataset's options"
            )
        return sources

    def _augmentation_names(self, tower: str) -> str:
        """What the tower's augmented views depend on."""
        parts = [{"use": p.use, **plain(p.config)} for p in self.recipe.towers[tower].augment]
        return json.dumps(parts, sort_keys=True, default=str)

    def _labels(self, tower: str) -> Tensor | None:
        """Labels of the tower's training items, where the objective needs them and the dataset has them."""
        column = self.train.index[tower].attributes.get("labels") if "labels" in self.needs else None
        return None if column is None else torch.as_tensor(column)

    def _used(self, tower: str) -> list[int]:
        """Positions of the tower's training items, paired or not. The pools count even where the objective leaves
        them out: a comparison of objectives must not differ in the statistics that standardise the features."""
        rows = set(self.pools.unmatched[tower].tolist())
        return sorted(rows.union(*(group.tolist() for group in self.pools.matched[tower])))

    def check_finite(self, tower: str, positions: list[int], features: Tensor) -> None:
        """Features (n, W) of training items at `positions` must be numbers; a DataError names those whose are not."""
        bad = (~features.isfinite().all(dim=1)).nonzero().flatten().tolist()
        if bad:
            names = ", ".join(self.train.index[tower].items[positions[i]] for i in bad[:3])
            raise DataError(
                f"tower {tower!r}: the features of {len(bad)} training items are not finite (first: {names}); "
                "mend these items or leave them out"
            )

    def _statistics_rows(self, used: list[int], tower: str) -> list[int]:
        """A seeded draw of training items, enough for means and deviations of features that training will change."""
        order = stream(self.recipe.train.seed, "statistics", tower).permutation(len(used))
        return sorted(used[i] for i in order[:STATISTICS_ROWS])

    def trainer(self) -> Trainer:
        recipe = self.recipe
        sources = self._sources()
        start_heads(self)
        sampler = BatchSampler(self.pools, self.rows, recipe.train.seed)
        data = StepDataset(
            sources, sampler, recipe.train.seed,
            views=2 if "views" in self.needs else 1, chunks=recipe.train.accumulate,
            rank=self.ranks.rank, ranks=self.ranks.size,
        )  # fmt: skip
        self.backend = make_backend(self.model, self.loss, recipe, self.ranks)
        self._note_batch_norms()
        return Trainer(
            table=recipe.train, steps=self.rows.steps, pairs=self.builder.pairs(), model=self.model, loss=self.loss,
            backend=self.backend, engine=recipe.engine, data=data, run=self.run, display=self.display,
            measure=self._validate, fingerprints=self.fingerprints,
            interrupt=self.interrupt, pseudo=self._pseudo_pairing(sampler, sources),
            trace=self.run.path / "profile" / "trace.json" if self.profile and self.ranks.main else None,
            aligned=sum(tower.head.init != "random" for tower in recipe.towers.values()) > 1,
        )  # fmt: skip

    def _note_batch_norms(self) -> None:
        """Say so where batch normalisation makes the number of ranks part of the result."""
        cut, ranks = self.recipe.train.accumulate, self.ranks.size
        names = [
            name for name in self.towers
            if not self.model.tower(name).frozen
            and any(isinstance(m, BATCH_NORMS) for m in self.model.tower(name).modules())
        ]  # fmt: skip
        if names and cut % ranks:
            made = -(-cut // ranks) * ranks
            self.notice(
                f"batch normalisation in {', '.join(names)} sees chunks, of which {ranks} ranks make {made} and one "
                f"process makes {cut}: results are not those of one process. With train.accumulate = {ranks} (or a "
                "multiple) on any number of ranks they are"
            )

    def _pseudo_pairing(self, sampler: BatchSampler, sources: dict[str, TowerSource]) -> PseudoPairing | None:
        table, teacher = self.recipe.pseudo, self.builder.teacher()
        if table is None or not {"pseudo", "reference"} & self.needs:
            return None
        towers = table.towers or self.builder.pairs()[0]
        matched = dict(zip(towers, self.pools.all_of_both(*towers), strict=True))
        positions = {
            "pairs": dict(zip(towers, self.pools.one_each(*towers), strict=True)),
            "matched": {tower: found[0] for tower, found in matched.items()},
            "pool": {tower: self.pools.unmatched[tower] for tower in towers},
        }
        numbers = {tower: found[1] for tower, found in matched.items()}
        # A split holds the features of one model's frozen towers.
        splits = {id(self.model): self.train}

        def train(model: AlignedModel) -> Split:
            return splits.setdefault(id(model), self.split("train"))

        def saved(path: Path) -> AlignedModel:
            return load_model(path, str(self.device), self.resolved.catalog)

        return PseudoPairing(
            table, teacher, towers, sampler,
            lambda step: View(towers, step, self.model, positions, train, self.validation, saved, numbers),
            steps=self.rows.steps, seed=self.recipe.train.seed, share=self.ranks.on_main,
            listens=self.resolved.catalog.get("teacher", table.teacher.use).spec.changes,
            tell=self.notice,
            sources=sources if "reference" in self.needs else None, pairs="pseudo" in self.needs,
        )  # fmt: skip

    def cache_held_out(self) -> None:
        """Compute the features of frozen towers for the evaluated splits before training begins."""
        for split in {id(s): s for s in (*self.splits.values(), self.validation) if s is not None}.values():
            for name, table in self.recipe.towers.items():
                if table.encoder.freeze:
                    split.features(self.model, name)
        self.stores.clear()  # the splits hold what they need; the stores hold what other runs needed as well

    # -- evaluation -------------------------------------------------------------------------------------------------

    def _validate(self) -> dict[str, float]:
        if self.validation is None:
            return {}
        model = self.model if self.backend is None else self.backend.collect()
        return self.measured(self.validation.embed(model), self.loss.scorer())

    def measured(self, embedded: Embedded, scorer: Any = None) -> dict[str, float]:
        """Flat metrics of embeddings, measured on rank 0 and the same on all; `scorer` None ranks by cosine."""
        shortcuts = tuple(self.dataset.facts().get("shortcuts", ()))
        return self.ranks.on_main(
            lambda: measure(embedded, self.builder.pairs(), shortcuts, self.recipe.train.seed, scorer)
        )

    def compared(self, ours: Embedded, theirs: Embedded) -> dict[str, dict[str, float]]:
        """Differences between two sets of embeddings, with intervals."""
        return self.ranks.on_main(lambda: compare(ours, theirs, self.builder.pairs(), self.recipe.train.seed))
