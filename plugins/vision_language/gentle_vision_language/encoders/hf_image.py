"""`vision-language/hf-image`: the image backbones of transformers, and the vision towers of CLIP and SigLIP."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import attrs
from torch import Tensor, nn
from transformers import PretrainedConfig

from gentle_core.api import BuildContext, ComponentError, WeightsError
from gentle_vision_language.encoders import hub, loading
from gentle_vision_language.encoders.config import HfImageConfig
from gentle_vision_language.encoders.image import ImageEncoder
from gentle_vision_language.encoders.preprocess import Preprocess, from_settings
from gentle_vision_language.encoders.tuning import tune

_CLASS_TOKEN = ("vit", "deit", "vit_mae", "vit_msn")
"""Kinds whose own pooled output is a layer of a former task, or was never trained: their class token is taken."""


class HfImageEncoder(ImageEncoder):
    """One vector an image.

    Args:
        model: the backbone.
        preprocess: what makes its pixels.
        config: the options.
        pool: "cls", "mean", "pooler" or "projection".
    """

    def __init__(
        self, model: nn.Module, preprocess: Preprocess, config: HfImageConfig, pool: str, origin: Mapping[str, Any]
    ) -> None:
        super().__init__(preprocess, origin)
        self.config, self.pool = config, pool
        self.shape: PretrainedConfig = model.config
        self.width = _width(self.shape, pool)
        if config.gradient_checkpointing:
            loading.checkpoint_gradients(model)
        self.backbone = tune(model, config)

    def embed(self, pixels: Tensor) -> Tensor:
        out = self.backbone(pixel_values=pixels)
        if self.pool == "projection":
            return out.image_embeds
        if self.pool == "pooler":
            return out.pooler_output.flatten(1)
        states = out.last_hidden_state
        if states.ndim == 4:
            return states.mean((2, 3))
        return states[:, 0] if self.pool == "cls" else states.mean(1)

    def options(self) -> dict[str, Any]:
        return {"pool": self.pool}

    def portable(self) -> dict[str, Any]:
        dropped = ("path", "model", "package", "revision", "weights", "architecture", "preprocess", "resolution")
        options = attrs.asdict(self.config, recurse=False, filter=lambda field, _: field.name not in dropped)
        return options | {
            "architecture": json.dumps(self.shape.to_dict()),
            "preprocess": self.preprocess.to_json(),
            "pool": "pooler" if self.pool == "projection" else self.pool,
        }


def build(config: HfImageConfig, context: BuildContext) -> HfImageEncoder:
    """The encoder that `config` describes.

    Raises:
        WeightsError: the model cannot be found or read.
        ComponentError: it is no image model, or an option does not fit it.
    """
    if config.architecture:
        whole = loading.read_config(config.architecture)
        preprocess = Preprocess.from_json(config.preprocess)
        cls, shape = loading.part_class(whole, "image", config.projection)
        pool = _pool(shape, config)
        model = loading.at_random(cls, shape, context.seed, **_options(shape, pool))
        return HfImageEncoder(_image_model(model), preprocess, config, pool, {})

    found = hub.find(config, context)
    whole = loading.read_config(found.folder)
    cls, shape = loading.part_class(whole, "image", config.projection)
    preprocess = _preprocess(found, shape, config, context)
    pool = _pool(shape, config)
    origin = {"model": config.label, "source": found.source, "kind": shape.model_type, "licence": found.licence}
    if config.weights == "random" or not context.load_weights or not found.has_weights:
        if config.weights == "required" and context.load_weights:
            raise WeightsError(f'{found.folder} holds config.json but no weights; weights = "random" does without')
        if config.weights == "auto":
            context.notify(f"hf-image starts from RANDOM weights: {found.folder} holds none")
        model = loading.at_random(cls, shape, context.seed, **_options(shape, pool))
        origin |= {"random": True, "wanted": config.weights == "random", "seed": context.seed}
    else:
        model, untrained_pooler = loading.load(cls, shape, found.folder, **_options(shape, pool))
        if untrained_pooler and pool == "pooler":
            raise ComponentError(f"{config.label} brings no weights for its pooled output: pool = 'cls' or 'mean'")
        origin |= {"sha256": found.sha256(), "random": False}
    return HfImageEncoder(_image_model(model), preprocess, config, pool, origin)


def _preprocess(found: hub.Found, shape: PretrainedConfig, config: HfImageConfig, context: BuildContext) -> Preprocess:
    settings = hub.image_settings(found)
    if settings is None:
        side = config.resolution or getattr(shape, "image_size", 0) or 224
        side = side if isinstance(side, int) else side[0]
        context.notify(
            f"{config.label} has no preprocessor_config.json: images are resized to {side} pixels and normalised with "
            "ImageNet's mean and deviation"
        )
        return Preprocess(shortest=side, crop=(side, side))
    return from_settings(settings, config.resolution)


def _pool(shape: PretrainedConfig, config: HfImageConfig) -> str:
    kind = shape.model_type
    if kind == "clip_vision_model" and config.projection and config.pool in ("auto", "pooler"):
        return "projection"
    if config.pool != "auto":
        return config.pool
    return "cls" if kind in _CLASS_TOKEN else "pooler"


def _options(shape: PretrainedConfig, pool: str) -> dict[str, Any]:
    """A pooling layer that is not used need not be built."""
    return {"add_pooling_layer": False} if shape.model_type in _CLASS_TOKEN[:2] and pool != "pooler" else {}


def _image_model(model: Any) -> Any:
    if model.main_input_name != "pixel_values":
        raise ComponentError(
            f"{model.config.model_type} reads {model.main_input_name}, not images: use hf-text for text"
        )
    return model


def _width(shape: PretrainedConfig, pool: str) -> int:
    if pool == "projection":
        return int(shape.projection_dim)
    sizes = getattr(shape, "hidden_sizes", None)  # ResNet, ConvNeXt
    return int(sizes[-1] if sizes else shape.hidden_size)
