"""The options of the datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import attrs

MAX_PIXELS = 100_000_000

_fraction = [attrs.validators.ge(0.0), attrs.validators.lt(1.0)]
_count = attrs.validators.ge(0)


@attrs.frozen(kw_only=True)
class ImageChecks:
    """What every dataset with image files takes.

    Attributes:
        check: "decode" reads every image once before training (the result is kept for later runs) and finds files
            that were cut short; "header" looks at the first bytes alone.
        min_side: images whose shorter side has fewer pixels are skipped.
        max_pixels: images with more pixels are skipped: a few kilobytes can decode to gigabytes.
        strict: stop at the first image or caption that cannot be used instead of skipping it.
    """

    check: Literal["decode", "header"] = "decode"
    min_side: int = attrs.field(default=8, validator=attrs.validators.ge(1))
    max_pixels: int = attrs.field(
        default=MAX_PIXELS, validator=[attrs.validators.ge(1), attrs.validators.le(178_956_970)]
    )
    strict: bool = False


@attrs.frozen(kw_only=True)
class Flickr8kConfig(ImageChecks):
    """Options of `vision-language/flickr8k`.

    Attributes:
        path: folder with the images (in any subfolder) and the caption file: `Flickr8k.token.txt`,
            `results_20130124.token` or Kaggle's `captions.txt` / `results.csv`. The lists `Flickr_8k.trainImages.txt`,
            `….devImages.txt` and `….testImages.txt` beside it are the splits.
        captions: the caption file, where it is another one.
        images: the folder with the images, where it is another one.
        val_fraction, test_fraction: shares of the images for these splits where there are no lists.
        split_seed: another number deals the images anew.
    """

    path: Path
    captions: Path | None = None
    images: Path | None = None
    val_fraction: float = attrs.field(default=0.1, validator=_fraction)
    test_fraction: float = attrs.field(default=0.1, validator=_fraction)
    split_seed: int = 0
