"""A study's file as typed objects. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import attrs

from gentle_core.errors import RecipeError
from gentle_core.form_names import FormName
from gentle_core.recipe.draft import Findings
from gentle_core.recipe.source import parse_sets, read_file
from gentle_core.recipe.structure import Invalid, structure
from gentle_core.suggest import did_you_mean

Control = Literal["pairs_only", "equal_rows"]
CONTROLS: tuple[Control, ...] = ("pairs_only", "equal_rows")


def _positive(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if isinstance(value, int) and value < 1:
        raise ValueError(f"must be 1 or more, not {value}")


def _shares(_: Any, __: attrs.Attribute[Any], value: tuple[float | int, ...]) -> None:
    for share in value:
        if isinstance(share, float) and not 0 <= share <= 1:
            raise ValueError(f"must be shares from 0.0 to 1.0, or integers for counts, not {share}")
        if share < 0:
            raise ValueError(f"must be 0 or more, not {share}")


def _level(_: Any, attribute: attrs.Attribute[Any], value: float | int | None) -> None:
    if value is not None:
        _shares(_, attribute, (value,))


def _distinct(_: Any, __: attrs.Attribute[Any], value: Any) -> None:
    if isinstance(value, tuple) and (len(set(value)) != len(value) or not value):
        raise ValueError(f"must be different values, at least one, not {list(value)}")


@attrs.frozen(kw_only=True)
class MethodTable:
    """`[methods.NAME]`

    Attributes:
        label: what tables call it; NAME by default.
        closed_form: forms to fit on frozen features instead of training anything ("cca", "ot-em", …); of several, the
            one that validation favours counts. `gentle baseline` does the same for one recipe.
        hubness: closed forms are tried with corrections of hubness as well.
        trained: train as well, and fit the closed forms on what training made of the encoders; the trained heads are a
            form among them, and are averaged with them where that helps on validation.
        settings: changes to the recipe, as tables or by dotted key.
        search: values to try by dotted key (several keys that move together: "one, other"); all combinations run, and
            the best on validation is used, for each number of pairs by itself.
        tuned_as: another method, whose searched settings are the starting point: its search comes first.
        paired: this method's own `dataset.paired` at every level: 1.0 for an upper bound.
        controls: which controls are added where the method makes use of unmatched rows: "pairs_only" is the same
            recipe without the unpaired data, "equal_rows" is that with as many rows in all as the method sees.
    """

    label: str = ""
    closed_form: tuple[FormName, ...] = ()
    hubness: bool = True
    trained: bool = False
    settings: Mapping[str, Any] = attrs.field(factory=dict)
    search: Mapping[str, tuple[Any, ...]] = attrs.field(factory=dict)
    tuned_as: str = ""
    paired: float | int | None = attrs.field(default=None, validator=_level)
    controls: tuple[Control, ...] = CONTROLS


@attrs.frozen(kw_only=True)
class TaskTable:
    """`[tasks.NAME]`: what `gentle eval` does with each run that is compared. Its figures are called NAME/….

    Attributes:
        use: a component of kind "task".
        settings: its options; paths count from the study's file.
    """

    use: str
    settings: Mapping[str, Any] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class StudyTable:
    """A study.

    Attributes:
        recipe: what all methods share.
        methods: by name; letters, digits, "-", "_" and "." in a name.
        paired: values of `dataset.paired`, each a level of the study; the recipe's own where there is none.
        seeds: how many (0, 1, …), or which. One seed serves all methods alike: same pairs, batches, first weights.
        search_seeds: how many of the seeds a search uses.
        settings: changes to the recipe for all methods.
        metric: what the study is about: methods are compared by it on `split`.
        choose_by: the metric on "val" by which settings, checkpoints and rivals are chosen; `metric` by default.
        also: further metrics for the tables.
        tasks: on what else to evaluate the runs that are compared.
        split: where methods are compared.
        against: methods with which all others are compared; the first one by default.
        early_stopping: keep each run's best checkpoint by `choose_by` on "val", looked at ten times, unless `settings`
            (or, for a run by epochs, the recipe) say otherwise.
        processes: runs at a time.
        keep: "figures" removes each run's checkpoints and model when it has finished, "all" keeps them.
    """

    recipe: Path
    methods: Mapping[str, MethodTable]
    name: str = ""
    description: str = ""
    paired: tuple[float | int, ...] = attrs.field(default=(), validator=_shares)
    seeds: int | tuple[int, ...] = attrs.field(default=3, validator=[_positive, _distinct])
    search_seeds: int = attrs.field(default=1, validator=_positive)
    settings: Mapping[str, Any] = attrs.field(factory=dict)
    metric: str = "retrieval/mean/recall"
    choose_by: str = ""
    also: tuple[str, ...] = ("retrieval/mean/R@1", "retrieval/mean/R@10")
    tasks: Mapping[str, TaskTable] = attrs.field(factory=dict)
    split: Literal["val", "test"] = "test"
    against: tuple[str, ...] = ()
    early_stopping: bool = True
    processes: int = attrs.field(default=1, validator=_positive)
    keep: Literal["figures", "all"] = "figures"

    @property
    def each_seed(self) -> tuple[int, ...]:
        return tuple(range(self.seeds)) if isinstance(self.seeds, int) else self.seeds

    @property
    def criterion(self) -> str:
        """The metric on validation by which everything is chosen."""
        return self.choose_by or self.metric

    @property
    def rivals(self) -> tuple[str, ...]:
        return self.against or tuple(self.methods)[:1]


@attrs.frozen
class Study:
    """A study that was read: its table, its file, and the file's text."""

    table: StudyTable
    path: Path
    text: str
    changes: Mapping[str, Any] = attrs.field(factory=dict)
    """Settings for all methods that were given beside the file, by dotted key."""

    @property
    def title(self) -> str:
        return self.table.name or self.path.stem


def read_study(path: Path, sets: Sequence[str] = ()) -> Study:
    """Read and check a study's file; its recipes are looked at by `gentle_core.study.plan`.

    Args:
        sets: further settings for all methods, "key=value" as from `--set`: where the data lie, for instance.

    Raises:
        RecipeError: with every problem, one line each: `file:line: key: what is wrong`.
    """
    changes = parse_sets(sets)
    layer, text = read_file(path, str(path))
    findings = Findings(layer)
    try:
        table: StudyTable = structure(layer.data, StudyTable)
    except Invalid as error:
        raise RecipeError(findings.lines(error.faults)) from error
    if not table.methods:
        findings.problem(("methods",), "is empty: a study compares at least one method")
    for name, method in table.methods.items():
        if not re.fullmatch(r"[\w.-]+", name) or name.startswith("."):
            findings.problem(("methods", name), "use letters, digits, '-', '_' and '.' in a method's name")
        if method.trained and not method.closed_form:
            findings.problem(("methods", name, "trained"), "goes with closed_form: name the forms to fit afterwards")
        for key, values in method.search.items():
            if not values:
                findings.problem(("methods", name, "search", key), "is empty: give the values to try")
        if method.tuned_as:
            _check_tuned_as(findings, table.methods, name)
    for name in table.tasks:
        if not re.fullmatch(r"[\w.-]+", name):
            findings.problem(("tasks", name), "use letters, digits, '-', '_' and '.' in a task's name")
    for number, name in enumerate(table.against):
        if name not in table.methods:
            findings.problem(("against", number), f"there is no method {name!r}{did_you_mean(name, table.methods)}")
    for number, seed in enumerate(table.each_seed):
        if seed < 0:
            findings.problem(("seeds", number), f"must be 0 or more, not {seed}")
    if not table.recipe.is_file():
        findings.problem(("recipe",), f"there is no file {table.recipe}")
    if findings.problems:
        raise RecipeError(findings.lines(findings.problems))
    return Study(table, path, text, changes)


def _check_tuned_as(findings: Findings, methods: Mapping[str, MethodTable], name: str) -> None:
    other, key = methods[name].tuned_as, ("methods", name, "tuned_as")
    if other not in methods or other == name:
        findings.problem(key, f"there is no other method {other!r}{did_you_mean(other, methods)}")
    elif methods[other].tuned_as or not methods[other].search:
        findings.problem(key, f"{other!r} has no search of its own from which to start")


def moved_together(key: str) -> list[str]:
    """The dotted keys of a searched key: "one, other" stands for both."""
    return [part.strip() for part in key.split(",")]
