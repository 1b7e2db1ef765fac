"""The options of the datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import attrs

MAX_PIXELS = 100_000_000

_fraction = [attrs.validators.ge(0.0), attrs.validators.lt(1.0)]
_count = attrs.validators.ge(0)


@attrs.frozen(kw_only=True, slots=False)  # configs combine the two
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


@attrs.frozen(kw_only=True, slots=False)  # configs combine the two
class Fractions:
    """How images are dealt where nothing else says which split they belong to.

    Attributes:
        val_fraction, test_fraction: shares of the images for these splits, by a hash of the image's id.
        split_seed: another number deals the images anew.
    """

    val_fraction: float = attrs.field(default=0.1, validator=_fraction)
    test_fraction: float = attrs.field(default=0.1, validator=_fraction)
    split_seed: int = 0

    def __attrs_post_init__(self) -> None:
        if self.val_fraction + self.test_fraction >= 1:
            raise ValueError(
                f"val_fraction + test_fraction = {self.val_fraction + self.test_fraction:g} leaves nothing to train on"
            )


@attrs.frozen(kw_only=True)
class Flickr8kConfig(ImageChecks, Fractions):
    """Options of `vision-language/flickr8k`.

    Attributes:
        path: folder with the images (in any subfolder) and the caption file: `Flickr8k.token.txt`,
            `results_20130124.token` or Kaggle's `captions.txt` / `results.csv`. The lists `Flickr_8k.trainImages.txt`,
            `….devImages.txt` and `….testImages.txt` beside it are the splits.
        captions: the caption file, where it is another one.
        images: the folder with the images, where it is another one.
    """

    path: Path
    captions: Path | None = None
    images: Path | None = None


@attrs.frozen(kw_only=True)
class CocoConfig(ImageChecks, Fractions):
    """Options of `vision-language/coco-captions`.

    Attributes:
        path: folder with COCO's caption files (`captions_train2017.json`, `captions_val2017.json`, also below
            `annotations/`; or a single `captions.json`) and the images in any subfolder. With several files their
            names say the split; a single one is dealt by a hash.
        captions: one caption file, where it is another one.
        images: the folder with the images, where it is another one.
    """

    path: Path
    captions: Path | None = None
    images: Path | None = None


@attrs.frozen(kw_only=True)
class ImageCaptionsConfig(ImageChecks, Fractions):
    """Options of `vision-language/image-captions`.

    Attributes:
        path: folder with the images, searched with its subfolders.
        captions: the caption file: .csv or .tsv (a caption a row), .jsonl (an object a line), .json (a list of such
            objects, or {"images": […]} with "sentences" as in Karpathy's files), .parquet. An image may have any
            number of captions, in rows of its own or in a list.
        image_key: column or key with the image's name, its path within the folder or in full; found by itself
            where it has one of the usual names (image, file_name, filename, filepath, path).
        caption_key: column or key with the text or list of texts; found by itself where it has one of the usual
            names (caption, captions, text, sentences, raw).
        split_key: column or key with the split's name; "split" where there is one.
        label_key: column or key with a class name, for evaluations; "label" where there is one.
        splits: lists instead: a JSON file {"train": […], "val": […], "test": […]} or a folder with train.txt,
            val.txt, test.txt, of image names.
        lone_images: images of the folder that no caption names become image-only training items.
    """

    path: Path
    captions: Path
    image_key: str = ""
    caption_key: str = ""
    split_key: str = ""
    label_key: str = ""
    splits: Path | None = None
    lone_images: bool = False


@attrs.frozen(kw_only=True)
class WebDatasetConfig(ImageChecks, Fractions):
    """Options of `vision-language/webdataset`.

    Attributes:
        path: a .tar shard, or a folder of them. Members with one name before the first dot are a sample: an image
            (.jpg, .png, .webp, …) with captions (.txt, one a line; .json with "caption" or "captions"; .cls for a
            class name). Shards whose names hold train, val or test are those splits.
    """

    path: Path


@attrs.frozen(kw_only=True)
class CaptionsConfig:
    """Options of `vision-language/captions`: texts without images, all of them training items.

    Attributes:
        path: a file, or a folder of files: .txt (a text a line), .csv, .tsv, .jsonl, .json, .parquet.
        caption_key: column or key with the text or list of texts; found by itself where it has a usual name.
        strict: stop at the first text that cannot be used instead of skipping it.
    """

    path: Path
    caption_key: str = ""
    strict: bool = False


@attrs.frozen(kw_only=True)
class ImagesConfig(ImageChecks):
    """Options of `vision-language/images`: images without texts, all of them training items.

    Attributes:
        path: a folder of images, searched with its subfolders.
    """

    path: Path


@attrs.frozen(kw_only=True)
class OpenMojiConfig(Fractions):
    """Options of `vision-language/openmoji`.

    Attributes:
        size: side of the rendered pictures in pixels.
        aliases: further English names of an emoji are further captions.
    """

    size: int = attrs.field(default=144, validator=[attrs.validators.ge(16), attrs.validators.le(1024)])
    aliases: bool = True
