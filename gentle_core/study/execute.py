"""Runs of a study, several at a time; a run that has finished is never run again."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

import attrs

from gentle_core.errors import GentleError, Interrupted
from gentle_core.plugins import discover
from gentle_core.recipe.load import Resolved, differences, load_recipe
from gentle_core.study.plan import Job, Plan, RowsSeen

REMOVED_AFTERWARDS = ("checkpoints", "model")


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
        keep: "figures" or "all".
    """

    root: Path
    processes: int = 1
    files: tuple[str, ...] = ()
    enabled: bool = True
    keep: str = "figures"

    def run(self, plan: Plan, jobs: Sequence[Job], tell: Callable[[Outcome], None]) -> list[Outcome]:
        """Carry out what has not been done yet. A run that fails is told and does not stop the others.

        Raises:
            Interrupted: SIGINT or SIGTERM; each run has left a checkpoint, and the same command goes on.
        """
        found = {job.folder: outcome for job in jobs if (outcome := self.finished(plan, job)) is not None}
        for outcome in found.values():
            tell(outcome)
        todo = [job for job in jobs if job.folder not in found]
        carried_out = self._here if self.processes == 1 or len(todo) < 2 else self._beside
        for outcome in carried_out(plan, todo):
            found[outcome.job.folder] = outcome
            tell(outcome)
        return [found[job.folder] for job in jobs]

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
        return outcome_of(folder, job)

    def _here(self, plan: Plan, jobs: Sequence[Job]) -> Iterator[Outcome]:
        for job in jobs:
            yield one_run(plan.resolve(job), self.root / job.folder, job, self.keep)

    def _beside(self, plan: Plan, jobs: Sequence[Job]) -> Iterator[Outcome]:
        threads = max(1, (os.cpu_count() or 1) // self.processes)
        recipe = str(plan.study.table.recipe)
        with ProcessPoolExecutor(
            self.processes, mp_context=get_context("spawn"), initializer=_begin, initargs=(threads,)
        ) as pool:
            waiting: set[Future[Outcome]] = {
                pool.submit(_in_process, recipe, job, self.root / job.folder, self.files, self.enabled, self.keep)
                for job in jobs
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


def one_run(resolved: Resolved, folder: Path, job: Job, keep: str) -> Outcome:
    """One run, resumed where it was broken off."""
    from gentle_core.engine.baseline import run_baselines
    from gentle_core.engine.progress import Display
    from gentle_core.engine.run import run_recipe

    try:
        if job.closed_form:
            shutil.rmtree(folder, ignore_errors=True)  # a fit takes seconds: one that was broken off begins anew
            run_baselines(resolved, folder, Display(quiet=True), forms=job.closed_form)
        else:
            run_recipe(resolved, folder, "auto", Display(quiet=True), report=keep == "all")
    except Interrupted:
        raise
    except GentleError as error:
        return Outcome(job, {}, error=str(error))
    if keep == "figures":
        for name in REMOVED_AFTERWARDS:
            shutil.rmtree(folder / name, ignore_errors=True)
    return outcome_of(folder, job)


def outcome_of(folder: Path, job: Job) -> Outcome:
    """What a finished run wrote down."""
    data = _json(folder / "manifest.json").get("data", {})
    unpaired = max(data.get("unpaired_rows", {}).values(), default=0) + data.get("pseudo_rows", 0)
    rows = RowsSeen(data.get("pairs", 0), data.get("paired_rows", 0), unpaired, data.get("steps", 0))
    return Outcome(job, _json(folder / "results.json").get("splits", {}), rows)


def _begin(threads: int) -> None:
    """In a new process: leave the other processes their cores."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    import torch

    torch.set_num_threads(threads)


def _in_process(recipe: str, job: Job, folder: Path, files: tuple[str, ...], enabled: bool, keep: str) -> Outcome:
    resolved = load_recipe(recipe, job.settings, discover(enabled=enabled, files=files))
    return one_run(resolved, folder, job, keep)


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
