"""Running cases, and the form in which pytest takes them."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from gentle_core.errors import GentleError
from gentle_core.testing.bench import Bench, Samples, Subject, one_line
from gentle_core.testing.cases import CHECKS, Case, NotApplicable, Outcome, Violation, expected
from gentle_core.testing.isolation import no_network, random_states


def conformance(
    plugin: str,
    *,
    expected_failures: Mapping[str, str] | None = None,
    configs: Mapping[str, Mapping[str, Any]] | None = None,
    samples: Mapping[str, Samples] | None = None,
    only: Iterable[str] = (),
    files: Sequence[str | Path] = (),
) -> Callable[..., None]:
    """A pytest function with one item for each check of each component of `plugin`.

        test_conformance = conformance("audio", expected_failures={"cnn:padding": "convolutions see the padding"})

    Args:
        plugin: the owner, as in `owner/name`, or the distribution.
        expected_failures: reasons by "component:check" ("plugin:check" for the plugin itself). Such an item fails if
            the check passes, so that the list stays true.
        configs: options with which components are tried, by name; instead of their spec's `example`.
        samples: raw items by modality, or a function that returns them; instead of those of the plugin's datasets.
        only: the components to try; all where it is empty.
        files: single-file plugins to load first.

    Raises:
        ComponentError: there is no such plugin, or no such component.
        ValueError: an expected failure that names no check.
    """
    import pytest

    bench = Bench(plugin, configs=configs, samples=samples, files=files, only=only)
    cases = bench.cases()
    reasons = expected(cases, expected_failures or {}, configs or {})

    @pytest.mark.parametrize("case", cases, ids=[case.id for case in cases])
    def test_conformance(case: Case) -> None:
        outcome = run(bench, case, reasons.get(case.id))
        if outcome.state == "failed":
            pytest.fail(f"{case.subject}: {case.check.name}: {outcome.message}", pytrace=False)
        if outcome.state == "expected":
            pytest.xfail(outcome.message)
        if outcome.state == "skipped":
            pytest.skip(outcome.message)

    return test_conformance


def run(bench: Bench, case: Case, reason: str | None = None) -> Outcome:
    """Try one case. `reason`: why it is expected to fail."""
    outcome = _tried(bench, case) if case.check.quick else _built_and_tried(bench, case)
    if reason is not None and outcome.state == "failed":
        return Outcome(case, "expected", reason)
    if reason is not None and outcome.state == "passed":
        message = f"passes, though it is expected to fail ({reason})\n  what to do: take it off the expected failures"
        return Outcome(case, "failed", message)
    return outcome


def _built_and_tried(bench: Bench, case: Case) -> Outcome:
    """A component that cannot even be built fails that check; the others are left out."""
    builds = next((c for c in CHECKS if case.entry and c.kind == case.entry.kind and c.name == "builds"), None)
    if builds is not None and case.check.name != "target":
        first = attrs.evolve(case, check=builds)
        outcome = bench.remembered(first.id, lambda: _isolated(bench, first))
        if case.check is builds or outcome.state == "skipped":
            return attrs.evolve(outcome, case=case)
        if outcome.state == "failed":
            return Outcome(case, "skipped", "see the check `builds`")
    return _isolated(bench, case)


def _isolated(bench: Bench, case: Case) -> Outcome:
    with no_network(), random_states():
        return _tried(bench, case)


def _tried(bench: Bench, case: Case) -> Outcome:
    try:
        case.check.run(Subject(bench, case.entry))  # type: ignore[arg-type]
    except Violation as violation:
        return Outcome(case, "failed", str(violation) + _where(violation.__cause__))
    except NotApplicable as reason:
        return Outcome(case, "skipped", str(reason))
    except GentleError as error:
        return Outcome(case, "failed", f"{one_line(error)}\n  what to do: it must hold that: {case.check.proves}")
    except Exception as error:
        text = f"{one_line(error)}\n  what to do: mend the line below; it must hold that: {case.check.proves}"
        return Outcome(case, "failed", text + _where(error))
    return Outcome(case, "passed")


def _where(error: BaseException | None) -> str:
    """The last lines of an exception's way, as far as they are not the kit's own."""
    if error is None:
        return ""
    own = str(Path(__file__).parent)
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith((own, "<frozen"))]
    return "".join(f"\n  at {f.filename}:{f.lineno}: {f.line}" for f in frames[-3:])
