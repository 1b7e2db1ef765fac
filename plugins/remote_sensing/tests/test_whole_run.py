"""The recipe of this field on a few small scenes, with encoders that see colours and letters, and what follows it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from gentle_core.cli import invoke

ENCODERS = """
import numpy as np
from gentle_core.api import EncoderSpec, hookimpl

LETTERS = "abcdefghijklmnopqrstuvwxyz"

def build(config, context):
    import torch
    from gentle_core.api import EncoderModule
    from gentle_vision_language.decode import open_image

    class Colours(EncoderModule):
        width = 3
        def collate(self, items):
            return torch.tensor(np.array([np.asarray(open_image(i)).mean((0, 1)) for i in items], dtype=np.float32))
        def forward(self, inputs):
            return inputs / 255
        def size(self, item):
            return 1

    return Colours()

def build_letters(config, context):
    import torch
    from gentle_core.api import EncoderModule

    class Letters(EncoderModule):
        width = 26
        def collate(self, items):
            return torch.tensor([[float(i.lower().count(c)) for c in LETTERS] for i in items])
        def forward(self, inputs):
            return inputs

    return Letters()

@hookimpl
def gentle_encoders():
    return [
        EncoderSpec(name="colours", modality="image", target=f"{__name__}:build", summary=""),
        EncoderSpec(name="letters", modality="text", target=f"{__name__}:build_letters", summary=""),
    ]
"""

RECIPE = """
[dataset]
use = "remote-sensing/rsicd"
path = "data"
paired = 0.5
keywords = ["beach", "forest", "river"]
[towers.image]
modality = "aerial-image"
encoder = { use = "small/colours", freeze = true }
head = { dimension = 8, hidden = 16 }
[towers.text]
modality = "text"
encoder = { use = "small/letters", freeze = true }
head = { dimension = 8, hidden = 16 }
unpaired_rows = 0
[objective]
use = "core/sum"
terms = [
    { use = "core/clip" },
    { use = "remote-sensing/caption-labels", queries = ["image"] },
    { use = "remote-sensing/keyword-labels", queries = ["image"], weight = 0.5 },
    { use = "core/only-rows", keep = { image = "unmatched", text = "matched" }, loss = { use = "core/sdd" } },
]
[train]
steps = 60
paired_rows = 12
unpaired_rows = 12
learning_rate = 1e-2
log_every = 20
select = "retrieval_one/mean/R@5"
evaluate_every = 30
"""

COLOURS = {"beach": (230, 210, 150), "forest": (20, 90, 30), "river": (40, 80, 200)}
CAPTIONS = {"beach": "sand of a beach", "forest": "many trees of a forest", "river": "water in a river"}


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    path = tmp_path_factory.mktemp("encoders") / "small.py"
    path.write_text(ENCODERS)
    return path


@pytest.fixture
def scenes(tmp_path, monkeypatch):
    """Forty-five scenes of three kinds in three splits, and class folders with new ones and one of the old."""
    monkeypatch.setenv("GENTLE_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    records = []
    for kind, colour in COLOURS.items():
        for i in range(18):
            picture = np.clip(rng.normal(colour, 15, (16, 16, 3)), 0, 255).astype(np.uint8)
            folder = tmp_path / ("data" if i < 15 else f"classes/{kind.capitalize()}")
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(folder / f"{kind}_{i}.png")
            if i < 15:
                split = "train" if i < 9 else "val" if i < 12 else "test"
                sentences = [{"raw": f"{CAPTIONS[kind]} {n}"} for n in range(2)]
                records.append({"filename": f"{kind}_{i}.png", "split": split, "sentences": sentences})
    (tmp_path / "classes" / "Beach" / "again.png").write_bytes((tmp_path / "data" / "beach_0.png").read_bytes())
    (tmp_path / "data" / "dataset_rsicd.json").write_text(json.dumps({"images": records}))
    (tmp_path / "recipe.toml").write_text(RECIPE)
    return tmp_path


def test_train_check_and_classify(scenes, small, capsys):
    plugin = ["--plugin", str(small)]
    assert invoke(["check", str(scenes / "recipe.toml"), *plugin]) == 0
    said = capsys.readouterr().out
    assert "1 · core/sdd (unmatched image, matched text rows)" in said
    assert "13 matched samples" in said or "14 matched samples" in said
    run = scenes / "run"
    assert invoke(["run", str(scenes / "recipe.toml"), "--out", str(run), *plugin]) == 0
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    first, *_, last = [line for line in lines if line["split"] == "train"]
    assert last["rows/caption_labels"] == 12 and last["rows/keyword_labels"] == 12
    assert 0 < last["caption_labels/floor"] < last["caption_labels"] and last["clip"] < first["clip"]
    results = json.loads((run / "results.json").read_text())["splits"]["test"]
    assert results["retrieval/image->text/candidates"] == 18 and results["retrieval_one/image->text/candidates"] == 9
    capsys.readouterr()

    def evaluate(task, *more):
        assert invoke(["eval", str(run), "--task", task, "--data", str(scenes / "classes"), *more, *plugin]) == 0
        return (run / "tasks" / f"core-{task}.json").read_bytes(), capsys.readouterr()

    found, said = evaluate("zero-shot")
    figures = json.loads(found)
    assert figures["zero-shot/top1"] > 80 and figures["zero-shot/items"] == 10
    assert figures["zero-shot/seen_in_training"] == 1 and "Beach/again.png" in said.err
    assert figures["facts"]["class names"] == {"Beach": "a beach", "Forest": "a forest", "River": "a river"}
    assert evaluate("zero-shot")[0] == found
    dropped = json.loads(evaluate("zero-shot", "--set", "overlap=drop")[0])
    assert (dropped["zero-shot/items"], dropped["zero-shot/seen_in_training"]) == (9, 0)
    knn = json.loads(evaluate("knn", "--set", "k=1")[0])
    assert knn["knn/image/feature"] > 60
    assert invoke(["eval", str(run), "zero-shot", "--data", str(scenes / "nothing"), *plugin]) == 4
    assert "nothing: no such folder" in capsys.readouterr().err


def test_pools_from_further_folders_and_files(scenes, small):
    (scenes / "more.jsonl").write_text('{"captions": ["sand", "a river"]}\n{"captions": "trees"}\n')
    further = (
        f'dataset.unpaired=[{{ use = "remote-sensing/scenes", path = "{scenes}/classes" }}, '
        f'{{ use = "vision-language/captions", path = "{scenes}/more.jsonl" }}, 0.0]'
    )
    out = scenes / "run"
    done = invoke(["run", str(scenes / "recipe.toml"), "--out", str(out), "--plugin", str(small), "--set", further,
                   "--set", "train.steps=2", "--set", "towers.text.unpaired_rows=2"])  # fmt: skip
    assert done == 0
    data = json.loads((out / "manifest.json").read_text())["data"]
    assert data["pools"] == {"image": 10, "text": 3} and data["unpaired_rows"] == {"image": 10, "text": 2}


def test_without_data_the_check_says_what_belongs_there(scenes, small, capsys):
    (scenes / "data" / "dataset_rsicd.json").rename(scenes / "elsewhere.json")
    assert invoke(["check", str(scenes / "recipe.toml"), "--plugin", str(small)]) == 4
    assert "holds none of dataset_rsicd.json, dataset.json" in capsys.readouterr().err
    union = ["--set", "dataset.use=remote-sensing/union", "--set", f"dataset.path={scenes / 'nowhere'}"]
    assert invoke(["check", str(scenes / "recipe.toml"), *union, "--plugin", str(small)]) == 4
    assert "it should hold RSICD, UCM_captions or Sydney_captions" in capsys.readouterr().err


def test_an_objective_that_needs_labels_on_data_without_any(scenes, small, tmp_path, capsys):
    plugin = tmp_path / "unlabelled.py"
    plugin.write_text(
        "import attrs\nfrom pathlib import Path\nfrom gentle_core.api import DatasetSpec, hookimpl\n"
        "@attrs.frozen\nclass Config:\n    path: Path\n"
        "def build(config, context):\n"
        "    from gentle_remote_sensing.datasets import karpathy\n"
        "    from gentle_remote_sensing.datasets.config import KarpathyConfig\n"
        "    from gentle_vision_language.datasets.captions import CaptionDataset\n"
        "    data = karpathy.build_rsicd(KarpathyConfig(path=config.path), context)\n"
        "    data.index = lambda split: CaptionDataset.index(data, split)\n"
        "    return data\n"
        "@hookimpl\ndef gentle_datasets():\n"
        "    return [DatasetSpec(name='plain', modalities=('aerial-image', 'text'), config=Config,\n"
        "                        target=f'{__name__}:build', summary='')]\n"
    )
    sets = ["--set", "dataset.use=unlabelled/plain", "--set", f"dataset.path={scenes / 'data'}"]
    command = ["run", str(scenes / "recipe.toml"), *sets, "--out", str(tmp_path / "no"), "--plugin", str(small)]
    assert invoke([*command, "--plugin", str(plugin)]) == 4
    assert "core/sum needs labels, and unlabelled/plain gives its items none" in capsys.readouterr().err
