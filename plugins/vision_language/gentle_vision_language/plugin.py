"""What the plugin brings, in Gentle's own words. It loads neither torch nor transformers."""

from __future__ import annotations

from gentle_core.api import DatasetSpec, ModalitySpec, hookimpl
from gentle_vision_language.datasets import config as datasets
from gentle_vision_language.items import IMAGE, TEXT

BOTH = (IMAGE, TEXT)


@hookimpl
def gentle_modalities() -> list[ModalitySpec]:
    return [
        ModalitySpec(name=IMAGE, summary="A picture: a file, encoded bytes or an array (gentle_vision_language.items)"),
        ModalitySpec(name=TEXT, summary="A caption, sentence or name (str)"),
    ]


@hookimpl
def gentle_datasets() -> list[DatasetSpec]:
    return [
        DatasetSpec(
            name="flickr8k",
            modalities=BOTH,
            config=datasets.Flickr8kConfig,
            target="gentle_vision_language.datasets.flickr8k:build",
            summary="Flickr8k (or Flickr30k) as it is distributed: token file or Kaggle's captions.txt, split lists",
            citation="Hodosh et al. Framing Image Description as a Ranking Task. JAIR 47, 2013",
        ),
    ]
