"""Runs of a study, several at a time; a run that has finished is never run again."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

import attrs

from gentle_core.errors import GentleError, Interrupted, Stopped
from gentle_core.plugins import discover
from gentle_core.recipe.load import Resolved, differences, load_recipe
from gentle_core.study.model import StudyTable, TaskTable
from gentle_core.study.plan import Job, Plan, RowsSeen

REMOVED_AFTERWARDS = ("checkpoints", "model")
TASKS = "tasks.json"


@attrs.frozen
class Outcome:
    """What a run left behind: its metrics by split, or why there are none."""

    job: Job
    metrics: dict[str, dict[str, float]]
    rows: RowsSeen | None = None
    error: str = ""


@attrs.frozen
class Workers:
    """How runs are carried out.

    Attributes:
        root: the study's folder.
        processes: runs at a time; 1 runs them in this process.
        files: single-file plugins that the processes load as well.
        enabled: whether installed plugins are loaded.
    """

    root: Path
    processes: int = 1
    files: tuple[str, ...] = ()
    enabled: bool = True

    def run(self, plan: Plan, jobs: Sequence[Job], tell: Callable[[Outcome], None]) -> list[Outcome]:
        """Carry out what has not been done yet. A run that fails is told and does not stop the others.

        Raises:
            Interrupted, Stopped: SIGINT or SIGTERM; what was finished is kept, and the same command goes on.
        """
        found = {job.folder: outcome for job in jobs if (outcome := self.finished(plan, job)) is not None}
        for outcome in found.values():
            tell(outcome)
        todo = list({job.folder: job for job in jobs if job.folder not in found}.values())
        carried_out = self._here if self.processes == 1 or len(todo) < 2 else self._beside
        for outcome in carried_out(plan, todo):
            found[outcome.job.folder] = outcome
            tell(outcome)
        return [attrs.evolve(found[job.folder], job=job) for job in jobs]

    def finished(self, plan: Plan, job: Job) -> Outcome | None:
        """The outcome of a run that has finished with these settings.

        Raises:
            GentleError: its folder holds a run with other settings.
        """
        folder = self.root / job.folder
        if not (folder / "resolved.toml").is_file():
            return None
        changed = differences((folder / "resolved.toml").read_text(), plan.resolve(job).to_toml())
        if changed:
            raise GentleError(
                f"{folder} was made with other settings ({', '.join(changed[:5])}): the study's file or its recipe has "
                "changed since; choose another --out, or remove that folder to run it again"
            )
        if _json(folder / "manifest.json").get("status") != "finished":
            return None
        if tasks_of(plan.study.table, job).keys() - _json(folder / TASKS).keys():
            return None
        return outcome_of(folder, job, plan.study.table)

    def _here(self, plan: Plan, jobs: Sequence[Job]) -> Iterator[Outcome]:
        for job in jobs:
            yield one_run(plan.resolve(job), self.root / job.folder, job, plan.study.table)

    def _beside(self, plan: Plan, jobs: Sequence[Job]) -> Iterator[Outcome]:
        threads = max(1, (os.cpu_count() or 1) // self.processes)
        table = plan.study.table
        with ProcessPoolExecutor(
            self.processes, mp_context=get_context("spawn"), initializer=_begin, initargs=(threads,)
        ) as pool:
            waiting: set[Future[Outcome]] = {
                pool.submit(_in_process, table, job, self.root / job.folder, self.files, self.enabled) for job in jobs
            }
            try:
                while waiting:
                    done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    for future in done:
                        yield future.result()
            except BrokenProcessPool as error:
                raise GentleError(
                    "a process of the study was killed (out of memory?): the same command goes on, "
                    "and --processes sets how many run at a time"
                ) from error
            except BaseException:
                for process in active_children():
                    process.terminate()  # a run takes SIGTERM as the wish to leave a checkpoint and stop
                pool.shutdown(wait=True, cancel_futures=True)
                raise


def one_run(resolved: Resolved, folder: Path, job: Job, table: StudyTable) -> Outcome:
    """One run, resumed where it was broken off, and the study's tasks on what it left."""
    from gentle_core.engine.baseline import run_baselines
    from gentle_core.engine.progress import Display
    from gentle_core.engine.run import run_recipe

    try:
        trained = folder.parent / f"{folder.name}-trained" if job.closed_form else folder
        if job.trained:
            if not (trained / "checkpoints").is_dir():
                shutil.rmtree(trained, ignore_errors=True)  # it had finished, before the study named another task
            run_recipe(resolved, trained, "auto", Display(quiet=True), report=table.keep == "all")
        if job.closed_form:
            shutil.rmtree(folder, ignore_errors=True)  # a fit takes seconds: one that was broken off begins anew
            source = trained if job.trained else None
            run_baselines(
                resolved, folder, Display(quiet=True), forms=job.closed_form, correct=job.hubness, trained=source
            )
    except (Interrupted, Stopped):
        raise
    except GentleError as error:
        return Outcome(job, {}, error=str(error))
    try:
        _evaluate(resolved, folder, tasks_of(table, job))
    except (Interrupted, Stopped):
        raise
    except GentleError as error:
        return attrs.evolve(outcome_of(folder, job, table), error=str(error))
    if table.keep == "figures":
        for path in itertools.product({folder, trained}, REMOVED_AFTERWARDS):
            shutil.rmtree(Path(*path), ignore_errors=True)
    return outcome_of(folder, job, table)


def tasks_of(table: StudyTable, job: Job) -> Mapping[str, TaskTable]:
    """On what a run is evaluated: where settings are only chosen, on nothing."""
    return table.tasks if job.choice is None else {}


def _evaluate(resolved: Resolved, folder: Path, tasks: Mapping[str, TaskTable]) -> None:
    """Keep the tasks' figures in a file of the run directory."""
    from gentle_core.engine.checkpoint import replace_durably
    from gentle_core.engine.evaluate import evaluate_run
    from gentle_core.engine.progress import Display
    from gentle_core.engine.session import choose_device

    device, found = str(choose_device(resolved.recipe.engine.device)), {}
    for name, task in tasks.items():
        figures = evaluate_run(
            folder, task.use, task.settings, catalog=resolved.catalog, device=device, display=Display(quiet=True)
        )
        found[name] = {key: float(value) for key, value in figures.items() if isinstance(value, int | float)}
    if found:
        replace_durably(folder / TASKS, json.dumps(found, indent=1).encode())


def outcome_of(folder: Path, job: Job, table: StudyTable) -> Outcome:
    """What a finished run wrote down; figures with hubness correction and the tasks' are among those of their split."""
    from gentle_core.engine.run import THIS_RUN

    data = _json(folder / "manifest.json").get("data", {})
    if job.closed_form and job.trained:
        data = _json(folder.parent / f"{folder.name}-trained" / "manifest.json").get("data", {})
    unpaired = max(data.get("unpaired_rows", {}).values(), default=0) + data.get("pseudo_rows", 0)
    rows = RowsSeen(data.get("pairs", 0), data.get("paired_rows", 0), unpaired, data.get("steps", 0))
    results = _json(folder / "results.json")
    metrics = dict(results.get("splits", {}))
    corrected = results.get("corrected", {}).get(THIS_RUN, {}).get("splits", {})
    added = [(split, "corrected", figures) for split, figures in corrected.items()]
    added += [(table.split, name, figures) for name, figures in _json(folder / TASKS).items()]
    for split, name, figures in added:
        metrics[split] = metrics.get(split, {}) | {f"{name}/{key}": value for key, value in figures.items()}
    return Outcome(job, metrics, rows)


def _begin(threads: int) -> None:
    """In a new process: leave the other processes their cores."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    import torch

    torch.set_num_threads(threads)


def _in_process(table: StudyTable, job: Job, folder: Path, files: tuple[str, ...], enabled: bool) -> Outcome:
    resolved = load_recipe(table.recipe, job.settings, discover(enabled=enabled, files=files))
    return one_run(resolved, folder, job, table)


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
