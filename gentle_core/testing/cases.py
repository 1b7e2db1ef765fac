"""Checks, and what comes of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import attrs

from gentle_core.suggest import did_you_mean

if TYPE_CHECKING:
    from gentle_core.catalog import Entry
    from gentle_core.testing.bench import Subject


class Violation(Exception):
    """A component does not keep what it must: what happens, and what its author should do."""

    def __init__(self, what: str, advice: str):
        super().__init__(f"{what}\n  what to do: {advice}")
        self.what, self.advice = what, advice


class NotApplicable(Exception):
    """A check has nothing to try here; the reason is shown."""


@attrs.frozen
class Check:
    """Something that components of one kind must keep.

    Attributes:
        kind: "plugin" (once a plugin), "component" (each one), or a kind of component.
        name: by which it is called on the command line and in `expected_failures`.
        proves: what holds where it passes.
        run: raises `Violation` or `NotApplicable`.
        quick: it builds no component and loads no torch.
    """

    kind: str
    name: str
    proves: str
    run: Callable[[Subject], None] = attrs.field(eq=False, repr=False)
    quick: bool = False


CHECKS: list[Check] = []
"""All checks of the modules loaded so far, in the order in which they are made."""


def check(kind: str, name: str, *, quick: bool = False) -> Callable[[Callable[[Subject], None]], Callable[[Any], None]]:
    """Make a function a check; its docstring's first paragraph says what it proves."""

    def register(function: Callable[[Subject], None]) -> Callable[[Subject], None]:
        proves = " ".join((function.__doc__ or "").partition("\n\n")[0].split()).removesuffix(".")
        CHECKS.append(Check(kind, name, proves, function, quick))
        return function

    return register


@attrs.frozen
class Case:
    """One check of one component (or of the plugin: `entry` is None)."""

    check: Check
    owner: str
    entry: Entry | None = None

    @property
    def subject(self) -> str:
        """ "encoder audio/cnn", or "plugin audio"."""
        return f"plugin {self.owner}" if self.entry is None else f"{self.entry.kind} {self.entry.full_name}"

    @property
    def id(self) -> str:
        """ "encoder:audio/cnn:padding", as it is called in a test run."""
        return f"{self.subject.replace(' ', ':')}:{self.check.name}"

    def is_meant(self, key: str) -> bool:
        """Whether `key` names this case: "cnn:padding", "audio/cnn:padding", "encoder:audio/cnn:padding", or
        "plugin:names"."""
        parts = key.split(":")
        kind, names = ("plugin", {self.owner, "plugin"}) if self.entry is None else (
            self.entry.kind, {self.entry.name, self.entry.full_name}
        )  # fmt: skip
        if len(parts) == 3 and parts[0] != kind:
            return False
        return len(parts) in (2, 3) and parts[-2] in names and parts[-1] == self.check.name


@attrs.frozen
class Outcome:
    """What came of a case. "expected": it failed, as its plugin says it does."""

    case: Case
    state: Literal["passed", "failed", "skipped", "expected"]
    message: str = ""


def expected(cases: Iterable[Case], failures: Mapping[str, str], configured: Collection[str] = ()) -> dict[str, str]:
    """The reason by case id, for the cases that are expected to fail: by `failures`, or by their specs' `deviations`.

    A spec speaks of its own example (or its defaults), so its deviations do not count for the components that are
    `configured` otherwise.

    Raises:
        ValueError: a key of `failures` names no case.
    """
    cases = list(cases)
    found = {}
    for case in cases:
        deviations = getattr(case.entry.spec, "deviations", {}) if case.entry is not None else {}
        if case.entry is not None and {case.entry.name, case.entry.full_name} & set(configured):
            continue
        if case.check.name in deviations:
            found[case.id] = deviations[case.check.name]
    for key, reason in failures.items():
        meant = [case for case in cases if case.is_meant(key)]
        if not meant:
            short = [f"{case.entry.name if case.entry else 'plugin'}:{case.check.name}" for case in cases]
            raise ValueError(f"expected failure {key!r} names no check here" + did_you_mean(key, short))
        found |= {case.id: reason for case in meant}
    return found
