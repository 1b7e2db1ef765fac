"""What strangers may hand over — models, runs, recipes, caches, plugin files — and what it cannot do."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import pickle
import sys
from pathlib import Path

import pytest
import torch

from gentle_core.data.features import FeatureStore, content_key
from gentle_core.engine.artifact import load_model, save_model
from gentle_core.engine.build import Builder
from gentle_core.engine.checkpoint import load_checkpoint, newest_checkpoint, save_checkpoint
from gentle_core.errors import CheckpointError, ComponentError, DataError, RecipeError
from gentle_core.plugins import discover
from gentle_core.recipe import free_directory, load_recipe

ROOT = Path(__file__).parents[2]
TOY = ROOT / "tests/toy.py"
RECIPE = """
[dataset]
use = "toy/points"
[towers.a]
modality = "toy-a"
encoder = { use = "toy/mlp-a" }
[towers.b]
modality = "toy-b"
encoder = { use = "toy/mlp-b" }
[train]
steps = 1
"""


class Trap:
    """Whoever unpickles it touches a file."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


@pytest.fixture
def mark(tmp_path):
    """A file that a sprung trap leaves. The trap is shown to work first."""
    path = tmp_path / "sprung"
    pickle.loads(pickle.dumps(Trap(path)))
    assert path.exists()
    path.unlink()
    return path


def traps(folder: Path, mark: Path) -> list[bytes]:
    """Pickles as they come: bare, and in torch's archive."""
    torch.save({"w": Trap(mark)}, folder / "trap.pt")
    return [pickle.dumps({"w": Trap(mark)}), (folder / "trap.pt").read_bytes()]


@pytest.fixture
def model(tmp_path):
    resolved = load_recipe(RECIPE, catalog=discover(enabled=False, files=[TOY]))
    built = Builder(recipe=resolved.recipe, catalog=resolved.catalog, notify=print).model()
    save_model(tmp_path / "model", built, resolved, {})
    load_model(tmp_path / "model", catalog=resolved.catalog)
    return tmp_path / "model"


def test_a_final_model_is_safetensors_and_text(model):
    assert {path.name for path in model.iterdir()} == {"model.safetensors", "recipe.toml", "config.json"}


def test_a_pickle_in_the_place_of_weights_is_refused(model, mark, tmp_path):
    for trap in traps(tmp_path, mark):
        (model / "model.safetensors").write_bytes(trap)
        with pytest.raises(CheckpointError, match="does not fit the model"):
            load_model(model, catalog=discover(enabled=False, files=[TOY]))
    assert not mark.exists()


def test_a_model_without_safetensors_is_refused_whatever_else_lies_there(model, mark, tmp_path):
    (model / "model.safetensors").rename(model / "kept")
    for name in ("model.bin", "pytorch_model.bin", "model.pt", "model.pkl"):
        (model / name).write_bytes(traps(tmp_path, mark)[1])
    with pytest.raises(CheckpointError, match=r"model.safetensors is missing"):
        load_model(model, catalog=discover(enabled=False, files=[TOY]))
    assert not mark.exists()


def test_a_pickle_in_a_checkpoint_is_refused_even_with_a_manifest_that_fits(mark, tmp_path):
    tensors = {"model": {"w": torch.ones(2)}, "optimizer": {"w": torch.ones(2)}}
    good = save_checkpoint(tmp_path / "c", 1, tensors, {})
    for number, trap in enumerate(traps(tmp_path, mark)):
        bad = save_checkpoint(tmp_path / "c", 2 + number, tensors, {})
        manifest = json.loads((bad / "manifest.json").read_text())
        (bad / "optimizer.safetensors").write_bytes(trap)
        manifest["sha256"]["optimizer.safetensors"] = hashlib.sha256(trap).hexdigest()
        for extra in ("mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_optim_states.pt", "latest"):
            (bad / extra).write_bytes(trap)
            manifest["sha256"][extra] = hashlib.sha256(trap).hexdigest()
        (bad / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(CheckpointError, match="cannot read checkpoint"):
            load_checkpoint(bad)
    assert newest_checkpoint(tmp_path / "c", lambda _: None).path == good
    assert not mark.exists()


def test_files_beside_the_manifest_are_not_read(mark, tmp_path):
    """What a run's own manifest does not name does not exist, DeepSpeed's pickles included."""
    folder = save_checkpoint(tmp_path / "c", 1, {"model": {"w": torch.ones(2)}}, {})
    (folder / "optimizer.safetensors").write_bytes(traps(tmp_path, mark)[0])
    (folder / "mp_rank_00_model_states.pt").write_bytes(traps(tmp_path, mark)[1])
    assert set(load_checkpoint(folder).tensors) == {"model"}
    assert not mark.exists()


def test_a_checkpoint_made_of_links_is_no_checkpoint(tmp_path):
    tensors = {"model": {"w": torch.ones(2)}}
    elsewhere = save_checkpoint(tmp_path / "elsewhere", 1, tensors, {})
    linked = save_checkpoint(tmp_path / "c", 2, tensors, {})
    (linked / "model.safetensors").unlink()
    (linked / "model.safetensors").symlink_to(elsewhere / "model.safetensors")
    with pytest.raises(CheckpointError, match="not an intact"):
        load_checkpoint(linked)
    (tmp_path / "c/step-00000003").symlink_to(elsewhere)
    assert newest_checkpoint(tmp_path / "c", lambda _: None) is None


@pytest.mark.parametrize("what", ["shard", "folder"])
def test_a_linked_cache_entry_is_refused(tmp_path, what):
    FeatureStore(tmp_path, "key").add([content_key("x")], torch.ones(1, 2))
    folder = tmp_path / "features/key"
    (shard,) = folder.iterdir()
    entry = shard if what == "shard" else folder
    entry.rename(tmp_path / "elsewhere")
    entry.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"is a symbolic link.*remove it"):
        FeatureStore(tmp_path, "key")


def test_a_pickle_in_the_cache_is_thrown_away(tmp_path, mark):
    folder = tmp_path / "features/key"
    folder.mkdir(parents=True)
    for number, trap in enumerate(traps(tmp_path, mark)):
        (folder / f"{number}.safetensors").write_bytes(trap)
    assert not len(FeatureStore(tmp_path, "key")) and not list(folder.iterdir())
    assert not mark.exists()


@pytest.mark.parametrize("key", ["../../outside", "/outside", "a/b", "..", "."])
def test_a_fingerprint_cannot_lead_out_of_the_cache(tmp_path, key):
    store = FeatureStore(tmp_path / "cache", key)
    store.add([content_key("x")], torch.ones(1, 2))
    (shard,) = tmp_path.rglob("*.safetensors")
    assert shard.parent.parent == tmp_path / "cache/features"


@pytest.mark.parametrize(
    ("sets", "key"),
    [
        ({"name": "../../outside"}, "name"),
        ({"name": "/etc/outside"}, "name"),
        ({"name": "..\\outside"}, "name"),
        ({"name": "..", "train.steps": 2}, "name"),
        ({"towers.a.encoder.use": "../../evil"}, "towers.a.encoder.use"),
        ({"dataset.use": "os/system"}, "dataset.use"),
        ({"dataset.use": "subprocess:run"}, "dataset.use"),
        ({"evaluate.splits": ["../../train"]}, "evaluate.splits"),
    ],
)
def test_a_recipe_cannot_lead_outside(sets, key):
    with pytest.raises(RecipeError, match=f"(?m)^override .*{key}: "):
        load_recipe(RECIPE, sets, discover(enabled=False, files=[TOY]))


def test_the_name_of_a_tower_cannot_lead_outside():
    recipe = RECIPE.replace("[towers.a]", '[towers."../../a"]')
    with pytest.raises(RecipeError, match="a tower's name is made of letters"):
        load_recipe(recipe, catalog=discover(enabled=False, files=[TOY]))


def test_the_run_directory_of_a_named_recipe_stays_below_runs():
    resolved = load_recipe(RECIPE, {"name": "Mine: a b"}, discover(enabled=False, files=[TOY]))
    assert free_directory(resolved).parent == Path("runs")


def test_a_model_that_extends_a_file_of_its_readers_is_refused(model):
    recipe = model / "recipe.toml"
    recipe.write_text('extends = "/etc/hostname"\n' + recipe.read_text())
    with pytest.raises(CheckpointError, match="stands by itself"):
        load_model(model, catalog=discover(enabled=False, files=[TOY]))


def test_a_plugin_file_outside_the_allow_list_is_not_run(tmp_path, monkeypatch, mark):
    monkeypatch.setattr(sys, "path", list(sys.path))
    stranger = tmp_path / "stranger_plugin.py"
    stranger.write_text(f"open({str(mark)!r}, 'w').close()")
    monkeypatch.setenv("GENTLE_PLUGINS", "protein,toy")
    catalog = discover(files=[stranger, TOY])
    assert not mark.exists() and "stranger_plugin" not in sys.modules
    (problem,) = [p for p in catalog.problems if p.owner == "stranger_plugin"]
    assert "GENTLE_PLUGINS does not name it" in str(problem)
    assert catalog.get("encoder", "toy/mlp-a")
    with pytest.raises(ComponentError, match="is not loaded, since GENTLE_PLUGINS does not name it"):
        catalog.get("encoder", "stranger_plugin/x")
    # A link under a trusted name is the file it leads to.
    (tmp_path / "links").mkdir()
    (tmp_path / "links/toy.py").symlink_to(stranger)
    discover(files=[tmp_path / "links/toy.py"])
    assert not mark.exists()
    monkeypatch.setenv("GENTLE_PLUGINS", "stranger-plugin")
    discover(files=[stranger])
    assert mark.exists(), "named, it runs"


DANGEROUS = {"pickle.load", "pickle.loads", "pickle.Unpickler", "dill.load", "joblib.load", "torch.hub.load", "eval",
             "exec", "shelve.open", "yaml.load"}  # fmt: skip


def calls(tree: ast.AST):
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            first = ast.unparse(node.args[0]) if node.args else ""
            yield ast.unparse(node.func), first, {k.arg: ast.unparse(k.value) for k in node.keywords}, node.lineno


@pytest.mark.parametrize(
    "package", ["gentle_core", *sorted(p.name for p in (ROOT / "plugins").iterdir() if p.is_dir())]
)
def test_no_code_of_ours_unpickles_what_others_wrote(package):
    folder = ROOT / package if package == "gentle_core" else ROOT / "plugins" / package
    files = [f for f in folder.rglob("*.py") if "tests" not in f.relative_to(folder).parts]
    found = []
    for file in files:
        for name, first, options, line in calls(ast.parse(file.read_text())):
            where = f"{file.relative_to(ROOT)}:{line}: {name}"
            if name in DANGEROUS and not first.startswith("pickle.dumps("):  # a copy of what is here
                found.append(where)
            if name == "torch.load" and options.get("weights_only") != "True":
                found.append(f"{where} without weights_only=True")
            if name.endswith("load_checkpoint") and "engine" in name.split("."):
                found.append(f"{where}: DeepSpeed's checkpoints are pickles")
            if options.get("allow_pickle", "False") != "False":
                found.append(f"{where} with allow_pickle")
            if name.endswith((".extractall", ".extract")) and options.get("filter") != "'data'":
                found.append(f"{where} without filter='data'")
    assert files or package != "gentle_core"
    assert not found, "\n".join(found)
