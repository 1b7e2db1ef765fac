"""ESM-2 as an encoder: amino-acid strings to the mean of their residue vectors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor
from transformers import EsmModel

from gentle_core.api import BuildContext, ComponentError, DataError, EncoderModule, WeightsError, hash_tensors
from gentle_protein.alphabet import EOS, encode
from gentle_protein.esm2 import trunk
from gentle_protein.esm2.batching import group_by_length, pad
from gentle_protein.esm2.config import LICENCE, MODELS, Architecture, Esm2Config
from gentle_protein.esm2.weights import find, not_found

_OVERHEAD = {"cpu": 128}
"""Fixed cost of one more group of chains in a batch, in token positions; on other devices `_OVERHEAD_ELSEWHERE`."""
_OVERHEAD_ELSEWHERE = 4096


class Esm2Encoder(EncoderModule):
    """Mean over a chain's residue vectors, without CLS, EOS and padding.

    `collate` takes strings of one-letter codes: lower case counts as upper case, an unknown letter as `<unk>`, "#" as
    `<mask>`. The scaling by which ESM-2 makes up for masked residues is kept, masked residues or not.

    Args:
        model: the trunk; `config.layer` says how much of it is kept.
        config: the options.
        origin: facts about the weights, for the report.
    """

    def __init__(self, model: EsmModel, config: Esm2Config, origin: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.calls_vary = True  # as many groups as the lengths of a batch ask for
        self.config = config
        self.origin = dict(origin or {})
        self.whole = _architecture(model)
        self.trunk = trunk.cut(model, _depth(config, model.config.num_hidden_layers))
        self.width: int = model.config.hidden_size
        self._set_dropout()
        self._set_trained_layers()
        if config.gradient_checkpointing:
            older = self.trunk.gradient_checkpointing_enable  # its name before it was called after activations
            getattr(self.trunk, "activation_checkpointing_enable", older)({"use_reentrant": False})

    def collate(self, items: Sequence[Any]) -> dict[str, Any]:
        """Groups of chains of similar length, and for every item its row in the groups put end to end."""
        chains = [self._tokens(item) for item in items]
        device = next(self.parameters()).device.type
        overhead = _OVERHEAD.get(device, _OVERHEAD_ELSEWHERE)
        groups = group_by_length([len(chain) + 2 for chain in chains], overhead)
        row_of_item = torch.empty(len(chains), dtype=torch.long)
        row_of_item[[index for group in groups for index in group]] = torch.arange(len(chains))
        return {"tokens": [pad([chains[index] for index in group]) for group in groups], "row": row_of_item}

    def forward(self, inputs: Mapping[str, Any]) -> Tensor:
        """Features (B, width), float32 (float64 where the weights are), in the order of the collated items."""
        pooled = [self._pool(tokens) for tokens in inputs["tokens"]]
        return torch.cat(pooled)[inputs["row"]]

    def residues(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states (B, T, width) of padded tokens (B, T), and which positions are residues (B, T)."""
        return trunk.residue_states(self.trunk, tokens), tokens > EOS  # CLS, PAD and EOS are tokens 0, 1, 2

    def size(self, item: str) -> int:
        return min(len(item), self.config.max_length or len(item))

    def fingerprint(self) -> str:
        layer = self.trunk.config.num_hidden_layers
        options = {"pool": "residue mean", "layer": layer, "max_length": self.config.max_length}
        text = json.dumps(options, sort_keys=True) + hash_tensors(self.trunk.state_dict())
        return hashlib.sha256(text.encode()).hexdigest()

    def portable(self) -> dict[str, Any] | None:
        """Options that rebuild the trunk without the files that it came from; None where the name suffices."""
        if self.config.path is None:
            return None
        options = attrs.asdict(
            self.config, recurse=False, filter=lambda field, _: field.name not in ("path", "weights")
        )
        return options | {"architecture": attrs.asdict(self.whole)}

    def facts(self) -> dict[str, Any]:
        shape = self.trunk.config
        return {
            **self.origin,
            "layers": shape.num_hidden_layers,
            "heads": shape.num_attention_heads,
            "pooled": f"mean over residues of layer {shape.num_hidden_layers}",
            "max_length": self.config.max_length,
        }

    def _tokens(self, item: Any) -> Any:
        if not isinstance(item, str):
            raise DataError(f"ESM-2 reads amino-acid strings, not {type(item).__name__}")
        if not item:
            raise DataError("ESM-2 cannot encode an empty sequence: leave the item out, or mend the file it comes from")
        return encode(item[: self.config.max_length or None])

    def _pool(self, tokens: Tensor) -> Tensor:
        states, residue = self.residues(tokens)
        weight = residue.unsqueeze(-1)
        total = torch.where(weight, states, 0).sum(1, dtype=torch.promote_types(states.dtype, torch.float32))
        return total / weight.sum(1)

    def _set_dropout(self) -> None:
        layers: Any = self.trunk.encoder.layer
        for layer in layers:
            layer.attention.output.dropout.p = self.config.dropout
            layer.output.dropout.p = self.config.dropout
            layer.attention.self.dropout = self.config.attention_dropout

    def _set_trained_layers(self) -> None:
        if self.config.train_layers == "all":
            return
        self.trunk.requires_grad_(False)
        layers = self.trunk.encoder.layer
        if int(self.config.train_layers) > len(layers):
            raise ComponentError(f"train_layers={self.config.train_layers}: the model has {len(layers)} layers")
        for layer in layers[-int(self.config.train_layers) :]:
            layer.requires_grad_(True)
        if self.trunk.encoder.emb_layer_norm_after is not None:
            self.trunk.encoder.emb_layer_norm_after.requires_grad_(True)


def build(config: Esm2Config, context: BuildContext) -> Esm2Encoder:
    """The encoder that `config` describes.

    Raises:
        WeightsError: weights are required and cannot be found, or what was found cannot be read.
        ComponentError: the model has no such layer.
    """
    if config.weights != "random" and context.load_weights:
        weights, missed = find(config, context)
        if weights is not None:
            model = trunk.load(weights)
            label = config.model if config.path is None else weights.path.name
            origin = {
                "model": label,
                "source": weights.source,
                "file": str(weights.path),
                "sha256": weights.sha256(),
                "licence": _licence(config),
                "random": False,
            }
            return Esm2Encoder(model, config, origin)
        if config.weights == "required":
            raise WeightsError(not_found(config, missed))
        context.notify(
            f"ESM-2 starts from RANDOM weights, and its features mean little until it is trained: "
            f"those of {config.model} were not found; looked in {', '.join(missed)}."
        )
    model = trunk.at_random(config.architecture or MODELS[config.model], context.seed)
    origin = {
        "model": config.model,
        "source": "random initialisation",
        "seed": context.seed,
        "random": True,
        "wanted": config.weights == "random",
    }
    return Esm2Encoder(model, config, origin)


def _architecture(model: EsmModel) -> Architecture:
    shape: Any = model.config
    return Architecture(
        layers=shape.num_hidden_layers,
        width=shape.hidden_size,
        heads=shape.num_attention_heads,
        feedforward=shape.intermediate_size,
        vocabulary=shape.vocab_size,
        token_dropout=shape.token_dropout,
    )


def _licence(config: Esm2Config) -> str:
    return LICENCE if config.path is None else "that of the given weights (Meta's ESM-2: MIT)"


def _depth(config: Esm2Config, layers: int) -> int:
    try:
        return config.depth(layers)
    except ValueError as error:
        raise ComponentError(str(error)) from None
