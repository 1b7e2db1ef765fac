"""Names, options and parameter counts, all without torch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import EsmModel

from gentle_protein.esm2.config import MODELS, SHIPPED, Esm2Config, full_name, parameters
from gentle_protein.esm2.trunk import cut, to_config


@pytest.mark.parametrize("name", ["t33_650M", "esm2_t33_650M", "t33_650M_UR50D", "esm2_t33_650M_UR50D"])
def test_short_names(name: str) -> None:
    assert full_name(name) == "esm2_t33_650M_UR50D"
    assert Esm2Config(model=name).model == "esm2_t33_650M_UR50D"


def test_an_unknown_model_gets_a_suggestion() -> None:
    with pytest.raises(ValueError, match="did you mean 'esm2_t12_35M_UR50D'"):
        Esm2Config(model="esm2_t12_35B_UR50D")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_layers": 0}, "train_layers"),
        ({"train_layers": "some"}, "train_layers"),
        ({"train_layers": True}, "train_layers"),
        ({"train_layers": 7}, "only 6 layers"),
        ({"layer": 4, "train_layers": 5}, "only 4 layers"),
        ({"layer": 7}, "has 6 layers"),
        ({"layer": -8}, "has 6 layers"),
        ({"dropout": 1.0}, "dropout"),
        ({"max_length": -1}, "max_length"),
        ({"weights": "maybe"}, "weights"),
        ({"weights": "random", "path": Path("x")}, "contradict"),
    ],
)
def test_bad_options_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Esm2Config(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", list(MODELS))
@pytest.mark.parametrize("layer", [-1, 3, 0])
def test_parameter_count_is_that_of_the_built_model(name: str, layer: int) -> None:
    config = Esm2Config(model=name, layer=layer)
    with torch.device("meta"):
        model = EsmModel(to_config(MODELS[name]), add_pooling_layer=False)
    model.contact_head = None
    cut(model, config.depth(MODELS[name].layers))
    assert parameters(config) == sum(p.numel() for p in model.parameters())


def test_parameter_count_of_a_folder(
    hub_folder: Callable[..., Path], from_path: Callable[..., torch.nn.Module]
) -> None:
    folder = hub_folder()
    expected = sum(p.numel() for p in from_path(folder, layer=2).parameters())
    assert parameters(Esm2Config(path=folder, layer=2)) == expected
    assert parameters(Esm2Config(path=folder, layer=9)) is None
    assert parameters(Esm2Config(path=folder / "weights.pt")) is None


def test_the_shipped_model_is_small() -> None:
    assert 1e6 < (parameters(Esm2Config(model=SHIPPED)) or 0) < 2e6


def test_config_needs_no_torch() -> None:
    heavy = ("torch", "transformers", "esm", "huggingface_hub")
    code = f"import sys, gentle_protein.esm2.config; sys.exit(any(m in sys.modules for m in {heavy}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
