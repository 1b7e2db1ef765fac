"""Small ESM-2 models on disk, in both formats, made by fair-esm and by transformers themselves."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import EsmForMaskedLM

from gentle_core.api import BuildContext
from gentle_protein.esm2.config import Architecture, Esm2Config
from gentle_protein.esm2.encoder import Esm2Encoder, build
from gentle_protein.esm2.trunk import at_random, to_config

TINY = Architecture(layers=3, width=24, heads=3, feedforward=96)
CHAINS = ["MKTAYIAKQRQISFVKSHFSRQ", "ACDEFGHIKLMNPQRSTVWYACDEFGHIKLMNPQRSTVWY", "GSHMX", "W", "LLVAGBZUOWLLV"]


@pytest.fixture(autouse=True)
def one_thread_no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test looks at the caches of whoever runs it, or waits for a network."""
    from huggingface_hub import constants

    torch.set_num_threads(1)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


@pytest.fixture
def chains() -> list[str]:
    return list(CHAINS)


@pytest.fixture
def context(tmp_path: Path) -> BuildContext:
    return BuildContext(cache_dir=tmp_path / "cache")


@pytest.fixture
def encoder() -> Callable[..., Esm2Encoder]:
    """An encoder on a tiny random model; keywords are options."""

    def make(seed: int = 0, **options: Any) -> Esm2Encoder:
        return Esm2Encoder(at_random(TINY, seed), Esm2Config(**options)).eval()

    return make


@pytest.fixture
def from_path(context: BuildContext) -> Callable[..., Esm2Encoder]:
    def make(path: Path, **options: Any) -> Esm2Encoder:
        return build(Esm2Config(path=path, **options), context).eval()

    return make


@pytest.fixture
def fair_checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """Write a tiny ESM-2 of fair-esm's own making in the format of the released files, and return its path."""

    def write(name: str = "anything.pt", shape: Architecture = TINY, change: Any = None, **save: Any) -> Path:
        from esm.data import Alphabet
        from esm.model.esm2 import ESM2

        torch.manual_seed(3)
        model = ESM2(shape.layers, shape.width, shape.heads, Alphabet.from_architecture("ESM-1b"))
        with torch.no_grad():
            for parameter in model.parameters():  # biases and norms are trivial at first
                parameter.add_(torch.randn_like(parameter) * 0.1)
        settings = argparse.Namespace(
            arch="transformer_lm",
            encoder_layers=shape.layers,
            encoder_embed_dim=shape.width,
            encoder_attention_heads=shape.heads,
            token_dropout=True,
        )
        state = model.state_dict()
        state = {k: v for k, v in state.items() if not k.startswith("contact_head")}
        heads = {f"encoder.{k}": v for k, v in state.items() if k.startswith("lm_head")}
        body = {f"encoder.sentence_encoder.{k}": v for k, v in state.items() if not k.startswith("lm_head")}
        checkpoint: dict[str, Any] = {"cfg": {"model": settings}, "model": {**body, **heads}}
        if change is not None:
            change(checkpoint)
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(checkpoint, path, **save)
        return path

    return write


@pytest.fixture
def hub_folder(tmp_path: Path) -> Callable[..., Path]:
    """Save a tiny model in Hugging Face layout, with its language-model head, as the hub has them."""

    def write(name: str = "folder", seed: int = 0, half: bool = False, **save: Any) -> Path:
        torch.manual_seed(seed)
        model = EsmForMaskedLM(to_config(TINY))
        (model.half() if half else model).save_pretrained(tmp_path / name, **save)
        return tmp_path / name

    return write
