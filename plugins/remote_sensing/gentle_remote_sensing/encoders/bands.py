"""`remote-sensing/bands`: a pretrained image encoder whose first layer reads any number of bands.

Shapes: B images, C bands.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gentle_core.api import BuildContext, ComponentError, EncoderModule, hash_tensors
from gentle_remote_sensing.bands import read_bands
from gentle_remote_sensing.encoders.config import BandsConfig

VERSION = 1
"""Part of the fingerprint: changes where the pixels do."""


def widened(first: nn.Conv2d, bands: int, rgb: Sequence[int], others: str) -> nn.Conv2d:
    """A convolution over `bands` channels that does with those of `rgb` what `first` does with its three."""
    made = type(first).__new__(type(first))
    nn.Module.__init__(made)
    made.__dict__.update({key: value for key, value in first.__dict__.items() if not key.startswith("_")})
    made.in_channels = bands
    for name, module in first.named_children():  # padding that is a layer of its own
        made.add_module(name, module)
    weight = first.weight.detach()
    kernel = weight.new_zeros(len(weight), bands, *weight.shape[2:])
    if others == "mean":
        kernel += weight.mean(1, keepdim=True)
    kernel[:, list(rgb)] = weight
    made.weight = nn.Parameter(kernel * (3 / bands) if others == "mean" else kernel, first.weight.requires_grad)
    made.bias = first.bias
    return made


def first_layer(model: nn.Module) -> tuple[nn.Module, str, nn.Conv2d]:
    """The parent, name and module of the convolution that reads the image.

    Raises:
        ComponentError: the model has none that reads three channels.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            if module.in_channels != 3 or module.groups != 1:
                break
            parent, _, own = name.rpartition(".")
            return model.get_submodule(parent), own, module
    raise ComponentError("this model has no first convolution over three colours, which could read more bands")


class BandsEncoder(EncoderModule):
    """One vector an image of C bands, by the backbone of an encoder for colours."""

    mean: Tensor
    std: Tensor

    def __init__(self, inner: Any, config: BandsConfig):
        super().__init__()
        parent, name, layer = first_layer(inner.backbone)
        setattr(parent, name, widened(layer, config.bands, config.rgb, config.others))
        # Models in Hugging Face layout check how many channels come in.
        for part in inner.backbone.modules():
            if isinstance(getattr(part, "num_channels", None), int):
                part.num_channels = config.bands
        self.inner, self.config, self.width = inner, config, inner.width
        shape = (1, config.bands, 1, 1)
        mean, std = (config.mean or (0.5,) * config.bands), (config.std or (0.25,) * config.bands)
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(shape), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(shape), persistent=False)

    def collate(self, items: Sequence[Any]) -> dict[str, Tensor]:
        """{"pixels": (B, C, side, side) float32}, 1 for the option `scale`."""
        side = (self.config.resolution,) * 2
        rows = []
        for item in items:
            array = np.nan_to_num(read_bands(item, self.config.bands).astype(np.float32))
            pixels = torch.from_numpy(array)[None] / self.config.scale
            if pixels.shape[2:] != side:
                pixels = F.interpolate(pixels, side, mode="bilinear", align_corners=False, antialias=True)
            rows.append(pixels)
        return {"pixels": torch.cat(rows)}

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        features: Tensor = self.inner.embed((inputs["pixels"].to(self.mean) - self.mean) / self.std)
        return features

    def size(self, item: Any) -> int:
        return max(self.config.resolution**2 // 256, 1)

    def fingerprint(self) -> str:
        names = ("bands", "scale", "mean", "std", "resolution")
        options = {name: getattr(self.config, name) for name in names} | self.inner.options()
        more = json.dumps([options, VERSION], sort_keys=True)
        return hashlib.sha256((more + hash_tensors(self.state_dict())).encode()).hexdigest()

    def facts(self) -> dict[str, Any]:
        config = self.config
        return {**self.inner.facts(), "bands": config.bands, "red, green, blue": list(config.rgb),
                "pixels": f"{config.resolution} × {config.resolution}"}  # fmt: skip

    def portable(self) -> Mapping[str, Any]:
        given = ("model", "revision", "path", "package")
        kept = attrs.asdict(self.config, filter=lambda field, _: field.name not in given)
        inner = self.inner.portable() or {}
        kept |= {key: inner[key] for key in ("architecture", "preprocess", "pool") if key in inner}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in kept.items()}


def build(config: BandsConfig, context: BuildContext) -> BandsEncoder:
    """Raises what the backbone itself raises where its weights are missing or it has no layer that could read bands."""
    if config.backbone == "efficientnet-lite":
        from gentle_vision_language.encoders import efficientnet
        from gentle_vision_language.encoders.config import EfficientNetConfig

        plain = EfficientNetConfig(weights=config.weights, train_layers=config.train_layers)
        return BandsEncoder(efficientnet.build(plain, context), config)
    from gentle_vision_language.encoders import hf_image
    from gentle_vision_language.encoders.config import HfImageConfig

    options = HfImageConfig(
        model=config.model, revision=config.revision, path=config.path, package=config.package, weights=config.weights,
        pool=config.pool, train_layers=config.train_layers, architecture=config.architecture,
        preprocess=config.preprocess, resolution=config.resolution,
    )  # fmt: skip
    return BandsEncoder(hf_image.build(options, context), config)
