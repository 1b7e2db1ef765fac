"""Random changes of images and texts that keep their meaning. All randomness comes from the generators given.

Images are changed after collation, as batches of pixels, row by row independently: each row's choices come from a
generator of its own, so that a row does not depend on its batch (and frozen encoders can keep views of it). The changes
themselves are kornia's, on all rows at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from gentle_core.api import BuildContext
from gentle_vision_language.items import Caption

if TYPE_CHECKING:
    from torch import Tensor

_rate = [attrs.validators.ge(0.0), attrs.validators.le(1.0)]
_strength = [attrs.validators.ge(0.0), attrs.validators.le(1.0)]


@attrs.frozen(kw_only=True)
class SimClrConfig:
    """Options of `vision-language/simclr`.

    Attributes:
        crop: smallest share of the picture's area that a crop keeps; 1 for no crop.
        ratio: crops are between 1/ratio and ratio times as wide as high.
        flip: chance of a horizontal flip.
        jitter: chance of a change of colours.
        brightness, contrast, saturation: a factor is drawn between 1 − x and 1 + x.
        hue: largest turn of the hue, as a share of the circle.
        grey: chance of losing the colours.
        blur: chance of a Gaussian blur, of .1 to 2 pixels for a side of 224 pixels and in proportion.
    """

    crop: float = attrs.field(default=0.2, validator=[attrs.validators.gt(0.0), attrs.validators.le(1.0)])
    ratio: float = attrs.field(default=4 / 3, validator=attrs.validators.ge(1.0))
    flip: float = attrs.field(default=0.5, validator=_rate)
    jitter: float = attrs.field(default=0.8, validator=_rate)
    brightness: float = attrs.field(default=0.4, validator=_strength)
    contrast: float = attrs.field(default=0.4, validator=_strength)
    saturation: float = attrs.field(default=0.4, validator=_strength)
    hue: float = attrs.field(default=0.1, validator=[attrs.validators.ge(0.0), attrs.validators.le(0.5)])
    grey: float = attrs.field(default=0.2, validator=_rate)
    blur: float = attrs.field(default=0.5, validator=_rate)


@attrs.frozen(kw_only=True)
class WordDropoutConfig:
    """`p`: chance of each word to be left out; at least one stays."""

    p: float = attrs.field(default=0.1, validator=_rate)


@attrs.frozen(kw_only=True)
class OtherCaptionConfig:
    """`p`: chance that another caption of the same image takes a caption's place."""

    p: float = attrs.field(default=0.5, validator=_rate)


@attrs.frozen
class Choices:
    """What happens to one row; drawn in one order, whatever is switched on, so that options do not move one another.

    Attributes:
        box: (left, top, width, height) of the crop, as shares of the picture.
    """

    box: tuple[float, float, float, float]
    flip: bool
    brightness: float
    contrast: float
    saturation: float
    hue: float
    grey: bool
    sigma: float

    @classmethod
    def draw(cls, config: SimClrConfig, rng: np.random.Generator) -> Choices:
        """Thirteen draws."""
        d = rng.random(13)
        area = config.crop + (1 - config.crop) * d[0]
        stretch = config.ratio ** (2 * d[1] - 1)  # width over height, evenly in its logarithm
        width, height = min((area * stretch) ** 0.5, 1.0), min((area / stretch) ** 0.5, 1.0)
        if config.crop == 1:
            width = height = 1.0
        colours = d[5] < config.jitter
        around = [1 + x * (2 * u - 1) if colours else 1.0 for x, u in
                  ((config.brightness, d[6]), (config.contrast, d[7]), (config.saturation, d[8]))]  # fmt: skip
        return cls(
            box=((1 - width) * d[2], (1 - height) * d[3], width, height),
            flip=bool(d[4] < config.flip),
            brightness=around[0], contrast=around[1], saturation=around[2],
            hue=config.hue * (2 * d[9] - 1) if colours else 0.0,
            grey=bool(d[10] < config.grey),
            sigma=(0.1 + 1.9 * d[12]) / 224 if d[11] < config.blur else 0.0,
        )  # fmt: skip


class SimClr:
    """Crop, flip, colour jitter, grey and blur (Chen et al. 2020, appendix A) on `{"pixels": (B, 3, H, W)}`."""

    def __init__(self, config: SimClrConfig):
        self.config = config

    def __call__(self, inputs: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        seeds = rng.integers(2**63, size=len(inputs["pixels"])).tolist()
        return self.by_row(inputs, [np.random.Generator(np.random.Philox(key=seed)) for seed in seeds])

    def by_row(self, inputs: Mapping[str, Any], rngs: Sequence[np.random.Generator]) -> dict[str, Any]:
        """The inputs with other pixels, floating point between 0 and 1."""
        choices = [Choices.draw(self.config, rng) for rng in rngs]
        return {**inputs, "pixels": self._apply(inputs["pixels"], choices)}

    def _apply(self, pixels: Tensor, choices: Sequence[Choices]) -> Tensor:
        import torch

        x = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels
        x = _cropped(x, choices)
        for what in ("brightness", "contrast", "saturation", "hue"):
            x = _coloured(x, what, x.new_tensor([getattr(c, what) for c in choices]))
        return _blurred(_greyed(x, choices), choices)


def _cropped(x: Tensor, choices: Sequence[Choices]) -> Tensor:
    """Crop and flip in one bilinear sampling; crops are only ever enlarged, so nothing is skipped over."""
    import torch
    from torch.nn import functional as F

    rows = []
    for c in choices:
        left, top, width, height = c.box
        # Output coordinates −1 … 1 to the box, in the coordinates of the input.
        sign = -1.0 if c.flip else 1.0
        rows.append([[sign * width, 0.0, 2 * left + width - 1], [0.0, height, 2 * top + height - 1]])
    grid = F.affine_grid(torch.tensor(rows, dtype=x.dtype, device=x.device), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _coloured(x: Tensor, what: str, amount: Tensor) -> Tensor:
    """Brightness, contrast, saturation (factors) or hue (a share of the circle) of each row."""
    import math

    from kornia import enhance

    neutral = 0.0 if what == "hue" else 1.0
    rows = (amount != neutral).nonzero().flatten()
    if not len(rows):
        return x
    part, factor = x[rows], amount[rows]
    if what == "brightness":
        changed = part * factor.view(-1, 1, 1, 1)
    elif what == "contrast":
        changed = enhance.adjust_contrast_with_mean_subtraction(part, factor)
    elif what == "saturation":
        changed = enhance.adjust_saturation_with_gray_subtraction(part, factor)
    else:
        changed = enhance.adjust_hue(part, factor * 2 * math.pi)
    return x.index_copy(0, rows, changed.clamp(0, 1))


def _greyed(x: Tensor, choices: Sequence[Choices]) -> Tensor:
    from kornia.color import rgb_to_grayscale

    rows = x.new_tensor([i for i, c in enumerate(choices) if c.grey]).long()
    return x.index_copy(0, rows, rgb_to_grayscale(x[rows]).expand(-1, 3, -1, -1)) if len(rows) else x


def _blurred(x: Tensor, choices: Sequence[Choices]) -> Tensor:
    from kornia.filters import gaussian_blur2d

    rows = x.new_tensor([i for i, c in enumerate(choices) if c.sigma]).long()
    if not len(rows):
        return x
    side = min(x.shape[-2:])
    sigma = x.new_tensor([c.sigma for c in choices if c.sigma])[:, None].expand(-1, 2) * side
    size = 2 * max(round(side * 2 / 224 * 3), 1) + 1  # three deviations of the widest blur
    return x.index_copy(0, rows, gaussian_blur2d(x[rows], (size, size), sigma).clamp(0, 1))


def _like(item: str, text: str) -> str:
    """A changed caption still knows the other ones of its image."""
    return Caption(text, item.others) if isinstance(item, Caption) else text


@attrs.frozen
class WordDropout:
    """Leaves words out."""

    p: float

    def __call__(self, item: str, rng: np.random.Generator) -> str:
        words = item.split()
        keep = rng.random(len(words)) >= self.p
        if words and not keep.any():
            keep[int(rng.integers(len(words)))] = True
        return _like(item, " ".join(word for word, kept in zip(words, keep, strict=True) if kept))


@attrs.frozen
class OtherCaption:
    """Another caption of the same image, where the text knows of any."""

    p: float

    def __call__(self, item: str, rng: np.random.Generator) -> str:
        chance, place = rng.random(2)
        others = getattr(item, "others", ())
        if not others or chance >= self.p:
            return item
        k = int(place * len(others))
        return Caption(others[k], (*others[:k], str(item), *others[k + 1 :]))


def build_simclr(config: SimClrConfig, context: BuildContext) -> SimClr:
    return SimClr(config)


def build_word_dropout(config: WordDropoutConfig, context: BuildContext) -> WordDropout:
    return WordDropout(config.p)


def build_other_caption(config: OtherCaptionConfig, context: BuildContext) -> OtherCaption:
    return OtherCaption(config.p)
