"""Original fair-esm checkpoints: the same numbers as fair-esm, and nothing but weights is read."""

from __future__ import annotations

import argparse
import ast
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.esm import modeling_esm

from gentle_core.api import WeightsError
from gentle_protein.alphabet import MASK, PAD, TOKENS, encode
from gentle_protein.esm2 import convert
from gentle_protein.esm2.batching import pad
from gentle_protein.esm2.config import Architecture
from gentle_protein.esm2.convert import read_checkpoint, reference
from gentle_protein.esm2.encoder import Esm2Encoder

Checkpoint = Callable[..., Path]
Load = Callable[..., Esm2Encoder]


def in_full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let both run in the model's own precision throughout.

    transformers rotates queries and keys in float32 and fair-esm takes the softmax in float32, whatever the model's
    precision. With these two steps alone replaced, nothing but rounding may tell the two apart.
    """
    from esm import multihead_attention

    def tables(self: Any, x: Tensor, position_ids: Tensor, layer_type: str | None = None) -> tuple[Tensor, Tensor]:
        angles = position_ids[..., None].to(x.dtype) * self.inv_freq.to(x.dtype)
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos(), angles.sin()

    def rotate(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> tuple[Tensor, Tensor]:
        cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
        half = modeling_esm.rotate_half
        return q * cos + half(q) * sin, k * cos + half(k) * sin

    monkeypatch.setattr(modeling_esm.EsmRotaryEmbedding, "forward", tables)
    monkeypatch.setattr(modeling_esm, "apply_rotary_pos_emb", rotate)
    monkeypatch.setattr(multihead_attention, "utils_softmax", lambda x, dim, onnx_trace=False: x.softmax(dim))


def largest_gap(path: Path, load: Load, tokens: Tensor, dtype: torch.dtype) -> float:
    """Largest difference from fair-esm over all layers and all positions but padding, relative to its scale."""
    fair = reference(path).to(dtype)
    layers = range(fair.num_layers + 1)
    with torch.no_grad():
        expected = fair(tokens, repr_layers=list(layers))["representations"]
        gaps = []
        for layer in layers:
            states, _ = load(path, layer=layer).to(dtype).residues(tokens)
            here = (states - expected[layer])[tokens != PAD].abs().max()
            gaps.append((here / expected[layer].abs().max()).item())
    return max(gaps)


def test_equal_to_fair_esm_in_float32(fair_checkpoint: Checkpoint, from_path: Load, chains: list[str]) -> None:
    tokens = pad([encode(chain) for chain in chains])
    tokens[0, 3:6] = tokens[1, 7] = MASK
    assert largest_gap(fair_checkpoint(), from_path, tokens, torch.float32) < 1e-5


def test_equal_to_fair_esm_in_float64(
    fair_checkpoint: Checkpoint, from_path: Load, chains: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    in_full_precision(monkeypatch)
    tokens = pad([encode(chain) for chain in chains])
    assert largest_gap(fair_checkpoint(), from_path, tokens, torch.float64) < 1e-10


def test_the_comparison_can_fail(fair_checkpoint: Checkpoint, from_path: Load, chains: list[str]) -> None:
    """One tensor exchanged for another of the same shape shows."""

    def swap(checkpoint: dict[str, Any]) -> None:
        state, base = checkpoint["model"], "encoder.sentence_encoder.layers.1.self_attn."
        state[base + "q_proj.weight"], state[base + "k_proj.weight"] = (
            state[base + "k_proj.weight"].clone(),
            state[base + "q_proj.weight"].clone(),
        )

    right, wrong = fair_checkpoint("right.pt"), fair_checkpoint("wrong.pt", change=swap)
    tokens = pad([encode(chain) for chain in chains])
    with torch.no_grad():
        expected = reference(right)(tokens, repr_layers=[3])["representations"][3]
        states, residue = from_path(wrong).residues(tokens)
    assert (states - expected)[residue].abs().max() > 1e-3


def test_half_precision_files_are_widened(fair_checkpoint: Checkpoint, from_path: Load, chains: list[str]) -> None:
    def halve(checkpoint: dict[str, Any]) -> None:
        checkpoint["model"] = {name: tensor.half() for name, tensor in checkpoint["model"].items()}

    path = fair_checkpoint(change=halve)
    encoder = from_path(path)
    assert {p.dtype for p in encoder.parameters()} == {torch.float32}
    assert largest_gap(path, from_path, pad([encode(chain) for chain in chains]), torch.float32) < 1e-5


def test_the_alphabet_is_fair_esms() -> None:
    from esm.data import Alphabet

    alphabet = Alphabet.from_architecture("ESM-1b")
    assert list(TOKENS) == alphabet.all_toks
    letters = "LAGVSERTIDPKQNFYMHWCXBUZO.-J*"
    assert encode(letters).tolist() == [alphabet.get_idx(letter) for letter in letters]


def test_the_name_of_the_file_says_nothing(fair_checkpoint: Checkpoint) -> None:
    other = Architecture(layers=2, width=32, heads=4, feedforward=128)
    assert read_checkpoint(fair_checkpoint("esm2_t33_650M_UR50D.pt", shape=other))[0] == other


def test_settings_under_args_and_the_older_file_format(fair_checkpoint: Checkpoint) -> None:
    def move(checkpoint: dict[str, Any]) -> None:
        checkpoint["args"] = checkpoint.pop("cfg")["model"]

    path = fair_checkpoint(change=move, _use_new_zipfile_serialization=False)
    assert read_checkpoint(path)[0].layers == 3


class _Malicious:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_code_is_refused(
    fair_checkpoint: Checkpoint, from_path: Load, tmp_path: Path, zipped: bool
) -> None:
    mark = tmp_path / "mark"

    def poison(checkpoint: dict[str, Any]) -> None:
        checkpoint["cfg"]["extra"] = _Malicious(f"touch {mark}")

    path = fair_checkpoint(change=poison, _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match="no plain file of weights"):
        from_path(path)
    assert not mark.exists()
    pickle.loads(pickle.dumps(_Malicious(f"touch {mark}")))  # the trap works
    assert mark.exists()


def _drop_rotary(checkpoint: dict[str, Any]) -> None:
    checkpoint["model"] = {k: v for k, v in checkpoint["model"].items() if "rot_emb" not in k}


def _deeper(checkpoint: dict[str, Any]) -> None:
    checkpoint["cfg"]["model"].encoder_layers = 4


def _other_heads(checkpoint: dict[str, Any]) -> None:
    checkpoint["cfg"]["model"].encoder_attention_heads = 4


def _silent(checkpoint: dict[str, Any]) -> None:
    checkpoint["cfg"] = {"model": argparse.Namespace(arch="x")}


def _no_state(checkpoint: dict[str, Any]) -> None:
    checkpoint["model"] = [1, 2]


def _hole(checkpoint: dict[str, Any]) -> None:
    del checkpoint["model"]["encoder.sentence_encoder.layers.1.fc1.bias"]


def _other_shape(checkpoint: dict[str, Any]) -> None:
    checkpoint["model"]["encoder.sentence_encoder.layers.1.fc1.bias"] = torch.zeros(5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_drop_rotary, "no ESM-2 checkpoint"),
        (_deeper, "contradicts itself"),
        (_other_heads, "contradicts itself"),
        (_silent, "does not say its layers"),
        (_no_state, "no state dict"),
        (_hole, "not complete"),
        (_other_shape, "cannot be used|not complete"),
    ],
)
def test_what_is_no_esm2_is_named(fair_checkpoint: Checkpoint, from_path: Load, change: Any, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        from_path(fair_checkpoint(change=change))


def test_a_truncated_file(fair_checkpoint: Checkpoint, from_path: Load) -> None:
    path = fair_checkpoint()
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(WeightsError, match=str(path)):
        from_path(path)


def test_fair_esm_is_imported_in_one_place() -> None:
    """Its import name clashes with another package's: only functions of the converter may meet it."""
    package = Path(convert.__file__).parents[1]
    for file in sorted(package.rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        nodes = tree.body if file == Path(convert.__file__) else list(ast.walk(tree))
        imported = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
        imported += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
        assert not [name for name in imported if name.split(".")[0] == "esm"], file
