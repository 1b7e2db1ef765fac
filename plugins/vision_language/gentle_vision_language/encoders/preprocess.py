"""From an image item to the square of pixels a model wants: what its image processor would do, without torchvision.

Resizing keeps the processor's filter, crop and sizes; the values stay bytes until the encoder normalises them, so a
batch that travels between processes is a quarter of the size. JPEG files are decoded at a fraction of their size where
that leaves at least twice the wanted resolution.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np
from PIL import Image

from gentle_core.api import DataError, WeightsError
from gentle_vision_language.decode import BadImage, open_image

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_HALF = (0.5, 0.5, 0.5)
_USUAL = {
    "CLIP": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "ViT": (_HALF, _HALF), "DeiT": (_HALF, _HALF), "Siglip": (_HALF, _HALF), "Beit": (_HALF, _HALF),
    "ConvNext": (_HALF, _HALF),
}  # fmt: skip
"""Mean and deviation that a processor of this kind takes where its settings leave them out."""

VERSION = 1
"""Part of the encoders' fingerprints: changes where the pixels do."""


@attrs.frozen(kw_only=True)
class Preprocess:
    """How pixels are made.

    Attributes:
        shortest: length of the shorter side after resizing, keeping the aspect ratio; 0 where `exact` is given.
        exact: (height, width) after resizing, whatever the aspect ratio.
        crop: (height, width) cut out of the middle; None for no crop.
        resample: Pillow's number of the filter (2 bilinear, 3 bicubic, …).
        mean, std: of the channels, on the scale from 0 to 1.
    """

    shortest: int = 0
    exact: tuple[int, int] | None = None
    crop: tuple[int, int] | None = None
    resample: int = 3
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of what comes out."""
        size = self.crop or self.exact
        assert size is not None
        return size

    def __call__(self, item: Any) -> np.ndarray:
        """uint8 (C, H, W).

        Raises:
            DataError: the image cannot be decoded; the message names it.
        """
        try:
            image = open_image(item, near=self._near())
        except BadImage as error:
            name = str(item) if hasattr(item, "content") else "an image"
            raise DataError(f"{name}: {error}; mend it or leave it out") from error
        height, width = self.exact or self._keeping_ratio(image.height, image.width)
        if (image.height, image.width) != (height, width):
            image = image.resize((width, height), Image.Resampling(self.resample))
        pixels = np.asarray(image)
        if self.crop is not None:
            pixels = _centre(pixels, self.crop)
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))

    def to_json(self) -> str:
        return json.dumps(attrs.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Preprocess:
        values = json.loads(text)
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})

    def _keeping_ratio(self, height: int, width: int) -> tuple[int, int]:
        short, long = sorted((height, width))
        other = int(self.shortest * long / short)
        return (self.shortest, other) if height <= width else (other, self.shortest)

    def _near(self) -> tuple[int, int]:
        """(width, height) between which and twice which a JPEG need not be decoded."""
        if self.exact:
            return self.exact[1], self.exact[0]
        return self.shortest, self.shortest


def _centre(pixels: np.ndarray, crop: tuple[int, int]) -> np.ndarray:
    """The middle of (H, W, C), padded with black where the image is smaller, as transformers does."""
    height, width = pixels.shape[:2]
    rows, columns = crop
    if height < rows or width < columns:
        padded = np.zeros((max(height, rows), max(width, columns), pixels.shape[2]), dtype=pixels.dtype)
        top, left = math.ceil((padded.shape[0] - height) / 2), math.ceil((padded.shape[1] - width) / 2)
        padded[top : top + height, left : left + width] = pixels
        pixels = padded
        height, width = pixels.shape[:2]
    top, left = (height - rows) // 2, (width - columns) // 2
    return pixels[top : top + rows, left : left + columns]


def from_settings(settings: Mapping[str, Any], resolution: int = 0) -> Preprocess:
    """What a folder's image processor settings mean.

    Args:
        settings: the content of preprocessor_config.json.
        resolution: another side for the square that comes out; 0 keeps the processor's.

    Raises:
        WeightsError: settings that mean something this cannot do.
    """
    kind = str(settings.get("image_processor_type") or settings.get("feature_extractor_type") or "")
    size = settings.get("size")
    crop = settings.get("crop_size")
    resizes, crops = settings.get("do_resize", True), settings.get("do_center_crop", crop is not None)
    if not resizes or size is None:
        raise WeightsError(f"the image processor ({kind}) does not resize; give `resolution`")
    shortest, exact = _size(size, kind, settings)
    cut = _pair(crop) if crops and crop is not None else None
    if kind.startswith("ConvNext") or "crop_pct" in settings:
        # Below 384 pixels: the shorter side to size / crop_pct, then the middle; from 384 on, squashed to a square.
        if not shortest:
            raise WeightsError(f"the image processor ({kind}) gives no shortest_edge")
        if shortest < 384:
            share = settings.get("crop_pct") or 224 / 256
            shortest, exact, cut = int(shortest / share), None, (shortest, shortest)
        else:
            shortest, exact, cut = 0, (shortest, shortest), None
    if shortest and cut is None:
        cut = (shortest, shortest)  # images of one batch must have one size
    usual = next((values for start, values in _USUAL.items() if kind.startswith(start)), (IMAGENET_MEAN, IMAGENET_STD))
    mean, std = settings.get("image_mean") or usual[0], settings.get("image_std") or usual[1]
    if not settings.get("do_normalize", True):
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    factor = settings.get("rescale_factor", 1 / 255) if settings.get("do_rescale", True) else 1.0
    scale = factor * 255  # our pixels run from 0 to 1
    if settings.get("offset"):  # some processors shift by one after rescaling
        raise WeightsError(f"the image processor ({kind}) shifts values by an offset, which is not supported")
    found = Preprocess(
        shortest=shortest, exact=exact, crop=cut, resample=int(settings.get("resample", 3)),
        mean=tuple(float(m) / scale for m in _triple(mean)), std=tuple(float(s) / scale for s in _triple(std)),
    )  # fmt: skip
    return scaled(found, resolution) if resolution else found


def scaled(plan: Preprocess, resolution: int) -> Preprocess:
    """The same plan for a square of another side."""
    height, _ = plan.size
    shortest = round(plan.shortest * resolution / height)
    exact = (resolution, resolution) if plan.exact else None
    crop = (resolution, resolution) if plan.crop else None
    return attrs.evolve(plan, shortest=shortest, exact=exact, crop=crop)


def _size(size: Any, kind: str, settings: Mapping[str, Any]) -> tuple[int, tuple[int, int] | None]:
    """(shortest, exact) of a `size` entry: an integer in old files, a table in newer ones."""
    if isinstance(size, int):
        squash = kind.startswith(("ViT", "DeiT", "Siglip", "Beit")) and settings.get("default_to_square", True)
        return (0, (size, size)) if squash else (size, None)
    if isinstance(size, (list, tuple)) and len(size) == 2:
        return 0, (int(size[0]), int(size[1]))
    if isinstance(size, Mapping) and size.get("shortest_edge"):
        return int(size["shortest_edge"]), None
    if isinstance(size, Mapping) and size.get("height") and size.get("width"):
        return 0, (int(size["height"]), int(size["width"]))
    raise WeightsError(f"the image processor ({kind}) has size {size!r}, which is not supported; give `resolution`")


def _pair(crop: Any) -> tuple[int, int]:
    if isinstance(crop, int):
        return crop, crop
    if isinstance(crop, Mapping):
        edge = crop.get("shortest_edge")
        return int(crop.get("height") or edge), int(crop.get("width") or edge)
    return int(crop[0]), int(crop[1])


def _triple(values: Any) -> tuple[float, ...]:
    return tuple(values) if isinstance(values, (list, tuple)) else (values, values, values)
