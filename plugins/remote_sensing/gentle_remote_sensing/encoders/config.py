"""The options of the encoders. Nothing here imports torch."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import attrs


@attrs.frozen(kw_only=True)
class BandsConfig:
    """Options of `remote-sensing/bands`.

    Attributes:
        bands: how many bands an image has.
        rgb: which of them (from 0) are red, green and blue: the pretrained kernels of these colours go there.
        others: what the first layer starts with for the other bands: "mean" of the three colours' kernels, everything
            scaled by 3 / bands so that activations keep their size; "zero", so that the encoder begins as the one for
            colours does.
        scale: the value that counts as 1: 10000 for Sentinel-2 reflectances, 255 for bytes.
        mean, std: of each band after scaling; empty for .5 and .25 of all.
        resolution: side of the square that the model sees, in pixels.
        backbone: which encoder of the vision-language plugin.
        model, revision, path, package: for "hf-image": where the model comes from, as there.
        weights: "required" stops where the backbone's weights are missing, "random" does without.
        pool: for "hf-image": as there.
        train_layers: where the encoder trains: "all", or how many of the last layers.
        architecture, preprocess: for saved models, which bring their weights along.
    """

    bands: int = attrs.field(validator=attrs.validators.ge(1))
    rgb: tuple[int, int, int] = attrs.field(default=(0, 1, 2), converter=tuple)
    others: Literal["mean", "zero"] = "mean"
    scale: float = attrs.field(default=10000.0, validator=attrs.validators.gt(0.0))
    mean: tuple[float, ...] = attrs.field(default=(), converter=tuple)
    std: tuple[float, ...] = attrs.field(default=(), converter=tuple)
    resolution: int = attrs.field(default=64, validator=attrs.validators.ge(8))
    backbone: Literal["efficientnet-lite", "hf-image"] = "efficientnet-lite"
    model: str = ""
    revision: str = "main"
    path: Path | None = None
    package: str = ""
    weights: Literal["required", "random"] = "required"
    pool: Literal["auto", "cls", "mean", "pooler"] = "auto"
    train_layers: int | str = "all"
    architecture: str = ""
    preprocess: str = ""

    def __attrs_post_init__(self) -> None:
        if len(self.rgb) != 3 or len(set(self.rgb)) != 3 or not all(0 <= band < self.bands for band in self.rgb):
            raise ValueError(f"rgb = {list(self.rgb)}: name three different bands from 0 to {self.bands - 1}")
        for name in ("mean", "std"):
            given = getattr(self, name)
            if given and len(given) != self.bands:
                raise ValueError(f"{name} has {len(given)} values for {self.bands} bands")
        if any(value <= 0 for value in self.std):
            raise ValueError("std: deviations are above 0")
        given = [name for name in ("model", "path", "package") if getattr(self, name)]
        if self.backbone == "efficientnet-lite" and given:
            raise ValueError(f"{given[0]} is for backbone = 'hf-image'; efficientnet-lite comes as a package")
        if self.backbone == "hf-image" and len(given) != 1 and not self.architecture:
            raise ValueError("backbone = 'hf-image': give one of model (on the hub), path (a folder) and package")
