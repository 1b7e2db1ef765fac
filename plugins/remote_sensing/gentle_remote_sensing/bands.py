"""Images with any number of bands: where they lie, and how they are read (GeoTIFF by way of rasterio, an extra)."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np

from gentle_core.api import ComponentError, DataError
from gentle_vision_language.items import ImageFile

BANDS = "multispectral-image"
LARGEST = 100_000_000
"""Pixels times bands above which a file is refused: a few kilobytes can stand for gigabytes."""


@attrs.frozen
class BandsFile(ImageFile):
    """A GeoTIFF on disk. It is known by its content, as every image is."""


def read_bands(item: Any, bands: int = 0) -> np.ndarray:
    """A `BandsFile` or an array (C, H, W) as an array (C, H, W) in its own type.

    Args:
        bands: how many there must be; 0 for any number.

    Raises:
        DataError: the file cannot be read, has another number of bands, or holds no finite number.
        ComponentError: rasterio is not installed.
    """
    array = item if isinstance(item, np.ndarray) else _decoded(item)
    if array.ndim != 3:
        raise DataError(f"{_name(item)}: has shape {array.shape}; an image of bands is (bands, height, width)")
    if bands and len(array) != bands:
        raise DataError(f"{_name(item)}: has {len(array)} bands, not {bands}; set `bands` or leave it out")
    if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).any():
        raise DataError(f"{_name(item)}: holds no finite number")
    return array


def _name(item: Any) -> str:
    return str(item) if isinstance(item, ImageFile) else "an image"


def _decoded(item: Any) -> np.ndarray:
    if not isinstance(item, ImageFile):
        raise DataError(f"an image of bands is a BandsFile or an array, not {type(item).__name__}")
    try:
        from rasterio.errors import NotGeoreferencedWarning, RasterioError
        from rasterio.io import MemoryFile
    except ImportError as error:
        raise ComponentError("GeoTIFF needs rasterio: pip install 'gentle-remote-sensing[geotiff]'") from error
    import warnings

    content = item.content()
    if not content:
        raise DataError(f"{item}: is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)  # where it lies on Earth does not matter here
            with MemoryFile(content) as memory, memory.open() as image:
                if image.count * image.width * image.height > LARGEST:
                    raise DataError(
                        f"{item}: {image.count} bands of {image.width} × {image.height} pixels are too many"
                    )
                filled: np.ndarray = image.read(masked=True).filled(0)  # what was not measured
                return filled
    except RasterioError as error:
        raise DataError(f"{item}: cannot be decoded: {' '.join(str(error).split())}") from error


def problem(item: ImageFile, min_side: int, bands: int = 0) -> str:
    """Why an image of bands cannot be used; empty where it can."""
    try:
        array = read_bands(item, bands)
    except DataError as error:
        return str(error).removeprefix(f"{item}: ")
    if min(array.shape[1:]) < min_side:
        height, width = array.shape[1:]
        return f"has {width} × {height} pixels; the shorter side must have {min_side} or more (min_side)"
    return ""
