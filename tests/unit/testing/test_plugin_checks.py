"""Checks of whole plugins, each on a distribution with a fault of its own; the pytest form and the command line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gentle_core.cli import invoke
from gentle_core.errors import ComponentError
from gentle_core.plugins import discover
from gentle_core.testing.bench import Bench
from gentle_core.testing.cases import CHECKS
from gentle_core.testing.suite import run

HERE = Path(__file__).parent

SPEC = """
    from gentle_core.api import EncoderSpec, hookimpl

    @hookimpl
    def gentle_encoders():
        return [EncoderSpec(name="e", modality="x", target="{module}:build", summary="An encoder")]
"""
METADATA = "Summary: Sounds\nLicense-Expression: MIT\nAuthor: A. Uthor\n\nA description.\n"

Install = Callable[..., str]


def described(site: Path, name: str, text: str = METADATA) -> None:
    """Give an installed distribution proper metadata."""
    [file] = site.glob(f"{name}-*.dist-info/METADATA")
    file.write_text(file.read_text() + text)


def failures(plugin: str, *allow: str) -> dict[str, str]:
    bench = Bench(plugin, catalog=discover(allow=[plugin, *allow]))
    outcomes = [run(bench, case) for case in bench.cases(quick=True)]
    return {outcome.case.id: outcome.message for outcome in outcomes if outcome.state == "failed"}


def test_sound(install: Install, tmp_path: Path) -> None:
    install("gentle-audio", SPEC, plugins={"audio": "{module}"})
    described(tmp_path / "site-packages", "gentle_audio")
    assert failures("audio") == {}


FAULTS = {
    "discovery": SPEC + "\n    @hookimpl\n    def gentle_losses(): return 1/0\n",
    "no-torch": "    import torch\n" + SPEC,
    "deprecated": "    import warnings\n    warnings.warn('gentle_core.api.Old is now New', DeprecationWarning)\n"
    + SPEC,
    "import-time": "    sum(i * i for i in range(40_000_000))\n" + SPEC,
}


@pytest.mark.filterwarnings("ignore:gentle_core.api.Old")
@pytest.mark.parametrize("name", FAULTS)
def test_faulty_module(install: Install, tmp_path: Path, name: str) -> None:
    install("gentle-audio", FAULTS[name], plugins={"audio": "{module}"})
    described(tmp_path / "site-packages", "gentle_audio")
    found = failures("audio")
    assert f"plugin:audio:{name}" in found
    assert set(found) <= {f"plugin:audio:{n}" for n in (name, "discovery", "no-torch", "import-time")}, found


def test_names_that_another_plugin_has(install: Install, tmp_path: Path) -> None:
    install("gentle-audio", SPEC, plugins={"audio": "{module}"})
    described(tmp_path / "site-packages", "gentle_audio")
    install("gentle-other", SPEC, plugins={"other": "{module}"})
    found = failures("audio", "other")
    assert set(found) == {"plugin:audio:names"} and "other/e (gentle-other)" in found["plugin:audio:names"]


def test_without_metadata_there_is_no_licence_and_nobody_to_cite(install: Install) -> None:
    install("gentle-audio", SPEC, plugins={"audio": "{module}"})
    found = failures("audio")
    assert set(found) == {"plugin:audio:metadata", "encoder:audio/e:licence", "encoder:audio/e:citation"}
    assert "description, readme, license, authors (or urls)" in found["plugin:audio:metadata"]


def test_every_check_of_plugins_is_tried_here() -> None:
    Bench("core", catalog=discover(enabled=False)).cases()
    assert {c.name for c in CHECKS if c.kind == "plugin"} == {*FAULTS, "names", "metadata"}


# -- as pytest -------------------------------------------------------------------------------------------------------

SUITE = f"""
from gentle_core.testing import conformance

FILES = [{str(HERE / "kit_sound.py")!r}, {str(HERE / "kit_broken.py")!r}]
KNOWN = {{"padding:padding": "meant", "padding:batch": "meant"}}
test_expected = conformance("kit_broken", files=FILES, only=["padding"], expected_failures=KNOWN)
test_stale = conformance("kit_broken", files=FILES, only=["size"], expected_failures={{"size:shape": "long mended"}})
test_samples = conformance("kit_sound", files=FILES, only=["mean"], samples={{"strip": lambda: ITEMS}})

import numpy
ITEMS = [numpy.ones(2, dtype="float32"), numpy.ones(5, dtype="float32") / 3]
"""


def test_as_pytest_shows_it(tmp_path: Path) -> None:
    (tmp_path / "test_audio.py").write_text(SUITE)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rA", "--color=no", "test_audio.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=110)
    lines = done.stdout.splitlines()
    assert "XFAIL test_audio.py::test_expected[encoder:kit_broken/padding:padding] - meant" in lines, done.stdout
    failed = {line.split(" - ")[0] for line in lines if line.startswith("FAILED")}
    assert failed == {
        "FAILED test_audio.py::test_stale[encoder:kit_broken/size:shape]",
        "FAILED test_audio.py::test_stale[encoder:kit_broken/size:size]",
    }
    assert "passes, though it is expected to fail (long mended)" in done.stdout
    assert "size of ndarray is 0" in done.stdout and "what to do: return a number above 0" in done.stdout
    assert "Traceback" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"plugin": "kit_sund"}, "no plugin 'kit_sund'; install it (pip install -e .) — did you mean 'kit_sound'?"),
        ({"only": ["maen"]}, "plugin 'kit_sound' has no component 'maen' — did you mean 'mean'?"),
        ({"configs": {"mena": {}}}, "no component 'mena' — did you mean 'mean'?"),
        ({"expected_failures": {"mean:pading": ""}}, "names no check here — did you mean 'mean:padding'?"),
    ],
)  # fmt: skip
def test_slips_of_the_pen(arguments: dict[str, object], message: str) -> None:
    from gentle_core.testing import conformance

    given = {"plugin": "kit_sound", "files": [HERE / "kit_sound.py"], **arguments}
    with pytest.raises((ComponentError, ValueError)) as error:
        conformance(**given)
    assert message in str(error.value)


# -- on the command line ---------------------------------------------------------------------------------------------

Output = pytest.CaptureFixture[str]
PLUGINS = ["--no-plugins", "--plugin", str(HERE / "kit_sound.py"), "--plugin", str(HERE / "kit_broken.py")]


def test_command_line(capsys: Output) -> None:
    assert invoke(["plugins", "check", "kit_sound", "--only", "mean", *PLUGINS]) == 0
    assert "encoder kit_sound/mean  " in capsys.readouterr().out
    assert invoke(["plugins", "check", "kit_broken", "--only", "size", *PLUGINS]) == 3
    out, error = capsys.readouterr()
    assert "size failed: size of ndarray is 0\n      what to do: return a number above 0" in out
    assert "gentle: error: 1 of " in error and "checks failed" in error
    assert invoke(["plugins", "check", "kit_broken", "--only", "size", "--expect", "size:size", *PLUGINS]) == 0
    assert "size failed as expected: expected on the command line" in capsys.readouterr().out
    assert invoke(["plugins", "check", "kit_broken", "--only", "size", "--expect", "size:sice", *PLUGINS]) == 2
    assert "did you mean 'size:size'?" in capsys.readouterr().err
    assert invoke(["plugins", "check", "--quick", *PLUGINS]) == 2


def test_quick_checks_load_no_torch() -> None:
    code = f"""
import sys
from gentle_core.cli import invoke
assert invoke(["plugins", "check", "kit_sound", "--quick", *{PLUGINS!r}]) == 0
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
