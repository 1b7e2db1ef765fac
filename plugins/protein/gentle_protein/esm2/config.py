"""Options and sizes of the ESM-2 encoder. Nothing here imports torch."""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import Any, ClassVar, Literal

import attrs

LICENCE = "MIT"
CITATION = "Lin et al., Evolutionary-scale prediction of atomic-level protein structure, Science 379, 2023"
SHIPPED = "esm2_pdb_small"
"""The small model that is part of this package; see its model card in `gentle_protein/data/esm2_pdb_small`."""


@attrs.frozen
class Architecture:
    """The shape of an ESM-2 trunk. `feedforward` is 4 × `width` in every released model."""

    layers: int
    width: int
    heads: int
    feedforward: int
    vocabulary: int = 33
    token_dropout: bool = True

    def parameters(self, layers: int | None = None) -> int:
        """Weights of the embedding and the first `layers` layers; the final layer norm counts where all are kept."""
        kept = self.layers if layers is None else layers
        attention = 4 * self.width * (self.width + 1)
        feedforward = 2 * self.width * self.feedforward + self.feedforward + self.width
        norms = 2 * 2 * self.width
        final_norm = 2 * self.width if kept == self.layers else 0
        return self.vocabulary * self.width + kept * (attention + feedforward + norms) + final_norm


def _architecture(layers: int, width: int, heads: int) -> Architecture:
    return Architecture(layers, width, heads, 4 * width)


MODELS: dict[str, Architecture] = {
    "esm2_t6_8M_UR50D": _architecture(6, 320, 20),
    "esm2_t12_35M_UR50D": _architecture(12, 480, 20),
    "esm2_t30_150M_UR50D": _architecture(30, 640, 20),
    "esm2_t33_650M_UR50D": _architecture(33, 1280, 20),
    "esm2_t36_3B_UR50D": _architecture(36, 2560, 40),
    "esm2_t48_15B_UR50D": _architecture(48, 5120, 40),
    SHIPPED: _architecture(6, 160, 5),
}


def full_name(name: str) -> str:
    """The released name behind a short one: "t6_8M" and "esm2_t6_8M" are `esm2_t6_8M_UR50D`."""
    if not isinstance(name, str) or name in MODELS:
        return name
    for candidate in (f"esm2_{name}", f"{name}_UR50D", f"esm2_{name}_UR50D"):
        if candidate in MODELS:
            return candidate
    return name


def _known(instance: Any, attribute: attrs.Attribute[str], value: str) -> None:
    if value not in MODELS:
        near = difflib.get_close_matches(str(value), MODELS, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}?" if near else "choose one of " + ", ".join(MODELS)
        raise ValueError(f"model={value!r} is no ESM-2 model: {hint}")


def _all_or_count(instance: Any, attribute: attrs.Attribute[Any], value: int | str) -> None:
    if value != "all" and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise ValueError(f'train_layers={value!r}: write "all" or how many of the last layers train (1 or more)')


def _rate(instance: Any, attribute: attrs.Attribute[float], value: float) -> None:
    if not 0 <= value < 1:
        raise ValueError(f"{attribute.name}={value!r} must be at least 0 and below 1")


def _not_negative(instance: Any, attribute: attrs.Attribute[int], value: int) -> None:
    if value < 0:
        raise ValueError(f"{attribute.name}={value!r} must not be negative")


@attrs.frozen(kw_only=True)
class Esm2Config:
    """Options of `protein/esm2`.

    Attributes:
        model: a released size ("esm2_t6_8M_UR50D", or short "t6_8M", up to "t48_15B"), or "esm2_pdb_small", the
            small model that comes with the package.
        path: weights on disk instead: a folder in Hugging Face layout or an original fair-esm `.pt` file. The
            architecture is then read from there and `model` is not looked at.
        weights: "required" stops when no weights can be found, "auto" goes on from random ones and says so,
            "random" does not look for any.
        layer: the layer whose residue vectors are averaged: 1 is the first, 0 the token embedding, -1 the last. The
            layers above it are not built.
        train_layers: "all", or the number of layers, counted back from `layer`, that train where the encoder is
            not frozen; the embedding and the layers below then keep their weights.
        dropout: in training, on the output of every attention and feed-forward block. Two passes of one chain are
            then two views. The released models were trained without dropout.
        attention_dropout: in training, on the attention weights. It rules out the fused attention kernels.
        gradient_checkpointing: recompute each layer in the backward pass, which saves memory for time.
        max_length: residues beyond this many are cut off at the C-terminal end; 0 for no limit. The released models
            were trained on windows of 1022 residues.
        architecture: the trunk's shape in place of `model`'s, for models that start from random weights and for
            saved models, which bring their weights along.
    """

    idle_when_frozen: ClassVar[tuple[str, ...]] = ("train_layers",)

    model: str = attrs.field(default="esm2_t6_8M_UR50D", converter=full_name, validator=_known)
    path: Path | None = None
    weights: Literal["required", "auto", "random"] = attrs.field(
        default="required", validator=attrs.validators.in_(("required", "auto", "random"))
    )
    layer: int = -1
    train_layers: int | str = attrs.field(default="all", validator=_all_or_count)
    dropout: float = attrs.field(default=0.1, validator=_rate)
    attention_dropout: float = attrs.field(default=0.0, validator=_rate)
    gradient_checkpointing: bool = False
    max_length: int = attrs.field(default=1022, validator=_not_negative)
    architecture: Architecture | None = None

    def __attrs_post_init__(self) -> None:
        if self.path is not None and self.weights == "random":
            raise ValueError('path and weights = "random" contradict each other: leave one out')
        if self.path is not None and self.architecture is not None:
            raise ValueError("path and architecture contradict each other: leave one out")
        if self.path is None:
            depth = self.depth((self.architecture or MODELS[self.model]).layers)
            if self.train_layers != "all" and int(self.train_layers) > depth:
                raise ValueError(f"train_layers={self.train_layers}: only {depth} layers are built")

    def depth(self, layers: int) -> int:
        """How many of a model's `layers` are built. Raises ValueError where it has no such layer."""
        depth = self.layer + layers + 1 if self.layer < 0 else self.layer
        if not 0 <= depth <= layers:
            raise ValueError(f"layer={self.layer}: the model has {layers} layers")
        return depth


def read_architecture(folder: Path) -> Architecture:
    """The architecture in a folder's `config.json` (Hugging Face layout). Raises ValueError if it is no ESM-2."""
    table = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if table.get("model_type") != "esm" or table.get("position_embedding_type") != "rotary":
        raise ValueError(f"{folder / 'config.json'} does not describe an ESM-2 model")
    try:
        return Architecture(
            layers=table["num_hidden_layers"],
            width=table["hidden_size"],
            heads=table["num_attention_heads"],
            feedforward=table["intermediate_size"],
            vocabulary=table["vocab_size"],
            token_dropout=table.get("token_dropout", False),
        )
    except KeyError as error:
        raise ValueError(f"{folder / 'config.json'} lacks {error}") from None


def parameters(config: Esm2Config) -> int | None:
    """Parameters of the encoder that `config` describes; None where only a `.pt` file or an unread folder knows."""
    if config.path is None:
        architecture = config.architecture or MODELS[config.model]
    else:
        try:
            architecture = read_architecture(config.path)
        except (OSError, ValueError):
            return None
    try:
        return architecture.parameters(config.depth(architecture.layers))
    except ValueError:
        return None
