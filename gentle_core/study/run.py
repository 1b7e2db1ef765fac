"""A whole study: search, runs, controls, page. What `gentle study` calls."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from gentle_core.engine.checkpoint import replace_durably
from gentle_core.engine.loop import lower_is_better
from gentle_core.engine.progress import Display
from gentle_core.errors import GentleError, Interrupted, Stopped
from gentle_core.study.execute import Outcome, Workers
from gentle_core.study.page import markdown, page
from gentle_core.study.plan import Job, Plan, RowsSeen
from gentle_core.study.results import Results, Searched, choose, collect

STUDY, DATA, TABLE, PAGE = "study.toml", "study.json", "study.md", "study.html"


def run_study(plan: Plan, workers: Workers, display: Display) -> Results:
    """Carry out what is missing of a study and write `study.json`, `study.md` and `study.html` into its folder.

    Runs that failed are listed there; the figures are those of the others.

    Raises:
        Interrupted: the same command goes on.
        GentleError: no run gave any figure, or the folder cannot be written.
    """
    root, table = workers.root, plan.study.table
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise GentleError(f"cannot create {root}: {error.strerror or error}") from error
    replace_durably(root / STUDY, plan.study.text.encode())
    lower = lower_is_better(table.criterion)

    def carry_out(what: str, jobs: Sequence[Job]) -> list[Outcome]:
        done = 0

        def tell(outcome: Outcome) -> None:
            nonlocal done
            done += 1
            if outcome.error:
                display.warn(f"{outcome.job.folder}: {outcome.error}")
            display.advance(done)

        if not jobs:
            return []
        display.start(what, len(jobs))
        try:
            return workers.run(plan, jobs, tell)
        except (KeyboardInterrupt, Interrupted, Stopped) as error:
            raise Interrupted(f"stopped; the same command with --out {root} goes on") from error
        finally:
            display.stop()

    searches: tuple[Searched, ...] = ()
    chosen: dict[tuple[str, int], int] = {}
    for second in (False, True):
        found = choose(plan, carry_out("search", plan.searches(chosen, second)), lower)
        chosen |= {(s.variant, s.level): s.taken for s in found}
        searches += found
    outcomes = carry_out("runs", plan.finals(chosen))
    controls = plan.equal_rows(chosen, _rows_seen(outcomes))
    outcomes += carry_out("controls with equal rows", controls)
    results = collect(plan, outcomes, searches, lower)
    replace_durably(root / DATA, (json.dumps(results.as_json(), indent=1, default=str) + "\n").encode())
    replace_durably(root / TABLE, markdown(results, [o.job for o in outcomes]).encode())
    replace_durably(root / PAGE, page(results, [o.job for o in outcomes]).encode())
    if not any(values for by in results.values[table.metric].values() for values in by):
        raise GentleError(
            f"no run of {plan.study.path} gave {table.metric!r} on {table.split!r}: {results.failures[0]}"
        )
    return results


def _rows_seen(outcomes: Sequence[Outcome]) -> dict[tuple[str, int], RowsSeen]:
    return {(o.job.variant, o.job.level): o.rows for o in outcomes if o.rows is not None}


def unfinished(results: Results) -> str:
    """A sentence about the runs without figures; "" where there are none."""
    n = len(results.failures)
    return f"{n} run{'s' if n > 1 else ''} gave no figures; the same command tries again" if n else ""


def summary(results: Results, root: Path) -> list[str]:
    """The last lines that a person sees."""
    from gentle_core.study.page import sentence

    found = results.differences()
    lines = [sentence(results, contrast) for contrast in found if contrast.kind != "rival"]
    lines = lines or [sentence(results, contrast) for contrast in found]
    return [*lines, f"page: {root / PAGE}"]
