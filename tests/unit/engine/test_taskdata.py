"""Tasks find datasets by name or by what they read, and know what a run was trained on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gentle_core.cli import invoke
from gentle_core.engine.evaluate import evaluate_run
from gentle_core.engine.taskdata import TaskData
from gentle_core.errors import ComponentError
from gentle_core.plugins import discover

TOY = Path(__file__).parents[2] / "toy.py"

LABELLED = '''
import attrs
import numpy as np
from pathlib import Path
from gentle_core.api import DatasetSpec, ItemIndex, ModalitySpec, hookimpl

@attrs.frozen
class Config:
    path: Path
    seed: int = 0

class Marked:
    """The training points of toy/points (twelve of them) and as many others, in two classes."""
    def __init__(self, config):
        rng = np.random.default_rng(config.seed)
        hidden = rng.normal(size=(144, 5))
        self.values = (hidden @ rng.normal(size=(5, 8)) + 0.05 * rng.normal(size=(144, 8))).astype(np.float32)
    def index(self, split):
        names = [f"p{i}" for i in (*range(12), *range(120, 132))]
        labels = np.array(["low", "high"] * 12)
        return {"toy-special": ItemIndex(names, attributes={"label": labels})} if split == "test" else {}
    def load(self, modality, items):
        return [self.values[int(i[1:])] for i in items]
    def facts(self):
        return {}

def build(config, context):
    return Marked(config)

@hookimpl
def gentle_modalities():
    return [ModalitySpec(name="toy-special", summary="", reads_as=("toy-a",))]

@hookimpl
def gentle_datasets():
    return [DatasetSpec(name="NAME", modalities=("toy-special",), config=Config, labelled=True,
                        target=f"{__name__}:build", summary="")]
'''


@pytest.fixture(scope="session")
def plugins(tmp_path_factory):
    return tmp_path_factory.mktemp("plugins")


@pytest.fixture
def labelled(plugins):
    def make(*names):
        files = [TOY]
        for name in names:
            files.append(plugins / f"{name}.py")
            if not files[-1].exists():  # a file that changed would be another module of the same name
                files[-1].write_text(LABELLED.replace("NAME", name))
        return discover(enabled=False, files=files)

    return make


def test_the_one_dataset_of_labelled_folders_is_found(labelled, tmp_path):
    catalog = labelled("marked")
    name, _, modality = TaskData(tmp_path, catalog, print).dataset("", {"path": "."}, "toy-a")
    assert (name, modality) == ("marked/marked", "toy-special")
    with pytest.raises(ComponentError, match="no installed dataset reads folders.*'toy-b'.*dataset.use"):
        TaskData(tmp_path, catalog, print).dataset("", {"path": "."}, "toy-b")
    with pytest.raises(ComponentError, match="yields toy-special; the tower reads 'toy-b'"):
        TaskData(tmp_path, catalog, print).dataset("marked", {"path": "."}, "toy-b")
    with pytest.raises(ComponentError, match=r"several datasets.*marked/marked, other/other"):
        TaskData(tmp_path, labelled("marked", "other"), print).dataset("", {"path": "."}, "toy-a")


def test_knn_through_the_command_line_flags_what_was_in_training(labelled, plugins, toy_run, tmp_path, capsys):
    run = toy_run("one")
    labelled("marked")
    plugin = ["--no-plugins", "--plugin", str(TOY), "--plugin", str(plugins / "marked.py")]
    command = ["eval", str(run.out), "--task", "knn", "--data", str(tmp_path), *plugin]
    assert invoke(command) == 0
    shown = capsys.readouterr()
    assert "knn/a/joint" in shown.out and "12 of 24 items are among the run's training items" in shown.err
    first = (run.out / "tasks" / "core-knn.json").read_bytes()
    assert invoke([*command[:2], "knn", *command[4:]]) == 0  # the task as an argument, and the kept keys
    assert (run.out / "tasks" / "core-knn.json").read_bytes() == first
    assert json.loads(first)["facts"]["in training"] == 12
    assert invoke([*command[:2], "fold", *command[2:]]) == 2
    assert "two tasks, fold and knn: name one" in capsys.readouterr().err
    assert invoke(["eval", str(run.out)]) == 2
    assert "name a task" in capsys.readouterr().err


def test_half_of_the_pool_was_not_used_and_is_not_flagged(labelled, toy_run):
    run = toy_run("one", {"dataset.unpaired": 0})
    data = TaskData(run.out, discover(enabled=False, files=[TOY]), print)
    dataset = data._training[1]
    names = dataset.index("train")["toy-a"].items
    flags = data.trained_on("a", dataset.load("toy-a", names))
    assert sum(flags) == 48  # half of the 96 are paired, and the others were left out


def test_without_the_training_data_the_overlap_is_not_known(labelled, toy_run, tmp_path):
    run = toy_run("one")
    catalog = labelled("marked")
    resolved = (run.out / "resolved.toml").read_text()
    (run.out / "resolved.toml").write_text(resolved.replace('"toy/points"', '"gone/points"'))
    notices: list[str] = []
    assert TaskData(run.out, catalog, notices.append).trained_on("a", []) is None
    assert "not known: the training data are gone" in notices[0]
    found = evaluate_run(run.out, "knn", {"path": str(tmp_path)}, catalog=catalog)
    assert found["facts"]["in training"] == "not known"
