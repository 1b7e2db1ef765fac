"""What the plugin's tests share: made-up pictures, small random models on disk as the hub lays them out, real data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from gentle_core.testing.fixtures import context, notices, real_data

__all__ = ["context", "notices", "real_data"]


@pytest.fixture
def picture() -> Callable[..., Image.Image]:
    """picture(seed, width, height): a smooth random picture, which a JPEG keeps well."""

    def make(seed: int = 0, width: int = 48, height: int = 36) -> Image.Image:
        coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
        return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)

    return make


@pytest.fixture
def flickr_folder(tmp_path: Path, picture) -> Path:
    """Nine images with five captions each in Flickr8k's layout, with its split lists (6 / 2 / 1)."""
    folder = tmp_path / "Flickr8k"
    (folder / "Flicker8k_Dataset").mkdir(parents=True)
    names = [f"{i:04d}_abc.jpg" for i in range(9)]
    for i, name in enumerate(names):
        picture(i).save(folder / "Flicker8k_Dataset" / name, quality=90)
    lines = [f"{name}#{k}\tcaption {k}, of image {i} ." for i, name in enumerate(names) for k in range(5)]
    (folder / "Flickr8k.token.txt").write_text("\n".join(lines) + "\n")
    for split, part in (("train", names[:6]), ("dev", names[6:8]), ("test", names[8:])):
        (folder / f"Flickr_8k.{split}Images.txt").write_text("\n".join(part) + "\n")
    return folder


# -- small random models of every family ----------------------------------------------------------------------------

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "dog", "cat", "runs", "sleeps", "red", "car", "on", "the", "street"]
PAD, UNK, CLS, SEP = range(4)

_VISION = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2,
           "image_size": 32, "patch_size": 8}  # fmt: skip
_TEXT = {"vocab_size": len(WORDS), "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3,
         "num_attention_heads": 2, "max_position_embeddings": 20, "pad_token_id": PAD, "bos_token_id": CLS,
         "eos_token_id": SEP}  # fmt: skip
_SQUARE = {"do_resize": True, "size": {"height": 32, "width": 32}, "resample": 2, "do_normalize": True,
           "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
           "image_processor_type": "ViTImageProcessor"}  # fmt: skip
_CROP = {"do_resize": True, "size": {"shortest_edge": 32}, "do_center_crop": True,
         "crop_size": {"height": 32, "width": 32}, "resample": 3, "image_mean": [0.48145466, 0.4578275, 0.40821073],
         "image_std": [0.26862954, 0.26130258, 0.27577711], "image_processor_type": "CLIPImageProcessor"}  # fmt: skip
_PCT = {"do_resize": True, "size": {"shortest_edge": 32}, "crop_pct": 0.875, "resample": 3,
        "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225],
        "image_processor_type": "ConvNextImageProcessor"}  # fmt: skip


def _clip() -> Any:
    return hf.CLIPModel(hf.CLIPConfig(text_config=_TEXT, vision_config=_VISION, projection_dim=12))


def _siglip() -> Any:
    return hf.SiglipModel(hf.SiglipConfig(text_config=_TEXT, vision_config=_VISION))


MODELS: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "resnet": (
        lambda: hf.ResNetModel(
            hf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
        ),
        _PCT,
    ),
    "convnext": (lambda: hf.ConvNextModel(hf.ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2)), _PCT),
    "vit": (lambda: hf.ViTForImageClassification(hf.ViTConfig(**_VISION)), _SQUARE),
    "dinov2": (
        lambda: hf.Dinov2Model(
            hf.Dinov2Config(hidden_size=16, num_hidden_layers=3, num_attention_heads=2, image_size=32, patch_size=8)
        ),
        _CROP,
    ),
    "clip": (_clip, _CROP),
    "siglip": (_siglip, _SQUARE | {"image_processor_type": "SiglipImageProcessor"}),
    "bert": (lambda: hf.BertModel(hf.BertConfig(**_TEXT)), {}),
    "roberta": (lambda: hf.RobertaModel(hf.RobertaConfig(**_TEXT | {"max_position_embeddings": 22}))
                , {}),
}  # fmt: skip


def tokenizer() -> Tokenizer:
    """Words in lower case between [CLS] and [SEP]."""
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    return made


@pytest.fixture
def model_folder(tmp_path: Path) -> Callable[[str], Path]:
    """model_folder(kind): a small random model of this family on disk, with tokenizer and image processor."""

    def make(kind: str) -> Path:
        folder = tmp_path / kind
        build, image_settings = MODELS[kind]
        torch.manual_seed(0)
        build().save_pretrained(folder)
        if image_settings:
            (folder / "preprocessor_config.json").write_text(json.dumps(image_settings))
        if kind in ("clip", "siglip", "bert", "roberta"):
            fast = hf.PreTrainedTokenizerFast(
                tokenizer_object=tokenizer(), pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
                sep_token="[SEP]", model_max_length=20,
            )  # fmt: skip
            fast.save_pretrained(folder)
        (folder / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\n# A model\n")
        return folder

    return make
