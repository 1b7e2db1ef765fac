"""From an image item to RGB pixels, whatever the file holds.

| in the file | becomes |
|---|---|
| grey, palette, CMYK, YCbCr, Lab | RGB |
| transparency (RGBA, LA, palette with an alpha) | composited over white |
| 16 bits a channel | the upper 8 bits |
| an EXIF orientation | turned upright |
| several frames | the first |

Floating-point images are refused: nothing says what white is.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from gentle_core.api import DataError
from gentle_vision_language.items import ImageFile

MAX_PIXELS = 100_000_000
"""Above this many pixels an image is taken for a decompression bomb: a few kilobytes that fill the memory."""

# The limit above is enforced here, before anything is decoded; Pillow's own warning would come first and say less.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

_T = TypeVar("_T")
_R = TypeVar("_R")
_SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I;16N", "I")
_ORIENTATION = 0x0112
_TURNED = frozenset({5, 6, 7, 8})
"""EXIF orientations that exchange width and height."""


class BadImage(DataError):
    """An image that cannot be used; the message says why, without the image's name."""


def to_rgb(image: Image.Image) -> Image.Image:
    """The same picture in mode RGB.

    Raises:
        BadImage: a mode without a meaning in 8 bits.
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in _SIXTEEN_BITS:
        values = np.asarray(image).astype(np.int64)
        if values.size and (values.min() < 0 or values.max() > 0xFFFF):
            raise BadImage(f"holds values from {values.min()} to {values.max()}; 16-bit images go from 0 to 65535")
        return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise BadImage("holds floating-point values, of which nothing says which is white: save it as 8 or 16 bits")
    if image.has_transparency_data:
        picture = image.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture).convert("RGB")
    return image.convert("RGB")


def open_image(item: Any, near: tuple[int, int] | None = None, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """An image item as an upright RGB image in memory.

    Args:
        item: an `ImageFile`, encoded bytes, a uint8 array (H, W) or (H, W, 3), or a Pillow image.
        near: (width, height) that is wanted in the end. A JPEG is then decoded at a half, a quarter or an eighth of
            its size as long as both sides stay at least twice what is wanted, which is several times as fast.
        max_pixels: limit of width × height, checked before anything is decoded.

    Raises:
        BadImage: it cannot be decoded, or is too large.
        DataError: its file cannot be read.
    """
    if isinstance(item, np.ndarray):
        if item.dtype != np.uint8 or item.ndim not in (2, 3) or (item.ndim == 3 and item.shape[2] != 3):
            raise BadImage(f"an array {item.dtype} {item.shape} is no image: give uint8 (height, width, 3)")
        return to_rgb(Image.fromarray(item))
    if isinstance(item, Image.Image):
        return to_rgb(item)
    data = item.content() if isinstance(item, ImageFile) else item
    if not isinstance(data, bytes):
        raise BadImage(f"an image is an ImageFile, bytes, an array or a Pillow image, not {type(item).__name__}")
    if not data:
        raise BadImage("is empty")
    try:
        with Image.open(io.BytesIO(data)) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise BadImage(f"has {width} × {height} pixels; the limit is {max_pixels} (max_pixels)")
            turned = image.getexif().get(_ORIENTATION) in _TURNED
            if near is not None and image.format == "JPEG":
                wanted = (2 * near[0], 2 * near[1])
                image.draft("RGB", wanted[::-1] if turned else wanted)  # CMYK stays as it is: draft knows better
            image.load()
            return to_rgb(ImageOps.exif_transpose(image))
    except UnidentifiedImageError:
        raise BadImage("is no image that Pillow can read") from None
    except Image.DecompressionBombError:
        raise BadImage(f"has more pixels than the limit of {max_pixels} (max_pixels)") from None
    except BadImage:
        raise
    except Exception as error:  # whatever a damaged file makes a decoder raise: it cannot be used
        text = " ".join(str(error).split()) or type(error).__name__
        raise BadImage(f"cannot be decoded: {text}") from error


def problem(item: ImageFile, *, min_side: int = 1, max_pixels: int = MAX_PIXELS, decode: bool = True) -> str:
    """Why an image cannot be used; empty where it can.

    Args:
        min_side: shortest side in pixels that is accepted.
        decode: read the whole image, which finds files that were cut short; False looks at the header alone.
    """
    try:
        data = item.content()
        if not decode or not data:
            size = _header(data, max_pixels)
        else:
            size = _header(data, max_pixels)
            open_image(data, near=(8, 8), max_pixels=max_pixels)
    except DataError as error:
        return str(error).removeprefix(f"{item}: ")
    if min(size) < min_side:
        return f"has {size[0]} × {size[1]} pixels; the shorter side must have {min_side} or more (min_side)"
    return ""


def _header(data: bytes, max_pixels: int) -> tuple[int, int]:
    if not data:
        raise BadImage("is empty")
    try:
        with Image.open(io.BytesIO(data)) as image:
            size = image.size
    except UnidentifiedImageError:
        raise BadImage("is no image that Pillow can read") from None
    except Image.DecompressionBombError:
        raise BadImage(f"has more pixels than the limit of {max_pixels} (max_pixels)") from None
    except Exception as error:
        raise BadImage(f"cannot be decoded: {' '.join(str(error).split()) or type(error).__name__}") from error
    if size[0] * size[1] > max_pixels:
        raise BadImage(f"has {size[0]} × {size[1]} pixels; the limit is {max_pixels} (max_pixels)")
    return size


# -- threads ------------------------------------------------------------------------------------------------------

_POOL: tuple[int, ThreadPoolExecutor] | None = None
"""The decoding threads of this process. A forked process must not use its parent's: they do not live there."""


def in_threads(function: Callable[[_T], _R], items: Iterable[_T]) -> list[_R]:
    """`[function(item) for item in items]` on all cores: Pillow lets go of the interpreter while it decodes.

    In a loader worker there are processes enough, and the items are taken one after the other.
    """
    global _POOL
    given = list(items)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if len(given) < 2 or cores < 2 or _in_worker():
        return [function(item) for item in given]
    if _POOL is None or _POOL[0] != os.getpid():
        _POOL = (os.getpid(), ThreadPoolExecutor(min(cores, 16), thread_name_prefix="gentle-decode"))
    return list(_POOL[1].map(function, given))


def _in_worker() -> bool:
    import sys

    loader = sys.modules.get("torch.utils.data")
    return loader is not None and loader.get_worker_info() is not None
