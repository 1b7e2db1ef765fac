"""A part of a Hugging Face model, with weights from a folder or at random."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PretrainedConfig
from transformers.utils import logging

from gentle_core.api import ComponentError, WeightsError

_MAY_BE_MISSING = ("pooler.", "position_ids", "inv_freq")
"""Heads that are not used where they are missing, and buffers that follow from the architecture."""


def read_config(source: Path | str) -> PretrainedConfig:
    """The configuration in a folder, or in the text of a config.json.

    Raises:
        WeightsError: it cannot be read, or is of a kind that transformers does not know.
    """
    try:
        with quiet():
            if isinstance(source, Path):
                return AutoConfig.from_pretrained(source, local_files_only=True, trust_remote_code=False)
            values = json.loads(source)
            return AutoConfig.for_model(**values)
    except Exception as error:
        where = source / "config.json" if isinstance(source, Path) else "the saved architecture"
        raise WeightsError(f"{where} cannot be used: {_line(error)}") from error


def part_class(config: PretrainedConfig, which: str, projection: bool) -> tuple[Any, PretrainedConfig]:
    """The class of the tower ("image" or "text") of a model, and that tower's own configuration.

    Raises:
        ComponentError: the model has no such tower.
    """
    import transformers

    kind = config.model_type
    inner = getattr(config, "vision_config" if which == "image" else "text_config", None)
    own = inner if isinstance(inner, PretrainedConfig) else config
    if kind in ("clip", "clip_vision_model", "clip_text_model"):
        name = {"image": "CLIPVision", "text": "CLIPText"}[which] + ("ModelWithProjection" if projection else "Model")
        if kind == "clip":  # the joint space is the model's, not the tower's
            own.projection_dim = config.projection_dim
        return getattr(transformers, name), own
    if kind in ("siglip", "siglip_vision_model", "siglip_text_model"):
        return getattr(transformers, {"image": "SiglipVisionModel", "text": "SiglipTextModel"}[which]), own
    if inner is not None:
        raise ComponentError(f"{kind} models have towers that hf-{which} cannot take apart; CLIP and SigLIP it can")
    return AutoModel, own


def load(cls: Any, config: PretrainedConfig, folder: Path, **options: Any) -> Any:
    """The tower with the folder's weights, in float32.

    Raises:
        WeightsError: weights are damaged, missing or of another shape.
    """
    try:
        with quiet():
            model, found = cls.from_pretrained(
                folder,
                config=config,
                dtype=torch.float32,
                output_loading_info=True,
                local_files_only=True,
                ignore_mismatched_sizes=True,  # they are reported, and refused below
                **options,
            )
    except Exception as error:  # transformers, safetensors, zipfile and torch each have their own
        raise WeightsError(f"the weights in {folder} cannot be used: {_line(error)}") from error
    missing = sorted(n for n in found["missing_keys"] if not any(part in n for part in _MAY_BE_MISSING))
    wrong = len(missing) + len(found["mismatched_keys"])
    if wrong:
        first = (missing or sorted(str(k) for k in found["mismatched_keys"]))[0]
        raise WeightsError(
            f"the weights in {folder} do not belong to this model: {wrong} tensors are missing or of another shape, "
            f"the first {first}"
        )
    pooler_missing = any("pooler." in name for name in found["missing_keys"])
    return model.eval(), pooler_missing


def at_random(cls: Any, config: PretrainedConfig, seed: int, **options: Any) -> nn.Module:
    """The tower with transformers' usual initialisation, the same for the same seed. Global randomness is untouched."""
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(seed)
        make = cls.from_config if cls is AutoModel else cls._from_config
        return make(config, **options).eval()


def checkpoint_gradients(model: Any) -> None:
    """Recompute activations in the backward pass.

    Raises:
        ComponentError: the model cannot.
    """
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    try:
        enable({"use_reentrant": False})
    except (ValueError, TypeError) as error:
        raise ComponentError(f"{type(model).__name__} has no gradient checkpointing: leave it out") from error


def _line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
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
