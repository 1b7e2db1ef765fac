"""A whole run: build, train, evaluate, compare, report. What `gentle run` and `gentle_core.run` call."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch

from gentle_core.builtin import needs
from gentle_core.data.loader import StepDataset, TowerSource
from gentle_core.data.pools import Pools, make_pools
from gentle_core.data.rows import RowPlan, rows_per_batch
from gentle_core.data.sampler import BatchSampler
from gentle_core.engine import baselines
from gentle_core.engine.artifact import save_model
from gentle_core.engine.build import Builder
from gentle_core.engine.checkpoint import load_checkpoint, newest_checkpoint
from gentle_core.engine.loop import Trainer, count_parameters
from gentle_core.engine.measure import compare, measure
from gentle_core.engine.optim import Optimizer
from gentle_core.engine.progress import Display
from gentle_core.engine.rundir import RunDirectory, environment
from gentle_core.engine.splits import Embedded, Split, limited
from gentle_core.engine.towers import AlignedModel
from gentle_core.errors import DataError, GentleError, Interrupted, RecipeError
from gentle_core.evaluate.examples import neighbour_examples
from gentle_core.recipe.load import Resolved, differences
from gentle_core.recipe.model import Recipe

FREE_TO_CHANGE = ("engine", "report", "baseline", "evaluate", "train.workers", "train.keep_last", "train.log_every",
                  "train.save_every", "description", "name")  # fmt: skip
"""Settings that may differ when a run is resumed: they change nothing that was computed so far."""


@attrs.frozen
class RunResult:
    """What a run left behind: its directory, the final metrics by split, and those of the baselines."""

    out: Path
    metrics: Mapping[str, Mapping[str, float]]
    baselines: Mapping[str, Mapping[str, Mapping[str, float]]]

    @property
    def report(self) -> Path:
        return self.out / "report.html"


def choose_device(name: str) -> torch.device:
    """The device of `[engine] device`; "auto" prefers CUDA, then MPS, then the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise RecipeError(f"engine.device: {name!r} cannot be used here: {str(error).splitlines()[0]}") from error
    return device


class Session:
    """A run in progress: the built parts and the splits, from the recipe to the finished directory."""

    def __init__(self, resolved: Resolved, out: Path, resume: str, display: Display):
        self.resolved, self.recipe, self.resume, self.display = resolved, resolved.recipe, resume, display
        self.run = RunDirectory(out)
        self.began = time.time()
        self._open_directory()
        recipe: Recipe = self.recipe
        if recipe.engine.threads:
            torch.set_num_threads(recipe.engine.threads)
        self.device = choose_device(recipe.engine.device)
        self.builder = Builder(recipe=recipe, catalog=resolved.catalog, notify=self.notice)
        self.dataset = self.builder.dataset()
        self.towers = {name: table.modality for name, table in recipe.towers.items()}
        self.loss = self.builder.loss().to(self.device)
        self.needs = self._needs()
        self.pools, self.rows = self._pools()
        self.model: AlignedModel = self.builder.model().to(self.device)
        self.train = Split(self.dataset, self._index("train"), self.towers, "train", display)
        self.splits = self._held_out()
        self.fingerprints = {
            name: self.model.tower(name).encoder.fingerprint() for name in self.towers if recipe.towers[name].encoder.freeze
        }

    # -- set-up -----------------------------------------------------------------------------------------------------

    def notice(self, message: str) -> None:
        self.display.warn(message)
        self.run.notice(message)

    def _open_directory(self) -> None:
        text = self.resolved.to_toml()
        if self.run.exists():
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
        self.run.update_manifest(**facts, seed=self.recipe.train.seed, status="running")
        for warning in self.resolved.warnings:
            self.notice(warning)

    def _needs(self) -> frozenset[str]:
        """What the objective with its options must find in a batch."""
        spec = self.resolved.catalog.get("loss", self.recipe.objective.use).spec
        return needs(spec, self.recipe.objective.config, lambda name: self.resolved.catalog.get("loss", name).spec)

    def _index(self, split: str) -> Mapping[str, Any]:
        return self.dataset.index(split)

    def _pools(self) -> tuple[Pools, RowPlan]:
        table, index = self.recipe.dataset, self._index("train")
        for tower, modality in self.towers.items():
            if not len(index.get(modality, ())):
                raise DataError(f"the training split of {table.use} has no {modality} items for tower {tower!r}")
        pools = make_pools(
            index, self.towers, paired=table.paired, pool=table.pool, unpaired=table.unpaired, seed=self.recipe.train.seed
        )
        if not pools.pairs and "pairs" in self.needs:
            raise DataError(
                f"{self.recipe.objective.use} needs matched pairs, and there are none: raise dataset.paired, "
                "bring items with the same ids in two modalities, or choose an objective with unpaired terms"
            )
        return pools, rows_per_batch(self.recipe.train, pools.pairs, pools.pool_sizes, "unpaired" in self.needs)

    def _held_out(self) -> dict[str, Split]:
        found = {}
        for name in self.recipe.evaluate.splits:
            index = limited(self._index(name), self.recipe.evaluate.limit, self.recipe.train.seed)
            if all(len(index.get(modality, ())) for modality in self.towers.values()):
                found[name] = Split(self.dataset, index, self.towers, name, self.display)
            else:
                self.notice(f"split {name!r} has no items for every tower and is not evaluated")
        return found

    def _sources(self) -> dict[str, TowerSource]:
        """Where each tower's training inputs come from; features of frozen towers are computed here."""
        sources = {}
        for name, table in self.recipe.towers.items():
            tower = self.model.tower(name)
            items = self.builder.augmentations(name, "item")
            batch = self.builder.augmentations(name, "batch")
            tower.batch_augment = [function for _, function in batch]
            features = None
            if table.encoder.freeze and not items and not batch:
                used = self._used(name)
                features = self.train.features(self.model, name, used)
                if table.head.standardize:
                    tower.head.standardize(features[used].to(self.device))
            sources[name] = TowerSource(
                modality=self.towers[name], index=self.train.index[name], load=self.dataset.load,
                collate=tower.encoder.collate, augment=items, features=features,
            )  # fmt: skip
        return sources

    def _used(self, tower: str) -> list[int]:
        """Positions of the training items that batches can hold."""
        rows = set(self.pools.unmatched[tower].tolist()) if self.rows.unpaired[tower] else set()
        return sorted(rows.union(*(group.tolist() for group in self.pools.matched[tower])))

    def trainer(self) -> Trainer:
        recipe = self.recipe
        sources = self._sources()
        data = StepDataset(
            sources, BatchSampler(self.pools, self.rows, recipe.train.seed), recipe.train.seed,
            views=2 if "views" in self.needs else 1, chunks=recipe.train.accumulate,
        )  # fmt: skip
        return Trainer(
            table=recipe.train, steps=self.rows.steps, pairs=self.builder.pairs(), model=self.model, loss=self.loss,
            optimizer=Optimizer(self.model, self.loss, recipe), data=data, run=self.run, display=self.display,
            measure=self._validate, fingerprints=self.fingerprints,
        )  # fmt: skip

    # -- evaluation -------------------------------------------------------------------------------------------------

    def _validate(self) -> dict[str, float]:
        if not self.splits:
            return {}
        name, split = next(iter(self.splits.items()))
        return self.measured(split.embed(self.model), self.loss.scorer())

    def measured(self, embedded: Embedded, scorer: Any = None) -> dict[str, float]:
        """Flat metrics of embeddings; `scorer` None ranks by cosine."""
        shortcuts = tuple(self.dataset.facts().get("shortcuts", ()))
        return measure(embedded, self.builder.pairs(), shortcuts, self.recipe.train.seed, scorer)

    def describe(self) -> None:
        """Put what was built into the manifest and say it."""
        towers = {}
        for name, table in self.recipe.towers.items():
            tower = self.model.tower(name)
            total, _ = count_parameters(tower.encoder)
            _, trainable = count_parameters(tower)
            spec = self.resolved.catalog.get("encoder", table.encoder.use).spec
            towers[name] = {
                "modality": table.modality, "encoder": table.encoder.use, "frozen": table.encoder.freeze,
                "parameters": total, "trainable": trainable, "licence": spec.licence, "citation": spec.citation,
                "facts": dict(tower.encoder.facts()),
            }  # fmt: skip
        data = {
            "pairs": self.pools.pairs, "pools": self.pools.pool_sizes, "paired_rows": self.rows.paired,
            "unpaired_rows": dict(self.rows.unpaired), "pool": self.recipe.dataset.pool, "steps": self.rows.steps,
            "steps_per_epoch": self.rows.steps_per_epoch, "device": str(self.device),
            "held_out": {name: {t: len(i) for t, i in split.index.items()} for name, split in self.splits.items()},
        }  # fmt: skip
        self.run.update_manifest(towers=towers, data=data, dataset=dict(self.dataset.facts()))
        pools = ", ".join(f"{tower} {size}" for tower, size in self.pools.pool_sizes.items())
        rows = ", ".join(f"{tower} {count}" for tower, count in self.rows.unpaired.items())
        self.display.say(f"data: {self.pools.pairs} pairs; unmatched pools: {pools}")
        self.display.say(f"batch: {self.rows.paired} matched rows; unmatched rows: {rows}; {self.rows.steps} steps")


def run_recipe(
    resolved: Resolved, out: Path, resume: str = "never", display: Display | None = None
) -> RunResult:
    """Run a resolved recipe into `out`.

    Args:
        resolved: what `load_recipe` returned.
        out: the run directory.
        resume: "never", "auto" (the newest intact checkpoint in `out`), or a checkpoint folder.
        display: where progress is shown.

    Raises:
        GentleError: with one line that says what to do; the manifest's status says "failed" or "interrupted".
    """
    session = Session(resolved, out, resume, display or Display())
    try:
        return _run(session)
    except BaseException as error:
        stopped = isinstance(error, Interrupted | KeyboardInterrupt)
        session.display.stop()
        if not (isinstance(error, OSError) or isinstance(error.__cause__, OSError)):
            session.run.update_manifest(status="interrupted" if stopped else "failed", error=str(error))
        raise
    finally:
        session.run.close()


def _run(session: Session) -> RunResult:
    run, recipe, display = session.run, session.recipe, session.display
    session.describe()
    trainer = session.trainer()
    _restore(session, trainer)
    if trainer.step < trainer.steps:
        trainer.fit(recipe.name or "train")
    if trainer.best.checkpoint:
        trainer.load_weights(load_checkpoint(run.checkpoints / trainer.best.checkpoint))
        display.say(f"the best validation {trainer.best.metric} was at {trainer.best.checkpoint}; that is the model")

    results: dict[str, Any] = {"splits": {}, "baselines": {}, "comparisons": {}, "facts": {}}
    held: dict[str, Embedded] = {}
    for name, split in session.splits.items():
        held[name] = split.embed(session.model)
        results["splits"][name] = session.measured(held[name], session.loss.scorer())
        run.log(trainer.step, name, {**results["splits"][name], "final": True})
        _save_embeddings(run.path / "embeddings", name, held[name])
    save_model(run.model, session.model, session.resolved.to_toml(), {
        "step": trainer.step, "select": attrs.asdict(trainer.best), "towers": run.manifest["towers"],
        "plugins": run.manifest["plugins"], "gentle": run.manifest["gentle"],
    })  # fmt: skip
    if held:
        results["examples"] = _examples(session, held)
    run.write_json("results.json", results)
    _compare(session, held, results)
    run.write_json("results.json", results)
    run.update_manifest(status="finished", seconds=run.manifest.get("seconds", 0) + time.time() - session.began)
    return RunResult(run.path, results["splits"], results["baselines"])


def _examples(session: Session, held: Mapping[str, Embedded]) -> dict[str, Any]:
    """Nearest-neighbour examples of the last split, for the report."""
    name, embedded = list(held.items())[-1]
    a, b = session.builder.pairs()[0]
    found = neighbour_examples(
        {t: embedded.z[t] for t in (a, b)}, {t: embedded.items[t] for t in (a, b)},
        {t: embedded.samples[t] for t in (a, b)}, count=session.recipe.report.examples, seed=session.recipe.train.seed,
    )  # fmt: skip
    return {"split": name, **found}


def _restore(session: Session, trainer: Trainer) -> None:
    run = session.run
    if session.resume == "never":
        return
    if session.resume == "auto":
        checkpoint = newest_checkpoint(run.checkpoints, session.notice)
    else:
        checkpoint = load_checkpoint(Path(session.resume))
    if checkpoint is not None:
        trainer.restore(checkpoint)
        session.display.say(f"resumed from {checkpoint.path}")
    run.truncate_metrics(trainer.step)


def _save_embeddings(folder: Path, name: str, embedded: Embedded) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(folder / f"{name}.npz", **embedded.arrays())  # type: ignore[arg-type]
    except OSError as error:
        raise GentleError(f"cannot write {folder / name}.npz: {error.strerror or error}") from error


def _compare(session: Session, held: Mapping[str, Embedded], results: dict[str, Any]) -> None:
    """Train and fit the baselines that the recipe asks for, and say whether the run differs from them."""
    table, run = session.recipe.baseline, session.run
    others: dict[str, dict[str, Embedded]] = {}
    trained: AlignedModel | None = None
    if table.pairs_only:
        session.display.say("baseline: CLIP on the same pairs, for the same steps")
        folder = run.path / "baselines" / "pairs_only"
        again = Session(baselines.pairs_only(session.resolved), folder, "auto", session.display)
        try:
            _run(again)
        finally:
            again.run.close()
        others[baselines.PAIRS_ONLY] = {name: split.embed(again.model) for name, split in again.splits.items()}
        trained = again.model
    if table.cca and session.splits and session.pools.pairs:
        fresh = session.builder.model().to(session.device)
        models = {baselines.CCA_INITIAL: fresh} | ({baselines.CCA_TRAINED: trained} if trained is not None else {})
        for label, model in models.items():
            split = Split(session.dataset, session._index("train"), session.towers, "train", session.display)
            validation = next(iter(session.splits.values()))
            fitted = baselines.closed_form_cca(
                model, split, validation, session.splits, session.pools, session.builder.pairs()[0]
            )
            if fitted is not None:
                others[label], results["facts"][label] = fitted
    for label, embedded in others.items():
        results["baselines"][label] = {n: session.measured(e) for n, e in embedded.items()}
        results["comparisons"][label] = {
            name: compare(held[name], embedded[name], session.builder.pairs(), session.recipe.train.seed)
            for name in held
            if name in embedded
        }
        for name, part in embedded.items():
            _save_embeddings(run.path / "baselines" / label.replace(",", "").replace(" ", "_") / "embeddings", name, part)
