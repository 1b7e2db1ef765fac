"""`transformers.EsmModel` as the engine: built from weights on disk or at random, cut to the layers in use."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import EsmConfig, EsmModel
from transformers.utils import logging

from gentle_core.api import WeightsError
from gentle_protein.alphabet import EOS, MASK, PAD, TOKENS
from gentle_protein.esm2.config import Architecture, read_architecture
from gentle_protein.esm2.convert import read_checkpoint
from gentle_protein.esm2.weights import Weights

_LEFT_OUT = ("contact_head.", "pooler.", "inv_freq", "position_ids")
"""What may be missing from a file: heads that are not used, and buffers that follow from the architecture."""


def to_config(architecture: Architecture) -> EsmConfig:
    """The architecture in transformers' words. Training windows are no limit: rotary positions have none."""
    return EsmConfig(
        vocab_size=architecture.vocabulary,
        pad_token_id=PAD,
        mask_token_id=MASK,
        eos_token_id=EOS,
        hidden_size=architecture.width,
        num_hidden_layers=architecture.layers,
        num_attention_heads=architecture.heads,
        intermediate_size=architecture.feedforward,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        max_position_embeddings=1026,
        layer_norm_eps=1e-5,
        position_embedding_type="rotary",
        emb_layer_norm_before=False,
        token_dropout=architecture.token_dropout,
        use_cache=False,
    )


def load(weights: Weights) -> EsmModel:
    """The model behind `weights` in float32, in eval mode; half-precision files are widened.

    Raises:
        WeightsError: the files are damaged, are no ESM-2, or hold anything but tensors.
    """
    path = weights.path
    if path.is_file():
        architecture, state = read_checkpoint(path)
        return _from_pretrained(path, None, config=to_config(architecture), state_dict=state)
    try:
        architecture = read_architecture(path)
    except (OSError, ValueError) as error:
        raise WeightsError(str(error)) from None
    if architecture.vocabulary != len(TOKENS):
        raise WeightsError(f"{path}: ESM-2 has {len(TOKENS)} tokens, this model has {architecture.vocabulary}")
    return _from_pretrained(path, path, local_files_only=True)


def at_random(architecture: Architecture, seed: int) -> EsmModel:
    """A model with transformers' usual initialisation, the same for the same seed. Global randomness is untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = EsmModel._from_config(to_config(architecture), attn_implementation="sdpa", add_pooling_layer=False)
    model.contact_head = None
    return model.eval()


def cut(model: EsmModel, depth: int) -> EsmModel:
    """Keep the first `depth` layers. The final layer norm belongs to the last layer alone, as in fair-esm."""
    if depth < len(model.encoder.layer):
        model.encoder.layer = model.encoder.layer[:depth]
        model.encoder.register_module("emb_layer_norm_after", None)
        model.config.num_hidden_layers = depth
    return model


def residue_states(model: EsmModel, tokens: Tensor) -> Tensor:
    """Hidden states (B, T, width) of padded tokens (B, T)."""
    mask = (tokens != PAD).to(torch.long)
    return model(input_ids=tokens, attention_mask=mask).last_hidden_state


def _from_pretrained(path: Path, source: Path | None, **options: Any) -> EsmModel:
    try:
        with _quiet():
            result: Any = EsmModel.from_pretrained(
                source,
                add_pooling_layer=False,
                attn_implementation="sdpa",
                dtype=torch.float32,
                output_loading_info=True,
                **options,
            )
    except Exception as error:  # transformers, safetensors, zipfile and torch each have their own
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise WeightsError(f"the weights in {path} cannot be used: {reason}") from error
    model, found = result
    missing = sorted(name for name in found["missing_keys"] if not any(part in name for part in _LEFT_OUT))
    if missing or found["mismatched_keys"]:
        count = len(missing) + len(found["mismatched_keys"])
        raise WeightsError(f"the weights in {path} are not complete: {count} tensors are missing or of another shape")
    model.contact_head = None
    return model.eval()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and loading reports: what matters of them is checked, and said by us."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
