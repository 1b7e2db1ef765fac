"""Which runs a study consists of. Everything is resolved before the first one starts. Imports no torch."""

from __future__ import annotations

import itertools
import json
import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from gentle_core.builtin import needs
from gentle_core.catalog import Catalog
from gentle_core.errors import ComponentError, RecipeError
from gentle_core.recipe.load import Resolved, component_config, load_recipe
from gentle_core.recipe.structure import plain
from gentle_core.study.model import Control, MethodTable, Study, moved_together

LABELS: Mapping[Control, str] = {"pairs_only": "without the unpaired data", "equal_rows": "pairs only, as many rows"}
LOOKS = 10
"""How often validation is looked at for early stopping."""

Settings = dict[str, Any]
Chosen = Mapping[tuple[str, int], int]
"""The best combination by variant and level."""


@attrs.frozen
class Variant:
    """A method as it stands in the study's file, or one of its controls.

    Attributes:
        name: of its folder; a control's is "method+control".
        settings: changes to the recipe, by dotted key or top-level table.
        of: the method that it controls.
        tuned_as: the method from whose chosen settings it starts.
        paired: its own `dataset.paired`, whatever the level.
        corrects: its runs also show figures with hubness corrected, by which nothing is chosen.
    """

    name: str
    label: str
    settings: Settings
    search: Mapping[str, Sequence[Any]]
    closed_form: tuple[str, ...] = ()
    hubness: bool = True
    trained: bool = False
    of: str = ""
    control: Control | None = None
    tuned_as: str = ""
    paired: float | int | None = None
    corrects: bool = False

    def grid(self) -> list[Settings]:
        """All combinations of the values to try; one empty combination where there is no search."""
        return [
            {key: value for keys, value in zip(self.search, values, strict=True) for key in moved_together(keys)}
            for values in itertools.product(*self.search.values())
        ]


@attrs.frozen
class Job:
    """One run.

    Attributes:
        folder: below the study's folder.
        settings: all changes to the recipe.
        choice: the number of the searched combination; None in a final run.
        closed_form: forms to fit.
        hubness: whether they are tried with corrections of hubness.
        trained: a model is trained; the forms, where there are any, are fitted on what it has become.
    """

    folder: str
    variant: str
    level: int
    seed: int
    settings: Settings
    choice: int | None = None
    closed_form: tuple[str, ...] = ()
    hubness: bool = True
    trained: bool = True

    def command(self, study: Study) -> str:
        """The same run by hand."""
        recipe = str(study.table.recipe)
        sets = [f"--set {shlex.quote(f'{key}={_toml(value)}')}" for key, value in _flat(self.settings)]
        forms = [f"--form {name}" for name in self.closed_form] + ["--no-hubness"] * (not self.hubness)
        if not self.closed_form:
            return " ".join(["gentle run", recipe, *sets])
        if not self.trained:
            return " ".join(["gentle baseline", recipe, *forms, *sets])
        return " ".join(["gentle run", recipe, *sets, "--out RUN", "&&", "gentle baseline RUN", *forms])


@attrs.frozen
class RowsSeen:
    """A tower's rows in a run: matched and unmatched ones a step, over `steps` steps, with N pairs to draw from."""

    pairs: int
    paired: int
    unpaired: int
    steps: int

    @property
    def matched_rows(self) -> int:
        return max(min(self.paired + self.unpaired, self.pairs), 1)

    @property
    def matched_steps(self) -> int:
        return math.ceil(self.steps * (self.paired + self.unpaired) / self.matched_rows)


@attrs.frozen
class Plan:
    """What a study runs.

    Attributes:
        levels: values of `dataset.paired`.
    """

    study: Study
    catalog: Catalog
    variants: Mapping[str, Variant]
    levels: tuple[float | int, ...]

    def searches(self, chosen: Chosen | None = None, second: bool | None = None) -> list[Job]:
        """The runs that choose each variant's settings, for every level.

        Args:
            chosen: what was chosen so far.
            second: only those that start from what was chosen for another method, or only the others; None for all.
        """
        seeds = self.study.table.each_seed[: self.study.table.search_seeds]
        return [
            self.job(variant, level, seed, choice, chosen or {})
            for variant in self.variants.values()
            if variant.search and variant.control != "equal_rows" and second in (None, bool(variant.tuned_as))
            for level in range(len(self.levels))
            for choice in range(len(variant.grid()))
            for seed in seeds
        ]

    def finals(self, chosen: Chosen) -> list[Job]:
        """The runs that are compared, but for the controls with equal rows. `chosen` is the best combination by variant
        and level."""
        return [
            self.job(variant, level, seed, chosen.get((variant.name, level)), chosen, final=True)
            for level in range(len(self.levels))
            for seed in self.study.table.each_seed
            for variant in self.variants.values()
            if variant.control != "equal_rows"
        ]

    def equal_rows(self, chosen: Chosen, rows: Mapping[tuple[str, int], RowsSeen]) -> list[Job]:
        """The controls with equal rows: as many rows a tower and run as the method saw, all of them matched.

        Batches are larger; where there are too few pairs for that, there are more steps. Settings are those chosen for
        the control without unpaired data, where there is one."""
        jobs = []
        for variant in (v for v in self.variants.values() if v.control == "equal_rows"):
            for level in range(len(self.levels)):
                seen = rows[variant.of, level]
                choice = chosen.get((f"{variant.of}+pairs_only", level), chosen.get((variant.of, level)))
                changed = {"train.paired_rows": seen.matched_rows, "train.steps": seen.matched_steps}
                for seed in self.study.table.each_seed:
                    job = self.job(variant, level, seed, choice, chosen, final=True)
                    jobs.append(attrs.evolve(job, settings=job.settings | changed))
        return jobs

    def job(
        self, variant: Variant, level: int, seed: int, choice: int | None, chosen: Chosen, final: bool = False
    ) -> Job:
        paired = self.levels[level] if variant.paired is None else variant.paired
        folder = f"runs/{variant.name}/paired-{paired}/" + ("" if final or choice is None else f"search-{choice}/")
        searched = {} if choice is None else variant.grid()[choice]
        start = (variant.tuned_as, level)
        inherited = self.variants[variant.tuned_as].grid()[chosen[start]] if start in chosen else {}
        settings = {**variant.settings, **inherited, **searched, "dataset.paired": paired, "train.seed": seed}
        number = None if final else choice
        if variant.corrects and number is not None:
            settings["evaluate.hubness"] = "none"
        forms = variant.closed_form
        trained = variant.trained or not forms
        return Job(f"{folder}seed-{seed}", variant.name, level, seed, settings, number, forms, variant.hubness, trained)

    def resolve(self, job: Job) -> Resolved:
        """The recipe of a run.

        Raises:
            RecipeError: each line names the method.
        """
        return _load(self.study, job.variant, job.settings, self.catalog)


def make_plan(study: Study, catalog: Catalog) -> Plan:
    """Lay out all runs, and resolve each variant's recipe at every level.

    Raises:
        RecipeError: with what is wrong in any of them.
    """
    table = study.table
    _check_tasks(study, catalog)
    base = load_recipe(table.recipe, catalog=catalog)
    levels = table.paired or (base.recipe.dataset.paired,)
    variants: dict[str, Variant] = {}
    problems: list[str] = []
    for name, method in table.methods.items():
        try:
            variants |= {v.name: v for v in _variants(study, name, method, catalog)}
        except RecipeError as error:
            problems += error.problems
    plan = Plan(study, catalog, variants, levels)
    if not problems:
        for variant in variants.values():
            for choice in range(len(variant.grid())) if variant.search else (None,):
                try:
                    for level in range(len(levels)):
                        first = {(variant.tuned_as, level): 0} if variant.tuned_as else {}
                        plan.resolve(plan.job(variant, level, table.each_seed[0], choice, first))
                except RecipeError as error:
                    problems += error.problems
    if problems:
        raise RecipeError(list(dict.fromkeys(problems)))
    return plan


def _check_tasks(study: Study, catalog: Catalog) -> None:
    problems = []
    for name, task in study.table.tasks.items():
        try:
            component_config(catalog.get("task", task.use), task.settings)
        except ComponentError as error:
            problems.append(f"{study.path}: tasks.{name}: {error}")
        except RecipeError as error:
            problems += [f"{study.path}: tasks.{name}: {problem}" for problem in error.problems]
    if problems:
        raise RecipeError(problems)


def _variants(study: Study, name: str, method: MethodTable, catalog: Catalog) -> Iterator[Variant]:
    settings = _common(study) | _flattened(method.settings)
    label = method.label or name
    recipe = _load(study, name, settings, catalog).recipe
    trains = method.trained or not method.closed_form
    if study.table.early_stopping and not recipe.train.select and trains:
        settings |= {"train.select": study.table.criterion}
        if "train.evaluate_every" not in settings and recipe.train.steps:
            settings |= {"train.evaluate_every": max(1, recipe.train.steps // LOOKS)}
    forms = method.closed_form
    common: dict[str, Any] = {
        "closed_form": forms, "hubness": method.hubness, "trained": method.trained, "tuned_as": method.tuned_as,
        "paired": method.paired,
        "corrects": recipe.evaluate.hubness != "none" and not study.table.criterion.startswith("corrected/"),
    }  # fmt: skip
    variant = Variant(name, label, settings, method.search, **common)
    yield variant
    wanted: set[str] = set()
    for choice in variant.grid():  # a search may bring a term in
        objective = _load(study, name, settings | choice, catalog).recipe.objective
        spec = catalog.get("loss", objective.use).spec
        wanted |= needs(spec, objective.config, lambda use: catalog.get("loss", use).spec)
    # Every closed form may correct hubness with the pools.
    for control in method.controls if forms or wanted & {"unpaired", "pseudo"} else ():
        if control == "equal_rows" and not (trains and wanted & {"unpaired", "pseudo"}):
            continue  # nothing is trained on unmatched rows, so there are none to make up for
        changed = settings | {"dataset.unpaired": 0.0}
        yield Variant(
            f"{name}+{control}", f"{label}, {LABELS[control]}", changed, method.search, of=name, control=control,
            **common,
        )  # fmt: skip


def _common(study: Study) -> Settings:
    """What all runs of a study have in common: one split to choose on and one to compare on, no baselines beside."""
    splits = list(dict.fromkeys(["val", study.table.split]))
    fixed = {"evaluate.splits": splits, "baseline.pairs_only": False, "baseline.cca": False}
    return _flattened(study.table.settings) | dict(study.changes) | fixed


def _load(study: Study, variant: str, settings: Settings, catalog: Catalog) -> Resolved:
    try:
        return load_recipe(study.table.recipe, settings, catalog)
    except RecipeError as error:
        raise RecipeError(
            [f"{study.path}: methods.{variant}: {problem.removeprefix('override ')}" for problem in error.problems]
        ) from error


def _flattened(settings: Mapping[str, Any]) -> Settings:
    """Tables as dotted keys, but for a component's own table, which stays whole with its `use`."""
    return dict(_flat(settings))


def _flat(settings: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping) and "use" not in value:
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def _toml(value: Any) -> str:
    """A value as TOML writes it on one line."""
    value = plain(value)
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def folder_of(study: Study, out: Path | None) -> Path:
    """`out`, or studies/<file's name> below the working directory."""
    return out or Path("studies") / study.path.stem
