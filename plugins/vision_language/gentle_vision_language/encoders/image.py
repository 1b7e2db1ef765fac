"""What image encoders have in common: pixels in, one vector an image out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gentle_core.api import EncoderModule, hash_tensors
from gentle_vision_language.decode import in_threads
from gentle_vision_language.encoders.preprocess import VERSION, Preprocess

PATCH = 16
"""Images are as long as the patches of this side that they consist of, for batches of bounded memory."""


class ImageEncoder(EncoderModule):
    """Decodes in threads, normalises on the device. Subclasses set `width` and write `embed`.

    `forward` takes `{"pixels": (B, C, H, W)}`, uint8 or floating point between 0 and 1, so that augmentations of
    batches work on what a person would see.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, preprocess: Preprocess, origin: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.preprocess = preprocess
        self.origin = dict(origin or {})
        self.register_buffer("mean", torch.tensor(preprocess.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(preprocess.std).view(1, -1, 1, 1), persistent=False)

    def embed(self, pixels: Tensor) -> Tensor:
        """Normalised pixels (B, C, H, W) to features (B, width)."""
        raise TypeError(f"{type(self).__name__} must define embed(pixels)")

    def options(self) -> dict[str, Any]:
        """What the features depend on beside weights and preprocessing."""
        return {}

    def collate(self, items: Sequence[Any]) -> dict[str, Tensor]:
        """{"pixels": uint8 (B, C, H, W)}."""
        arrays = in_threads(self.preprocess, items)
        return {"pixels": torch.stack([torch.from_numpy(array) for array in arrays])}

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        pixels = inputs["pixels"]
        pixels = pixels.to(self.mean.dtype).div(255) if pixels.dtype == torch.uint8 else pixels.to(self.mean.dtype)
        return self.embed((pixels - self.mean) / self.std)

    def size(self, item: Any) -> int:
        height, width = self.preprocess.size
        return max(height * width // PATCH**2, 1)

    def fingerprint(self) -> str:
        options = {"preprocess": self.preprocess.to_json(), "version": VERSION, **self.options()}
        return hashlib.sha256(
            (json.dumps(options, sort_keys=True) + hash_tensors(self.state_dict())).encode()
        ).hexdigest()

    def facts(self) -> dict[str, Any]:
        height, width = self.preprocess.size
        return {**self.origin, "pixels": f"{height} × {width}", **self.options()}
