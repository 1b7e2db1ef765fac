"""`gentle new plugin`: what it makes works at once, and what it cannot make it says."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gentle_core.cli import invoke
from gentle_core.plugins import discover
from tests import fresh

Output = pytest.CaptureFixture[str]

QUICK = "--set train.steps=2 --set dataset.train=80 --set dataset.held_out=20 --set dataset.paired=20"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder to work in; modules imported from it are forgotten again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for module in set(sys.modules) - before:
        if str(getattr(sys.modules[module], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[module]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> fresh.Environment:
    return fresh.make(tmp_path_factory.mktemp("fresh") / "venv")


def run(environment: fresh.Environment, command: str, cwd: Path) -> str:
    done = environment.run(command, cwd)
    assert done.returncode == 0, f"{command}\n{done.stdout}"
    return done.stdout


# -- what it makes -----------------------------------------------------------------------------------------------------


@pytest.mark.timeout(400)
def test_package_is_installed_checked_tested_and_run(environment: fresh.Environment, tmp_path: Path) -> None:
    made = run(environment, "gentle new plugin sonar", tmp_path)
    assert "gentle-sonar/gentle_sonar/plugin.py" in made
    listed = [line.strip() for line in made.splitlines()]
    for command in listed[listed.index("Next:") + 1 :]:  # the commands that it proposes itself
        run(environment, f"{command} {QUICK if command.startswith('gentle run') else ''}", tmp_path)
    shown = run(environment, "gentle plugins list", tmp_path)
    for component in ("cnn", "words", "pairs", "noise", "forget"):
        assert f"sonar/sonar-{component} " in shown
    assert (tmp_path / "runs/sonar-1/report.html").is_file()
    tested = run(environment, "pytest -q -p no:cacheprovider gentle-sonar -k 'recipe or plugin or builds'", tmp_path)
    assert "passed" in tested and "failed" not in tested


@pytest.mark.timeout(400)
def test_file_runs_and_becomes_a_package_with_its_edits(environment: fresh.Environment, tmp_path: Path) -> None:
    run(environment, "gentle new plugin sketch --single-file", tmp_path)
    file = tmp_path / "sketch.py"
    edited = file.read_text().replace('name="sketch-cnn"', 'name="mine"')
    edited = edited.replace("kernel_size=5, padding=2", "kernel_size=1")
    edited = edited.replace('f"{__name__}:build_cnn"', '"sketch:build_cnn"') + "\n# é: the last line is mine\n"
    file.write_text(edited)
    recipe = (tmp_path / "sketch.toml").read_text().replace("sketch/sketch-cnn", "sketch/mine")
    (tmp_path / "sketch.toml").write_text(recipe)
    run(environment, f"gentle run sketch.toml --plugin ./sketch.py --out runs/file {QUICK}", tmp_path)

    made = run(environment, "gentle new plugin --from sketch.py", tmp_path)
    assert "1 targets changed" in made
    package = tmp_path / "gentle-sketch"
    kept = edited.replace('"sketch:build_cnn"', '"gentle_sketch.plugin:build_cnn"')
    assert (package / "gentle_sketch/plugin.py").read_text() == kept
    assert (package / "recipes/sketch.toml").read_text() == recipe
    assert file.read_text() == edited, "the file itself stays as it was"
    run(environment, "pip install -e gentle-sketch", tmp_path)
    run(environment, f"gentle run gentle-sketch/recipes/sketch.toml --out runs/package {QUICK}", tmp_path)


def test_other_recipes_go_along_and_the_owner_may_change(here: Path) -> None:
    assert invoke(["new", "plugin", "first", "--single-file"]) == 0
    Path("big.toml").write_text(Path("first.toml").read_text().replace("steps = ", "steps = 1"))
    Path("other.toml").write_text('[dataset]\nuse = "core/nothing"\n')
    assert invoke(["new", "plugin", "second-thought", "--from", "first.py", "--into", "out"]) == 0
    package = here / "out/gentle-second-thought"
    assert sorted(p.name for p in (package / "recipes").iterdir()) == ["big.toml", "first.toml"]
    assert 'use = "second-thought/first-cnn"' in (package / "recipes/big.toml").read_text()
    assert 'second-thought = "gentle_second_thought.plugin"' in (package / "pyproject.toml").read_text()


@pytest.mark.parametrize("name", ["a", "audio", "a-long-name-for-plugins-with-2-digits-40", "x_y"])
def test_what_is_made_is_in_good_order(here: Path, name: str) -> None:
    assert invoke(["new", "plugin", name]) == 0
    assert invoke(["new", "plugin", name, "--single-file", "--into", "file"]) == 0
    (package,) = here.glob("gentle-*")
    options = ["--config", str(package / "pyproject.toml"), str(package), "file"]
    for command in (["check", "--no-cache"], ["format", "--check", "--no-cache"]):
        done = subprocess.run([sys.executable, "-m", "ruff", *command, *options], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    for path in (p for folder in (package, here / "file") for p in folder.rglob("*") if p.is_file()):
        assert not {"{{", "{%"} & set(path.read_text().replace("${{", "").split()), path
    (file,) = (here / "file").glob("*.py")
    assert not discover(enabled=False, files=[file]).problems


def test_an_encoder_needs_few_lines(here: Path) -> None:
    """Its class, its factory and its description: what an author writes for one more encoder."""
    assert invoke(["new", "plugin", "audio"]) == 0
    code = (here / "gentle-audio/gentle_audio/encoders.py").read_text()
    described = (here / "gentle-audio/gentle_audio/plugin.py").read_text()
    lines = code[code.index("class Cnn") : code.index("class Words")].splitlines()
    lines += code[code.index("def build_cnn") : code.index("def build_words")].splitlines()
    lines += described[described.index("class EncoderConfig") : described.index("class NoiseConfig")].splitlines()
    start = described.index("EncoderSpec(\n")
    lines += described[start : described.index("EncoderSpec(\n", start + 1)].splitlines()
    assert len([line for line in lines if line.strip()]) <= 40


# -- what it refuses ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("Audio", 3, "'Audio' is no plugin name: use lower-case letters, digits and single '-' — 'audio' for instance"),
        ("my audio!", 3, "'my-audio' for instance"),
        ("Ünïcode", 3, "'unicode' for instance"),
        ("2fast", 3, "'fast' for instance"),
        ("../evil", 3, "no plugin name"),
        ("", 3, "no plugin name"),
        ("gentle-audio", 3, "leave 'gentle-' out"),
        ("long" * 11, 3, "40 are the most"),
        ("core", 3, "a word of Gentle's own"),
        ("class", 3, "a word of Python"),
        ("protein", 3, "is taken by the installed plugin gentle-protein"),
        ("json --single-file", 3, "belongs to another Python module"),
        ("numpy --single-file", 3, "belongs to another Python module"),
        ("--from gone.py", 4, "there is no file"),
        ("--from broken.py", 3, "broken.py does not load as it is: cannot be loaded: ZeroDivisionError"),
        ("--from empty.py", 3, "empty.py announces no component"),
        ("--from leaning.py", 4, "leaning.py imports helper from its folder"),
        ("--from made.py --single-file", 2, "leave --single-file out"),
        ("full", 4, "gentle-full exists already"),
        ("taken --single-file", 4, "taken.toml exists already"),
        ("--into broken.py audio", 2, "is a file"),
    ],
)
def test_one_clear_line(here: Path, capsys: Output, arguments: str, code: int, message: str) -> None:
    Path("broken.py").write_text("1 / 0")
    Path("empty.py").write_text("")
    Path("helper.py").write_text("")
    hook = "from gentle_core.api import LossSpec, hookimpl\n@hookimpl\ndef gentle_losses():\n"
    loss = hook + "    return [LossSpec(name='l', target='m:f', summary='')]\n"
    Path("leaning.py").write_text("import helper\n" + loss)
    Path("made.py").write_text(loss)
    Path("taken.toml").write_text("mine")
    Path("gentle-full").mkdir()
    Path("gentle-full/mine.txt").write_text("mine")
    before = sorted(p for p in here.rglob("*") if "__pycache__" not in p.parts)
    given = [arguments] if arguments in ("", "my audio!") else arguments.split()
    assert invoke(["new", "plugin", *given]) == code
    assert message in capsys.readouterr().err
    assert sorted(p for p in here.rglob("*") if "__pycache__" not in p.parts) == before, "something was left behind"


def test_a_disk_error_leaves_nothing(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device", "gentle-audio")

    monkeypatch.setattr(os, "replace", fail)
    assert invoke(["new", "plugin", "audio"]) == 1
    assert "no space left" in capsys.readouterr().err
    assert not list(here.iterdir())


def test_it_loads_no_torch(here: Path) -> None:
    code = "import sys\nfrom gentle_core.cli import invoke\nassert invoke(['new', 'plugin', 'audio']) == 0\n"
    subprocess.run([sys.executable, "-c", code + "assert 'torch' not in sys.modules"], check=True, timeout=100)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_in_an_environment_with_nothing_but_wheels(environment: fresh.Environment, tmp_path: Path) -> None:
    """Built wheels of the core and of a new plugin carry all that they need; the checkout is out of reach."""
    root = Path(__file__).parents[3]
    run(environment, f"pip wheel -q --no-deps -w wheels {root}", tmp_path)
    run(environment, "gentle new plugin audio && pip wheel -q --no-deps -w wheels ./gentle-audio", tmp_path)
    clean = fresh.make(tmp_path / "clean")
    run(clean, "pip install -q --no-deps --ignore-installed wheels/*.whl", tmp_path)
    where = run(clean, "python -c 'import gentle_core; print(gentle_core.__file__)'", tmp_path)
    assert str(tmp_path / "clean") in where
    run(clean, "gentle new plugin second && pip install -q --no-deps ./gentle-second", tmp_path)
    run(clean, "gentle plugins check audio && gentle plugins check second", tmp_path)
    run(clean, f"gentle run gentle-audio/recipes/audio.toml {QUICK}", tmp_path)
