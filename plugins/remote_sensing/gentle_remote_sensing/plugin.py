"""What the plugin brings, in Gentle's own words. It loads neither torch nor an image library."""

from __future__ import annotations

from gentle_core.api import AugmentationSpec, DatasetSpec, EncoderSpec, LossSpec, ModalitySpec, hookimpl
from gentle_remote_sensing import augment
from gentle_remote_sensing.datasets import config as datasets
from gentle_remote_sensing.encoders import config as encoders
from gentle_remote_sensing.losses import config as losses

SCENE, BANDS, TEXT = "aerial-image", "multispectral-image", "text"

_S_CLIP = "Mo et al. S-CLIP: Semi-supervised vision-language learning using few specialist captions. NeurIPS 2023"


@hookimpl
def gentle_modalities() -> list[ModalitySpec]:
    return [
        ModalitySpec(
            name=SCENE,
            summary="Overhead scenes: photographs from above, without an upright side",
            reads_as=("image",),
            samples="gentle_remote_sensing.samples:scenes",
        ),
        ModalitySpec(
            name=BANDS,
            summary="Overhead images with any number of bands (gentle_remote_sensing.bands)",
            samples="gentle_remote_sensing.samples:bands",
        ),
    ]


_QU = "Qu et al. Deep semantic understanding of high resolution remote sensing image. CITS 2016"
_BOTH = (SCENE, BANDS, TEXT)
_EITHER = {"index": "images are served as multispectral-image instead of aerial-image where multispectral = true"}


@hookimpl
def gentle_datasets() -> list[DatasetSpec]:
    return [
        DatasetSpec(
            name="rsicd",
            modalities=_BOTH,
            config=datasets.KarpathyConfig,
            target="gentle_remote_sensing.datasets.karpathy:build_rsicd",
            example="gentle_remote_sensing.samples:captions",
            deviations=_EITHER,
            summary="RSICD: scenes with five captions each (dataset_rsicd.json and RSICD_images)",
            citation="Lu et al. Exploring models and data for remote sensing image caption generation. TGRS 56, 2017",
        ),
        DatasetSpec(
            name="ucm-captions",
            modalities=_BOTH,
            config=datasets.KarpathyConfig,
            target="gentle_remote_sensing.datasets.karpathy:build_ucm",
            example="gentle_remote_sensing.samples:captions",
            deviations=_EITHER,
            summary="UCM-captions: UC Merced's scenes with five captions each (dataset.json and imgs)",
            citation=_QU,
        ),
        DatasetSpec(
            name="sydney-captions",
            modalities=_BOTH,
            config=datasets.KarpathyConfig,
            target="gentle_remote_sensing.datasets.karpathy:build_sydney",
            example="gentle_remote_sensing.samples:captions",
            deviations=_EITHER,
            summary="Sydney-captions: scenes of Sydney with five captions each (dataset.json and imgs)",
            citation=_QU,
        ),
        DatasetSpec(
            name="union",
            modalities=_BOTH,
            config=datasets.UnionConfig,
            target="gentle_remote_sensing.datasets.karpathy:build_union",
            example="gentle_remote_sensing.samples:union",
            deviations=_EITHER,
            summary="RSICD, UCM-captions and Sydney-captions together, as in S-CLIP; whatever of them is there",
            citation=_S_CLIP,
        ),
        DatasetSpec(
            name="scene-folder",
            modalities=(SCENE, BANDS),
            labelled=True,
            config=datasets.SceneFolderConfig,
            target="gentle_remote_sensing.datasets.folder:build",
            example="gentle_remote_sensing.samples:classes",
            deviations=_EITHER,
            summary="Labelled scenes, a folder a class: UCM, WHU-RS19, RSSCN7, AID, RESISC45 and the like",
        ),
        DatasetSpec(
            name="scenes",
            modalities=(SCENE, BANDS),
            config=datasets.ScenesConfig,
            target="gentle_remote_sensing.datasets.folder:build_scenes",
            example="gentle_remote_sensing.samples:classes",
            deviations=_EITHER,
            summary="Scenes without captions, as a further source of unmatched items",
        ),
    ]


@hookimpl
def gentle_encoders() -> list[EncoderSpec]:
    return [
        EncoderSpec(
            name="bands",
            modality=BANDS,
            config=encoders.BandsConfig,
            target="gentle_remote_sensing.encoders.bands:build",
            example="gentle_remote_sensing.samples:small_encoder",
            summary="An image encoder of the vision-language plugin whose first layer reads any number of bands",
        ),
    ]


@hookimpl
def gentle_augmentations() -> list[AugmentationSpec]:
    return [
        AugmentationSpec(
            name="right-angles",
            modalities=(SCENE, BANDS),
            stage="batch",
            config=augment.RightAnglesConfig,
            target="gentle_remote_sensing.augment:build_right_angles",
            summary="Turns by right angles and mirror images: overhead scenes have no upright side",
        ),
    ]


@hookimpl
def gentle_losses() -> list[LossSpec]:
    return [
        LossSpec(
            name="caption-labels",
            config=losses.CaptionConfig,
            target="gentle_remote_sensing.losses.captions:build",
            needs={"pairs", "unpaired"},
            scope="global",
            summary="S-CLIP: captions of similar images as pseudo-labels of those without (hard, soft or transport)",
            citation=_S_CLIP,
        ),
        LossSpec(
            name="keyword-labels",
            config=losses.KeywordConfig,
            target="gentle_remote_sensing.losses.keywords:build",
            needs={"pairs", "unpaired", "labels"},
            scope="global",
            summary="S-CLIP: keywords of the most similar image's caption as candidates for images without one",
            citation=_S_CLIP,
        ),
    ]
