"""DeepSpeed's configuration follows from the recipe, and what contradicts it is named with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from gentle_core.errors import RecipeError
from gentle_core.plugins import discover
from gentle_core.recipe import checks, load_recipe
from gentle_core.recipe.deepspeed import deepspeed_config
from gentle_core.recipe.model import EngineTable, TrainTable

TOY = Path(__file__).parents[2] / "toy.py"

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
steps = 5
[engine]
use = "deepspeed"
"""


@pytest.fixture
def check(tmp_path, monkeypatch):
    monkeypatch.setattr(checks, "_is_installed", lambda requirement: True)

    def load(text):
        path = tmp_path / "r.toml"
        path.write_text(RECIPE + text)
        return load_recipe(path, catalog=discover(files=[TOY]))

    return load


def test_what_follows_from_a_recipe():
    config = deepspeed_config(
        TrainTable(clip=2.0, precision="bfloat16"), EngineTable(zero_stage=2, offload="optimizer")
    )
    assert config["gradient_clipping"] == 2.0 and config["bf16"] == {"enabled": True, "check_grad_overflow": True}
    assert config["zero_optimization"] == {"stage": 2, "offload_optimizer": {"device": "cpu"}}
    assert "fp16" not in config and config["gradient_accumulation_steps"] == 1
    scaled = deepspeed_config(TrainTable(precision="float16"), EngineTable(zero_stage=1, loss_scale=128.0))
    assert scaled["fp16"]["loss_scale"] == 128.0
    plain = deepspeed_config(TrainTable(clip=2.0, precision="bfloat16"), EngineTable(zero_stage=0))
    assert plain["gradient_clipping"] == 0 and "bf16" not in plain, "the loop clips, the towers compute under autocast"


def test_the_raw_table_is_merged(check):
    found = check("[engine.deepspeed]\nwall_clock_breakdown = false\nzero_optimization = { overlap_comm = true }\n")
    config = deepspeed_config(found.recipe.train, found.recipe.engine)
    assert config["zero_optimization"] == {"stage": 1, "overlap_comm": True}
    assert config["wall_clock_breakdown"] is False


def test_saying_the_same_is_no_conflict(check):
    check("[engine.deepspeed]\ngradient_clipping = 1.0\nzero_optimization = { stage = 1 }\n")


@pytest.mark.parametrize(
    "text, message",
    [
        ("deepspeed = { gradient_clipping = 3.0 }", r"r.toml:14: engine.deepspeed.gradient_clipping: .* train.clip"),
        (
            "[engine.deepspeed.zero_optimization]\nstage = 3",
            r"r.toml:15: .*zero_optimization.stage: .* engine.zero_stage",
        ),
        ("deepspeed = { optimizer = { type = 'Adam' } }", "engine.deepspeed.optimizer.type: .* train.learning_rate"),
        ("deepspeed = { bf16 = { enabled = true } }", "bf16.enabled: this follows from train.precision"),
        ("deepspeed = { train_batch_size = 8 }", "train_batch_size: this follows from train.batch_size"),
        ("zero_stage = 4", "r.toml:14: engine.zero_stage: should be 0, 1, 2 or 3, not 4"),
        (
            "zero_stage = 0\noffload = 'optimizer'",
            "r.toml:15: engine.offload: 'optimizer' needs zero_stage = 1 or more",
        ),
        ("zero_stage = 2\noffload = 'parameters'", "'parameters' needs zero_stage = 3"),
        ("zerostage = 2", "engine.zerostage: unknown key — did you mean 'zero_stage'"),
    ],
)
def test_conflicts_have_their_line(check, text, message):
    with pytest.raises(RecipeError, match=message):
        check(text)


def test_without_the_package_the_recipe_says_what_to_install(check, monkeypatch):
    monkeypatch.setattr(checks, "_is_installed", lambda requirement: requirement != "deepspeed")
    with pytest.raises(RecipeError, match=r"r.toml:13: engine.use: .*pip install 'gentle-core\[deepspeed\]'"):
        check("")


def test_what_is_idle_is_hinted_at(check):
    hints = check("loss_scale = 8.0").warnings
    assert any("engine.loss_scale: has no effect" in hint for hint in hints)
    with pytest.raises(RecipeError, match="only DeepSpeed moves state"):
        load_recipe(RECIPE.replace('"deepspeed"', '"local"\noffload = "optimizer"'), catalog=discover(files=[TOY]))
