"""The command line: quick to start, one clear line an error, documented exit codes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import gentle_core
from gentle_core import errors
from gentle_core.cli import COMMANDS, INTERNAL, INTERRUPTED, gentle, invoke

PLUGIN = '''
    import attrs
    from gentle_core.api import DataError, DatasetSpec, EncoderSpec, ItemIndex, TaskSpec, hookimpl

    @attrs.frozen
    class PairsConfig:
        """Options.

        Attributes:
            count: how many pairs,
                all told.
            broken: what goes wrong.
        """
        count: int = 40
        broken: str = ""

    class Pairs:
        def __init__(self, config):
            self.config = config

        def index(self, split):
            count = self.config.count if split == "train" else 4
            return {m: ItemIndex([f"{split}{i}" for i in range(count)]) for m in ("sound", "text")}

    def build(config, context):
        if config.broken == "data":
            raise DataError("sounds/: is empty")
        if config.broken == "code":
            raise RuntimeError("oops")
        if config.broken == "torch":
            import torch
        context.notify("2 files skipped")
        return Pairs(config)

    def parameters(config):
        return 1234

    @hookimpl
    def gentle_datasets():
        return [DatasetSpec(name="pairs", modalities=("sound", "text"), config=PairsConfig, target="{module}:build",
                            summary="Pairs", licence="CC0-1.0")]

    @hookimpl
    def gentle_tasks():
        return [TaskSpec(name="task", modalities=("text",), config=PairsConfig, target="nowhere:build", summary="")]

    @hookimpl
    def gentle_encoders():
        return [
            EncoderSpec(name="cnn", modality="sound", parameters=parameters, target="nowhere:build", summary="A CNN"),
            EncoderSpec(name="bow", modality="text", target="nowhere:build", summary="A bag"),
        ]
'''

RECIPE = """\
name = "test"
dataset = { use = "toy/pairs", paired = 0.5 }
towers.left = { modality = "sound", encoder = { use = "cnn" } }
towers.right = { modality = "text", encoder = { use = "bow", freeze = true } }
train = { steps = 10, batch_size = 8 }
"""

Output = pytest.CaptureFixture[str]


@pytest.fixture
def toy(install: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The toy plugin, and a recipe for it in the working directory."""
    install("gentle-toy", PLUGIN, plugins={"toy": "{module}"}, version="1.5")
    monkeypatch.setenv("GENTLE_PLUGINS", "toy")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.toml").write_text(RECIPE)
    return tmp_path


# -- starting up ---------------------------------------------------------------------------------------------------


def test_no_torch(toy: Path) -> None:
    code = f"""
import sys
sys.path[:0] = {[p for p in sys.path if p.startswith(str(toy))]!r}
from gentle_core.cli import invoke
for line in ("--help", "--version", "plugins list", "plugins list --json", "plugins info cnn", "check recipe.toml"):
    assert invoke(line.split()) == 0, line
    heavy = {{"torch", "sklearn", "scipy", "transformers", "matplotlib"}} & set(sys.modules)
    assert not heavy, (line, heavy)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr


def test_help_imports_no_command() -> None:
    code = """
import sys
from gentle_core.cli import invoke
assert invoke(["--help"]) == 0
loaded = {name for name in sys.modules if name.startswith("gentle_core")}
assert loaded <= {"gentle_core", "gentle_core.cli", "gentle_core.cli.common", "gentle_core.errors"}, loaded
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_exists_and_has_help(name: str, capsys: Output) -> None:
    assert invoke([name, "--help"]) == 0
    assert "Usage: gentle " + name in capsys.readouterr().out


def test_module_and_no_arguments(capsys: Output) -> None:
    assert invoke([]) == 0
    assert "Commands:" in capsys.readouterr().out


# -- errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["chek"], 2, "there is no command 'chek' — did you mean 'check'?"),
        (["check"], 2, "Missing argument 'RECIPE'"),
        (["check", "recipe.toml", "--sett", "a=1"], 2, "No such option"),
        (["check", "gone.toml"], 2, "gone.toml: no such file"),
        (["check", "."], 2, ".: is a directory"),
        (
            ["check", "recipe.toml", "--set", "train.stpes=1"],
            2,
            "--set train.stpes: unknown key — did you mean 'steps'?",
        ),
        (["check", "recipe.toml", "--set", "dataset.broken=data"], 4, "sounds/: is empty"),
        (["check", "recipe.toml", "--set", "dataset.broken=code"], 3, "dataset toy/pairs (from gentle-toy 1.5) failed"),
        (["check", "recipe.toml", "--no-plugins"], 2, "plugin 'toy' is not loaded, since plugins are switched off"),
        (["run", "recipe.toml", "--resume", "auto"], 2, "--resume needs --out"),
        (["run", "gone.toml"], 2, "gone.toml: no such file"),
        (["report", "nowhere"], 4, "nowhere is no run directory"),
        (["eval", "nowhere", "toy/task"], 4, "there is no run directory nowhere"),
        (["eval", ".", "tsk"], 3, "there is no task 'tsk' — did you mean 'toy/task'?"),
        (["eval", ".", "task", "--set", "cuont=1"], 2, "--set cuont: unknown key — did you mean 'count'?"),
        (["plugins", "info", "pears"], 3, "there is no component or plugin 'pears' — did you mean"),
        (["plugins", "check", "toi"], 3, "there is no plugin 'toi' — did you mean 'toy'?"),
    ],
)
def test_one_line_and_a_code(toy: Path, capsys: Output, arguments: list[str], code: int, message: str) -> None:
    assert invoke(arguments) == code
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("gentle: error: ")]
    assert any(message in line for line in lines), lines


def test_a_recipe_with_many_problems_gives_a_line_each(toy: Path, capsys: Output) -> None:
    assert invoke(["check", "recipe.toml", "--set", "a=1", "--set", "b=2"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "gentle: error: --set a: unknown key",
        "gentle: error: --set b: unknown key",
    ]


@pytest.mark.parametrize("arguments", [["-v", "check", "gone.toml"], ["check", "-v", "gone.toml"]])
def test_traceback_only_when_asked_for(toy: Path, capsys: Output, arguments: list[str]) -> None:
    invoke(arguments)
    assert "Traceback" in capsys.readouterr().err
    invoke(["check", "gone.toml"])
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), INTERRUPTED, "interrupted"),
        (OSError(28, "No space left on device", "/disk/x"), 1, "/disk/x: no space left on device"),
        (RuntimeError("first\nsecond"), INTERNAL, "RuntimeError: first second (a defect"),
        (errors.NonFiniteError("loss is nan at step 3"), 6, "loss is nan at step 3"),
        (errors.Interrupted("stopped"), 75, "stopped"),
    ],
)
def test_what_a_command_raises(
    monkeypatch: pytest.MonkeyPatch, capsys: Output, error: BaseException, code: int, message: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(gentle, "main", fail)
    assert invoke([]) == code
    assert message in capsys.readouterr().err


def test_every_exit_code_is_documented() -> None:
    page = (Path(__file__).parents[3] / "docs" / "reference" / "exit-codes.md").read_text()
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)}
    raised = {e.exit_code for e in vars(errors).values() if isinstance(e, type) and issubclass(e, errors.GentleError)}
    assert documented == raised | {0, INTERNAL, INTERRUPTED}


# -- check ---------------------------------------------------------------------------------------------------------


def test_check_says_what_a_run_would_do(toy: Path, capsys: Output) -> None:
    assert invoke(["check", "recipe.toml", "--set", "objective.eta={ start = 0, end = 2 }"]) == 0
    out, err = capsys.readouterr()
    for expected in (
        "toy/pairs (gentle-toy 1.5)",
        "sound: toy/cnn, trained, 1.23 k parameters; head → 256 → 128",
        "text: toy/bow, frozen, parameters unknown before it is built",
        "core/gentle: 1 · core/clip + 0.15 · core/ssl + 0.3 · core/mmd + (0 → 2, linear over the run) · core/sdd",
        "train  40 sound, 40 text",
        "20 matched samples; unmatched pools (shuffled): left 20, right 20",
        "8 matched rows; unmatched rows: left 8, right 8",
        "10 (5 epochs of 2 steps)",
    ):
        assert expected in out, out
    assert "gentle: warning: 2 files skipped" in err
    assert "gentle: warning: --set objective.eta: objective: SDD sees only 16 rows" in err


def test_check_without_data(toy: Path, capsys: Output) -> None:
    arguments = ["check", "recipe.toml", "--no-data", "--set", "dataset.broken=data", "--set", "train.epochs=2"]
    assert invoke(arguments) == 0
    out = capsys.readouterr().out
    assert "50% of the pairs keep their pairing" in out and "as many as make 2 epochs" in out


@pytest.mark.parametrize(
    "terms, pseudo, expected",
    [
        (["pseudo-pairs"], "", "core/cca for left–right: 64 pseudo-pairs a step; asked once, before the first step"),
        (["klot"], ", start = 20", "core/cca for left–right: reference rows; asked once, after 20 steps"),
        (["pseudo-pairs"], ", start = 0.2, refresh = 0.1", "asked after 20% of the run, then every 10% of the run"),
        (["mmd"], "", None),
    ],
)
def test_check_names_the_teacher(
    toy: Path, capsys: Output, terms: list[str], pseudo: str, expected: str | None
) -> None:
    options = {"klot": ', target = "reference"'}
    parts = ", ".join(f'{{ use = "core/{term}"{options.get(term, "")} }}' for term in ["clip", *terms])
    objective = f'objective = {{ use = "core/sum", terms = [{parts}] }}'
    teacher = f'pseudo = {{ teacher = {{ use = "core/cca" }}{pseudo} }}'
    Path("recipe.toml").write_text(f"{RECIPE}{objective}\n{teacher}\n")
    assert invoke(["check", "recipe.toml", "--no-data"]) == 0
    found = [line for line in capsys.readouterr().out.splitlines() if line.startswith("teacher")]
    assert [expected in line for line in found] == [True] if expected else not found


def test_check_of_a_dataset_that_loads_torch(toy: Path) -> None:
    code = f"""
import sys
sys.path[:0] = {[p for p in sys.path if p.startswith(str(toy))]!r}
from gentle_core.cli import invoke
assert invoke(["check", "recipe.toml", "--set", "dataset.broken=torch"]) == 0
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert "the dataset's code loads torch" in done.stdout


def test_check_resolved_is_a_recipe(toy: Path, capsys: Output) -> None:
    assert invoke(["check", "recipe.toml", "--resolved"]) == 0
    first = capsys.readouterr().out
    Path("again.toml").write_text(first)
    assert invoke(["check", "again.toml", "--resolved"]) == 0
    assert capsys.readouterr().out == first


def test_broken_plugin_is_noted_and_the_command_goes_on(
    toy: Path, install: Callable[..., str], monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    install("gentle-bad", "raise ImportError('no luck')", plugins={"bad": "{module}"})
    monkeypatch.setenv("GENTLE_PLUGINS", "toy,bad")
    assert invoke(["check", "recipe.toml"]) == 0
    assert "gentle: warning: gentle-bad 1.0: cannot be loaded: ImportError: no luck" in capsys.readouterr().err
    assert invoke(["plugins", "list"]) == 0
    out = capsys.readouterr().out
    assert "1 problem\n  gentle-bad 1.0: cannot be loaded" in out and "toy/cnn" in out
    assert invoke(["plugins", "check"]) == 3
    assert invoke(["plugins", "check", "bad"]) == 3
    assert invoke(["plugins", "info", "bad"]) == 0


# -- plugins ---------------------------------------------------------------------------------------------------------


def test_list(toy: Path, capsys: Output) -> None:
    assert invoke(["plugins", "list"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"(?m)^encoder\n  toy/bow  text   A bag\n  toy/cnn  sound  A CNN$", out), out
    assert "core/gentle" in out
    assert invoke(["plugins", "list", "--kind", "dataset"]) == 0
    assert capsys.readouterr().out == "dataset\n  toy/pairs  sound, text  Pairs\n"


def test_list_by_modality(toy: Path, capsys: Output) -> None:
    assert invoke(["plugins", "list", "--by", "modality"]) == 0
    out = capsys.readouterr().out
    assert out == (
        "sound\n  encoder  toy/cnn    A CNN\n  dataset  toy/pairs  Pairs\n\n"
        "text\n  encoder  toy/bow    A bag\n  dataset  toy/pairs  Pairs\n  task     toy/task\n"
    )


def test_list_as_json(toy: Path, capsys: Output) -> None:
    assert invoke(["plugins", "list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (cnn,) = (c for c in found["components"] if c["name"] == "toy/cnn")
    assert cnn == {
        "name": "toy/cnn", "kind": "encoder", "modalities": ["sound"], "summary": "A CNN",
        "distribution": "gentle-toy", "version": "1.5", "licence": "",
    }  # fmt: skip
    assert {p["distribution"] for p in found["plugins"]} == {"gentle-core", "gentle-toy"}
    assert found["problems"] == []


def test_info(toy: Path, capsys: Output) -> None:
    assert invoke(["plugins", "info", "pairs"]) == 0
    out = capsys.readouterr().out
    for expected in (
        "toy/pairs (dataset) from gentle-toy 1.5",
        "licence            CC0-1.0",
        "encoders of sound  toy/cnn",
        "encoders of text   toy/bow",
        "    count: integer = 40\n        how many pairs, all told.",
        '    broken: string = ""\n        what goes wrong.',
    ):
        assert expected in out, out
    assert invoke(["plugins", "info", "core/gentle"]) == 0
    assert "alpha: number or table { start, end, steps, shape } = 1.0" in capsys.readouterr().out
    assert invoke(["plugins", "info", "gentle-toy"]) == 0
    assert "toy: gentle-toy 1.5, loaded in" in capsys.readouterr().out


# -- run, and the same from Python -------------------------------------------------------------------------------------


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """An engine that only remembers its calls, in place of the real one (which needs torch)."""
    calls: list[dict[str, Any]] = []

    def run_recipe(resolved: Any, out: Path, resume: str = "never", display: Any = None, profile: bool = False) -> Any:
        calls.append({"recipe": resolved.recipe, "out": out, "resume": resume})
        return SimpleNamespace(out=out, metrics={}, baselines={})

    def evaluate_run(directory: Path, task: str, sets: Any, **_: Any) -> Any:
        calls.append({"directory": directory, "task": task, "sets": sets})
        return {"accuracy": 0.5, "facts": {"kept": 3}}

    def build_report(directory: Path) -> Path:
        calls.append({"report": directory})
        return directory / "report.html"

    class Display:
        def say(self, message: str) -> None:
            print(message)

    fakes: dict[str, dict[str, Any]] = {
        "engine": {},
        "engine.run": {"run_recipe": run_recipe},
        "engine.progress": {"Display": Display},
        "engine.evaluate": {"evaluate_run": evaluate_run},
        "report": {},
        "report.build": {"build_report": build_report},
    }
    for name, members in fakes.items():
        module = ModuleType(f"gentle_core.{name}")
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, f"gentle_core.{name}", module)
    yield calls


def test_run(toy: Path, engine: list[dict[str, Any]]) -> None:
    arguments = ["run", "recipe.toml", "--out", "there", "--set", "train.steps=3", "--resume", "auto"]
    assert invoke(arguments) == 0
    assert engine[0]["out"] == Path("there") and engine[0]["resume"] == "auto"
    assert engine[0]["recipe"].train.steps == 3


def test_run_leaves_the_choice_of_a_directory_to_rank_0(toy: Path, engine: list[dict[str, Any]]) -> None:
    assert invoke(["run", "recipe.toml"]) == 0
    assert engine[0]["out"] is None and engine[0]["resume"] == "never"


def test_run_with_a_single_file_plugin(
    toy: Path, engine: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("toy_solo.py").write_text(
        "from gentle_core.api import EncoderSpec, hookimpl\n"
        "@hookimpl\n"
        "def gentle_encoders():\n"
        "    return [EncoderSpec(name='mine', modality='text', target='toy_solo:build', summary='')]\n"
    )
    monkeypatch.setenv("GENTLE_PLUGINS", "toy,toy_solo")
    arguments = ["run", "recipe.toml", "--plugin", "toy_solo.py", "--set", "towers.right.encoder.use=mine"]
    assert invoke(arguments) == 0
    assert engine[0]["recipe"].towers["right"].encoder.use == "toy_solo/mine"
    sys.modules.pop("toy_solo")


def test_eval_and_report(toy: Path, engine: list[dict[str, Any]], capsys: Output) -> None:
    Path("run").mkdir()
    Path("run/manifest.json").write_text("{}")
    assert invoke(["eval", "run", "task", "--set", "broken=x"]) == 0
    assert engine[-1] == {"directory": Path("run"), "task": "task", "sets": ("broken=x",)}
    assert capsys.readouterr().out == "accuracy  0.5\nkept: 3\n"
    assert invoke(["eval", "run", "task", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"accuracy": 0.5, "facts": {"kept": 3}}
    assert invoke(["report", "run"]) == 0
    assert capsys.readouterr().out == "run/report.html\n"


def test_run_from_python(toy: Path, engine: list[dict[str, Any]]) -> None:
    gentle_core.run("recipe.toml", out="there", train__steps=3, settings={"objective.eta": 0.0})
    assert engine[0]["recipe"].train.steps == 3 and engine[0]["recipe"].objective.config.eta == 0
    gentle_core.run(engine[0]["recipe"], towers__left__head__dimension=128)
    assert engine[1]["out"] is None
    assert engine[1]["recipe"] == engine[0]["recipe"]
    with pytest.raises(errors.RecipeError, match="override train.stpes: unknown key"):
        gentle_core.run("recipe.toml", train__stpes=3)
