"""Original fair-esm checkpoints (`.pt`) to the layout of `transformers.EsmModel`.

This is the only file of the package that knows fair-esm. A checkpoint holds the key "model", a state dict whose names
begin with "encoder.sentence_encoder." or "encoder.", and "cfg" (or "args"), which describes the architecture. The
heads (language model, contacts) are left out, and the separate contact-regression file is not needed.
"""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gentle_core.api import WeightsError
from gentle_protein.esm2.config import Architecture

_PREFIXES = ("encoder.sentence_encoder.", "encoder.")
_HEADS = ("lm_head.", "contact_head.")
_TOP = {
    "embed_tokens.weight": "embeddings.word_embeddings.weight",
    "emb_layer_norm_after.weight": "encoder.emb_layer_norm_after.weight",
    "emb_layer_norm_after.bias": "encoder.emb_layer_norm_after.bias",
}
_IN_LAYER = {
    "self_attn.q_proj": "attention.self.query",
    "self_attn.k_proj": "attention.self.key",
    "self_attn.v_proj": "attention.self.value",
    "self_attn.out_proj": "attention.output.dense",
    "self_attn_layer_norm": "attention.LayerNorm",
    "fc1": "intermediate.dense",
    "fc2": "output.dense",
    "final_layer_norm": "LayerNorm",
}


def read_checkpoint(path: Path) -> tuple[Architecture, dict[str, Tensor]]:
    """Architecture and state dict (EsmModel's names, dtypes as stored) of an original ESM-2 checkpoint.

    Nothing but tensors, plain containers and `argparse.Namespace` is unpickled.

    Raises:
        WeightsError: the file is unreadable, asks for other objects, or is no ESM-2.
    """
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except pickle.UnpicklingError as error:
        reason = str(error).split("\n", 1)[0]
        raise WeightsError(f"{path} was not loaded: it is no plain file of weights ({reason})") from error
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
    if not isinstance(checkpoint, Mapping) or not isinstance(checkpoint.get("model"), Mapping):
        raise WeightsError(f"{path} is no fair-esm checkpoint: it has no state dict under 'model'")
    state = rename(checkpoint["model"])
    architecture = _architecture(path, checkpoint, state)
    return architecture, state


def _is_zip(path: Path) -> bool:
    """Only torch's zip format can be memory-mapped; the older format of early checkpoints cannot."""
    with open(path, "rb") as file:
        return file.read(2) == b"PK"


def rename(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """fair-esm's names to EsmModel's, heads left out; names that are not ESM-2's are kept as they are."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        for prefix in _PREFIXES:
            if name.startswith(prefix):
                name = name.removeprefix(prefix)
                break
        if name.startswith(_HEADS):
            continue
        if name.endswith("self_attn.rot_emb.inv_freq"):  # equal in every layer
            renamed["rotary_embeddings.inv_freq"] = tensor
            continue
        renamed[_rename_one(name)] = tensor
    return renamed


def _rename_one(name: str) -> str:
    if name in _TOP:
        return _TOP[name]
    parts = name.split(".", 2)
    if len(parts) == 3 and parts[0] == "layers":
        module, _, kind = parts[2].rpartition(".")
        if module in _IN_LAYER:
            return f"encoder.layer.{parts[1]}.{_IN_LAYER[module]}.{kind}"
    return name


def _architecture(path: Path, checkpoint: Mapping[str, Any], state: Mapping[str, Tensor]) -> Architecture:
    """The architecture from the checkpoint's own description, checked against the shapes of its tensors."""
    settings = _settings(checkpoint)
    try:
        layers, width, heads = (int(settings[key]) for key in ("layers", "embed_dim", "attention_heads"))
    except (KeyError, TypeError, ValueError):
        raise WeightsError(f"{path} does not say its layers, width and heads under 'cfg' or 'args'") from None
    rotary = state.get("rotary_embeddings.inv_freq")
    embedding = state.get("embeddings.word_embeddings.weight")
    hidden = state.get("encoder.layer.0.intermediate.dense.weight")
    if rotary is None or embedding is None or hidden is None:
        raise WeightsError(f"{path} is no ESM-2 checkpoint: it has no rotary embeddings (ESM-1 is not supported)")
    found = len({name.split(".")[2] for name in state if name.startswith("encoder.layer.")})
    if (found, embedding.shape[1], 2 * len(rotary) * heads) != (layers, width, width):
        raise WeightsError(f"{path} contradicts itself: its tensors do not have the {layers} layers × {width} it names")
    return Architecture(
        layers=layers,
        width=width,
        heads=heads,
        feedforward=hidden.shape[0],
        vocabulary=embedding.shape[0],
        token_dropout=bool(settings.get("token_dropout", True)),
    )


def _settings(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The model settings without their "encoder_" prefix."""
    for table in (checkpoint.get("cfg"), checkpoint.get("args")):
        if isinstance(table, Mapping) and "model" in table:
            table = table["model"]
        if isinstance(table, argparse.Namespace):
            table = vars(table)
        if isinstance(table, Mapping):
            return {str(key).removeprefix("encoder_"): value for key, value in table.items()}
    return {}


def reference(path: Path) -> Any:
    """The checkpoint as fair-esm's own `ESM2` module, in eval mode: what our path is compared with.

    Raises:
        WeightsError: fair-esm is not installed, or another package has taken its import name `esm`.
    """
    try:
        from esm.data import Alphabet
        from esm.model.esm2 import ESM2
    except ImportError:
        raise WeightsError(
            "the reference needs fair-esm: pip install fair-esm (the package `esm` has the same import name: remove it)"
        ) from None
    architecture, _ = read_checkpoint(path)
    model = ESM2(
        num_layers=architecture.layers,
        embed_dim=architecture.width,
        attention_heads=architecture.heads,
        alphabet=Alphabet.from_architecture("ESM-1b"),
        token_dropout=architecture.token_dropout,
    )
    with torch.serialization.safe_globals([argparse.Namespace]):
        state = torch.load(path, map_location="cpu", weights_only=True)["model"]
    plain = {n.removeprefix(_PREFIXES[0]).removeprefix(_PREFIXES[1]): t for n, t in state.items()}
    left_out = model.load_state_dict(plain, strict=False)
    if left_out.unexpected_keys or any(not name.startswith("contact_head.") for name in left_out.missing_keys):
        raise WeightsError(f"{path} does not fit fair-esm's ESM2")
    return model.eval()
