"""The options of the datasets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import attrs

from gentle_vision_language.datasets.config import ImageChecks


@attrs.frozen(kw_only=True)
class SceneChecks(ImageChecks):
    """What all datasets of scenes share.

    Attributes:
        multispectral: the images are GeoTIFF files with any number of bands, read through rasterio (the extra
            `geotiff`), and served as `multispectral-image` instead of `aerial-image`.
    """

    multispectral: bool = False


@attrs.frozen(kw_only=True)
class CaptionsConfig(SceneChecks):
    """What the caption datasets share.

    Attributes:
        keywords: words that make up the labels of the captions, for `remote-sensing/keyword-labels`; empty for the
            names of the scene classes of RSICD, UCM and Sydney.
    """

    keywords: tuple[str, ...] = attrs.field(default=(), converter=tuple)


@attrs.frozen(kw_only=True)
class KarpathyConfig(CaptionsConfig):
    """Options of `remote-sensing/rsicd`, `remote-sensing/ucm-captions` and `remote-sensing/sydney-captions`.

    Attributes:
        path: folder with the JSON of captions and, in any subfolder, the images.
        captions: the JSON, where it is not `dataset_<name>.json` or `dataset.json`.
        images: the folder of the images, where it is another one.
    """

    path: Path
    captions: Path | None = None
    images: Path | None = None


@attrs.frozen(kw_only=True)
class UnionConfig(CaptionsConfig):
    """Options of `remote-sensing/union`: the datasets that are there, one beside the other.

    Attributes:
        path: folder in which `RSICD`, `UCM_captions` and `Sydney_captions` lie, by their usual names.
        rsicd, ucm, sydney: the folder of one of them, where it lies elsewhere.
    """

    path: Path
    rsicd: Path | None = None
    ucm: Path | None = None
    sydney: Path | None = None


@attrs.frozen(kw_only=True)
class SceneFolderConfig(SceneChecks):
    """Options of `remote-sensing/scene-folder`.

    Attributes:
        path: a folder with one subfolder of images a class, or with `train`, `val` and `test` that have these.
        names: what to call classes in a text, by folder name, where the clean-up is not right
            (`{ bareland = "bare ground" }`).
        templates: sentences for zero-shot classification, {} standing for the class.
    """

    path: Path
    names: Mapping[str, str] = attrs.field(factory=dict)
    templates: tuple[str, ...] = attrs.field(default=("an aerial photograph of {}.",), converter=tuple)


@attrs.frozen(kw_only=True)
class ScenesConfig(SceneChecks):
    """Options of `remote-sensing/scenes`.

    Attributes:
        path: a folder of images, in any subfolders.
    """

    path: Path
