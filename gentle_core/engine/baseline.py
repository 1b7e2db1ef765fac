"""`gentle baseline`: all closed forms on a recipe's features, or on those of a finished run, and the one to take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs

from gentle_core.closed_form.choice import Choice, choose
from gentle_core.closed_form.crossfit import HELD_OUT
from gentle_core.closed_form.forms import Form
from gentle_core.engine.artifact import load_model, save_model
from gentle_core.engine.baselines import closed_forms, facts_of, folder_of
from gentle_core.engine.closed import ClosedFormModel, embedded
from gentle_core.engine.describe import describe
from gentle_core.engine.progress import Display
from gentle_core.engine.run import examples, recorded, save_embeddings
from gentle_core.engine.session import Session
from gentle_core.engine.splits import Embedded
from gentle_core.errors import DataError
from gentle_core.form_names import FORM_NAMES
from gentle_core.recipe.load import Resolved
from gentle_core.report.build import build_report


@attrs.frozen
class Line:
    """A row of the table: mean recall in percent on what forms were chosen on and on each evaluated split."""

    label: str
    uses_pools: bool
    chosen: bool
    validation: float
    recall: dict[str, float]
    seconds: float


@attrs.frozen
class BaselineResult:
    """What `run_baselines` left behind.

    Attributes:
        out: a run directory whose figures are those of the chosen form; the others stand beside it as baselines.
        lines: all forms.
        reason: why that form, in a sentence.
        settings: of the chosen form.
        chosen_on: "validation", or `HELD_OUT` where there is no validation split.
    """

    out: Path
    lines: list[Line]
    reason: str
    settings: dict[str, Any]
    chosen_on: str

    @property
    def report(self) -> Path:
        return self.out / "report.html"

    def as_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "out": str(self.out), "reason": self.reason, "settings": self.settings, "chosen_on": self.chosen_on,
            "forms": [attrs.asdict(line) for line in self.lines],
        }  # fmt: skip


def run_baselines(
    resolved: Resolved,
    out: Path,
    display: Display | None = None,
    *,
    forms: tuple[str, ...] = FORM_NAMES,
    correct: bool = True,
    trained: Path | None = None,
) -> BaselineResult:
    """Fit the closed forms, choose one on validation, and leave a run directory.

    Args:
        resolved: the recipe; its objective and training are not used.
        forms: names of `FORM_NAMES`; with CCA where there is none on the pairs alone to compare with.
        correct: also with corrections of hubness.
        trained: a finished run with the same towers, whose encoders give the features instead of fresh ones.

    Raises:
        DataError: fewer than three pairs, or no validation split for the forms of a trained run.
        GentleError: as `run_recipe`.
    """
    if not {"ridge", "cca", "procrustes", "propagation"} & set(forms):
        forms = ("cca", *forms)  # a form with pools has to have one on the pairs alone beside it
    # What the recipe's objective would be warned about is no matter here.
    session = Session(attrs.evolve(resolved, warnings=()), out, "never", display or Display())
    with recorded(session):
        result = _run(session, forms, correct, trained)
    build_report(result.out)
    return result


def _run(session: Session, forms: tuple[str, ...], correct: bool, trained: Path | None) -> BaselineResult:
    session.build()
    crossed = session.validation is None
    if crossed and trained is not None:
        raise DataError(
            f"{session.recipe.dataset.use} has no val split for every tower, and the run was trained on all pairs, so "
            "that none can be held out: give the recipe instead of the run"
        )
    if crossed:
        session.notice(
            f"{session.recipe.dataset.use} has no val split for every tower: settings and form are chosen by training "
            "pairs that are held out in turn"
        )
    if trained is not None:
        session.model = load_model(trained, str(session.device), session.resolved.catalog)
    describe(session, trains=False)
    source, fitted = closed_forms(
        session, session.model, forms, correct=correct, heads=trained is not None, crossed=crossed
    )
    if not fitted:
        raise DataError(f"{session.pools.pairs} training pairs: closed forms want at least three; raise dataset.paired")
    choice = choose(fitted, session.recipe.train.seed, HELD_OUT if crossed else "validation")
    pair = session.builder.pairs()[0]
    held = {form.label: {n: embedded(form, source, s, pair) for n, s in session.splits.items()} for form in fitted}
    model = ClosedFormModel(session.model, choice.form, source, pair)
    return _write(session, fitted, choice, held, model)


def _write(
    session: Session,
    fitted: list[Form],
    choice: Choice,
    held: dict[str, dict[str, Embedded]],
    model: ClosedFormModel,
) -> BaselineResult:
    run, ours = session.run, held[choice.form.label]
    session.notice(f"Nothing was trained: “this run” is a closed form. {choice.reason}.")
    figures = {label: {n: session.measured(e) for n, e in splits.items()} for label, splits in held.items()}
    chosen = choice.form.label
    results: dict[str, Any] = {
        "splits": figures[chosen],
        "baselines": {label: found for label, found in figures.items() if label != chosen},
        "comparisons": {
            label: {n: session.compared(ours[n], e) for n, e in splits.items()}
            for label, splits in held.items() if label != chosen
        },
        "facts": {form.label: facts_of(form, session) for form in fitted},
        "choice": {
            "form": chosen, "pairs_only": choice.pairs_only.label, "reason": choice.reason,
            "with_pools": choice.with_pools.label if choice.with_pools else None,
            "gain": attrs.asdict(choice.gain) if choice.gain else None,
        },
    }  # fmt: skip
    for name, metrics in figures[chosen].items():
        run.log(0, name, {**metrics, "final": True})
    for label, splits in held.items():
        folder = run.path if label == chosen else run.path / "baselines" / folder_of(label)
        for name, part in splits.items():
            save_embeddings(session, folder / "embeddings", name, part)
    if ours:
        results["examples"] = examples(session, ours)
    save_model(run.model, model, session.resolved, {
        "closed_form": chosen, "towers": run.manifest["towers"], "plugins": run.manifest["plugins"],
        "gentle": run.manifest["gentle"],
    })  # fmt: skip
    lines = [
        Line(form.label, form.pools, form is choice.form, form.recall,
             {n: m.get("retrieval/mean/recall", 0.0) for n, m in figures[form.label].items()}, form.seconds)
        for form in fitted
    ]  # fmt: skip
    result = BaselineResult(run.path, lines, choice.reason, dict(choice.form.settings), choice.on)
    run.write_json("results.json", results | {"table": [attrs.asdict(line) for line in lines]})
    session.finish("finished")
    return result
