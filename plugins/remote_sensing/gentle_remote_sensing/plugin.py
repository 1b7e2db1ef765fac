"""What the plugin brings, in Gentle's own words. It loads neither torch nor an image library."""

from __future__ import annotations

from gentle_core.api import LossSpec, ModalitySpec, hookimpl
from gentle_remote_sensing.losses import config as losses

SCENE, TEXT = "aerial-image", "text"

_S_CLIP = "Mo et al. S-CLIP: Semi-supervised vision-language learning using few specialist captions. NeurIPS 2023"


@hookimpl
def gentle_modalities() -> list[ModalitySpec]:
    return [
        ModalitySpec(
            name=SCENE,
            summary="Overhead scenes: photographs from above, without an upright side",
            reads_as=("image",),
        )
    ]


@hookimpl
def gentle_losses() -> list[LossSpec]:
    return [
        LossSpec(
            name="caption-labels",
            config=losses.CaptionConfig,
            target="gentle_remote_sensing.losses.captions:build",
            needs={"pairs", "unpaired"},
            scope="rows",
            summary="S-CLIP: captions of similar images as pseudo-labels of those without (hard, soft or transport)",
            citation=_S_CLIP,
        ),
        LossSpec(
            name="keyword-labels",
            config=losses.KeywordConfig,
            target="gentle_remote_sensing.losses.keywords:build",
            needs={"pairs", "unpaired", "labels"},
            scope="rows",
            summary="S-CLIP: keywords of the most similar image's caption as candidates for images without one",
            citation=_S_CLIP,
        ),
    ]
