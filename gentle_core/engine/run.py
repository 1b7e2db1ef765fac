"""A whole run: build, train, evaluate, compare, report. What `gentle run` and `gentle_core.run` call."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from gentle_core.engine import baselines
from gentle_core.engine.artifact import save_model
from gentle_core.engine.check_pools import warn_of_foreign_pools
from gentle_core.engine.checkpoint import Checkpoint, load_checkpoint, newest_checkpoint
from gentle_core.engine.closed import embedded
from gentle_core.engine.describe import describe
from gentle_core.engine.hubness import correct_hubness
from gentle_core.engine.interrupt import InterruptFlag
from gentle_core.engine.loop import Trainer
from gentle_core.engine.place import Place, find_place
from gentle_core.engine.progress import Display
from gentle_core.engine.ranks import joined
from gentle_core.engine.session import Session, choose_device
from gentle_core.engine.splits import Embedded
from gentle_core.engine.towers import AlignedModel
from gentle_core.errors import CheckpointError, GentleError, Interrupted
from gentle_core.evaluate.examples import nearest_examples
from gentle_core.recipe.load import Resolved, free_directory
from gentle_core.report.build import build_report

THIS_RUN = "This run"
CROSSED_PAIRS = 5000
"""Up to so many pairs are held out in turn where there is no validation split: it takes six fits."""


@attrs.frozen
class RunResult:
    """What a run left behind: its directory, the final metrics by split, and those of the baselines."""

    out: Path
    metrics: Mapping[str, Mapping[str, float]]
    baselines: Mapping[str, Mapping[str, Mapping[str, float]]]

    @property
    def report(self) -> Path:
        return self.out / "report.html"


def run_recipe(
    resolved: Resolved,
    out: Path | None,
    resume: str = "never",
    display: Display | None = None,
    report: bool = True,
    profile: bool = False,
) -> RunResult:
    """Run a resolved recipe into `out`. Under a launcher this process is one of several that run it together.

    Args:
        resolved: what `load_recipe` returned.
        out: the run directory; None for a new one under `runs/`.
        resume: "never", "auto" (the newest intact checkpoint in `out`), or a checkpoint folder.
        display: where progress is shown.
        report: whether to write the page; `gentle report` writes it later.
        profile: write a trace of a few steps to `profile/trace.json`.

    Raises:
        GentleError: with one line that says what to do; the manifest's status says "failed" or "interrupted".
    """
    display, engine = display or Display(), resolved.recipe.engine
    place = find_place(os.environ)
    if place is None and engine.use == "deepspeed":
        place = Place(0, 1, 0, "127.0.0.1", 0)  # DeepSpeed wants a process group even for one process
    device = choose_device(engine.device, place.local_rank) if place else None
    if place and place.rank:
        display = Display(quiet=True)
    with InterruptFlag() as interrupt, joined(place, device, engine.timeout) as ranks:
        directory = ranks.on_main(lambda: free_directory(resolved) if out is None else out)
        display.say(f"run directory: {directory}")
        session = Session(resolved, directory, resume, display, ranks, interrupt)
        session.profile = profile
        with recorded(session):
            result = _run(session)
        if report:
            ranks.on_main(lambda: display_summary(session.display, result, build_report(result.out)))
    return result


@contextlib.contextmanager
def recorded(session: Session) -> Iterator[None]:
    """Record how the run ended, whatever happens."""
    session.ranks.last_words = session.last_words
    try:
        yield
    except BaseException as error:
        cause = session.ranks.cause(error)
        stopped = isinstance(cause, KeyboardInterrupt) or getattr(cause, "exit_code", 0) == Interrupted.exit_code
        session.display.stop()
        with contextlib.suppress(CheckpointError):  # on a full disk there is no room for this either
            session.finish("interrupted" if stopped else "failed", str(cause))
        if cause is error:
            raise
        raise cause from error
    finally:
        session.run.close()


def _run(session: Session) -> RunResult:
    run, recipe = session.run, session.recipe
    session.build()
    describe(session)
    trainer = session.trainer()
    warn_of_foreign_pools(session)
    session.cache_held_out()
    _restore(session, trainer)
    if trainer.step < trainer.steps:
        trainer.fit(recipe.name or "train")
    step = _take_best(session, trainer)

    results: dict[str, Any] = {"splits": {}, "baselines": {}, "comparisons": {}, "facts": {}}
    held: dict[str, Embedded] = {}
    for name, split in session.splits.items():
        held[name] = split.embed(session.model)
        results["splits"][name] = session.measured(held[name], session.loss.scorer())
        run.log(step, name, {**results["splits"][name], "final": True})
        save_embeddings(session, run.path / "embeddings", name, held[name])
    session.ranks.on_main(lambda: save_model(run.model, session.model, session.resolved, {
        "step": step, "select": trainer.best.facts(), "towers": run.manifest["towers"],
        "plugins": run.manifest["plugins"], "gentle": run.manifest["gentle"],
    }))  # fmt: skip
    if held:
        results["examples"] = examples(session, held)
    run.write_json("results.json", results)
    _compare(session, held, results)
    run.write_json("results.json", results)
    session.finish("finished")
    return RunResult(run.path, results["splits"], results["baselines"])


def _take_best(session: Session, trainer: Trainer) -> int:
    """Make the best checkpoint the model, where the recipe selects by a metric; returns the model's step."""
    trainer.backend.collect()
    for _, name in trainer.best.ranked:
        try:
            chosen = session.ranks.on_main(functools.partial(load_checkpoint, session.run.checkpoints / name))
        except CheckpointError as error:
            session.notice(f"{error}; the model is not the one with the best {trainer.best.metric}")
            continue
        trainer.load_weights(chosen)
        step = int(chosen.facts["step"])
        when = f"at {name}" if step else f"before the first step ({name})"
        session.display.say(f"the best validation {trainer.best.metric} was {when}; that is the model")
        return step
    return trainer.step


def examples(session: Session, held: Mapping[str, Embedded]) -> dict[str, Any]:
    """Nearest-neighbour examples of the last split, both ways, for the report."""
    name, embedded = list(held.items())[-1]
    found = {}
    for a, b in (pair for ab in session.builder.pairs()[:1] for pair in (ab, ab[::-1])):
        found[f"{a}->{b}"] = nearest_examples(
            embedded.z[a], embedded.z[b], embedded.items[a], embedded.items[b], embedded.samples[a],
            embedded.samples[b], names=(a, b), count=session.recipe.report.examples, seed=session.recipe.train.seed,
        )  # fmt: skip
    return {"split": name, **found}


def _restore(session: Session, trainer: Trainer) -> None:
    run = session.run
    if session.resume == "never":
        return

    def read() -> Checkpoint | None:
        if session.resume == "auto":
            return newest_checkpoint(run.checkpoints, session.notice)
        return load_checkpoint(Path(session.resume))

    checkpoint = session.ranks.on_main(read)
    if checkpoint is not None:
        trainer.restore(checkpoint)
        session.display.say(f"resumed from {checkpoint.path}")
    run.truncate_metrics(trainer.step if checkpoint is not None else -1)


def save_embeddings(session: Session, folder: Path, name: str, embedded: Embedded) -> None:
    if not session.ranks.main:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Compressing embeddings takes seconds and saves a tenth of the room.
        np.savez(folder / f"{name}.npz", **embedded.arrays())  # type: ignore[arg-type]
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
        again = Session(
            baselines.pairs_only(session.resolved), folder, "auto", session.display, session.ranks, session.interrupt
        )
        with recorded(again):
            _run(again)
        others[baselines.PAIRS_ONLY] = {name: split.embed(again.model) for name, split in again.splits.items()}
        trained = again.model
    if session.recipe.evaluate.hubness != "none" and session.validation is not None:
        for title, model in (
            {THIS_RUN: session.model} | ({baselines.PAIRS_ONLY: trained} if trained is not None else {})
        ).items():
            figures = correct_hubness(session, model)
            if figures:
                results.setdefault("corrected", {})[title] = figures
    if table.cca and session.splits and session.pools.pairs:
        _closed_forms(session, trained, others, results)
        if (words := _few_pairs(session)) and session.ranks.main:
            session.notice(words)
    for label, found in others.items():
        results["baselines"][label] = {n: session.measured(e) for n, e in found.items()}
        results["comparisons"][label] = {
            name: session.compared(held[name], found[name]) for name in held if name in found
        }
        for name, part in found.items():
            save_embeddings(session, run.path / "baselines" / baselines.folder_of(label) / "embeddings", name, part)


def _few_pairs(session: Session) -> str:
    """Where to turn with few pairs and large pools; "" where there is no such case."""
    pairs, pool = session.pools.pairs, min(session.pools.pool_sizes.values())
    if pairs < 3 or pool < 2 * pairs:
        return ""
    case = f"few pairs ({pairs:,} beside pools of {pool:,} and more)"
    if session.validation is None:
        return (
            f"{case}: gentle baseline with the recipe fits the closed forms that make use of the pools, and takes what "
            "is best on pairs held out in turn"
        )
    return (
        f"{case}: gentle baseline {session.run.path} fits the closed forms that make use of the pools, averages them "
        "with this run, and takes what is best on validation"
    )


def _closed_forms(
    session: Session, trained: AlignedModel | None, others: dict[str, dict[str, Embedded]], results: dict[str, Any]
) -> None:
    """Fit the closed forms on the features that the encoders have at the start; CCA also on what training made of them,
    in the run itself and in CLIP on the same pairs."""
    table, pair = session.recipe.baseline, session.builder.pairs()[0]
    fresh = session.builder.model().to(session.device)
    fits: list[tuple[str, AlignedModel, tuple[str, ...]]] = [("", fresh, table.forms)]
    # Encoders that are all frozen have the features that they had at the start.
    frozen = all(tower.encoder.freeze for tower in session.recipe.towers.values())
    crossed = session.validation is None and frozen and 3 <= session.pools.pairs <= CROSSED_PAIRS
    if crossed and table.forms:
        session.notice("no val split: the closed forms' settings are chosen by training pairs held out in turn")
    if "cca" in table.forms and not frozen:
        fits += [(baselines.CCA_TRAINED, trained, ("cca",))] if trained is not None else []
        fits.append((baselines.CCA_OWN, session.model, ("cca",)))
    for title, model, wanted in fits:
        source, forms = baselines.closed_forms(session, model, wanted, title=title, crossed=crossed)
        for form in forms:
            label = form.label.replace(baselines.CCA_INITIAL, title) if title else form.label
            others[label] = {name: embedded(form, source, split, pair) for name, split in session.splits.items()}
            results["facts"][label] = baselines.facts_of(form, session)


def display_summary(display: Display, result: RunResult, report: Path) -> None:
    """The last lines a person sees: recall of the run and of each baseline, and where the report is."""
    if result.metrics:
        split, metrics = list(result.metrics.items())[-1]
        rows = {"this run": metrics} | {label: splits.get(split, {}) for label, splits in result.baselines.items()}
        rows["chance"] = {key.removesuffix("_chance"): v for key, v in metrics.items() if key.endswith("_chance")}
        width = max(len(label) for label in rows)
        display.say(f"retrieval on {split}, both ways, percent:")
        for label, found in rows.items():
            recalls = {k: found.get(f"retrieval/mean/R@{k}") for k in (1, 5, 10)}
            shown = (f"R@{k} {value:5.1f}" for k, value in recalls.items() if value is not None)
            display.say(f"  {label:<{width}}  {'  '.join(shown)}")
    display.say(f"report: {report}")
