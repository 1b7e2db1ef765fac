"""Changes of overhead images that keep their meaning: from above there is no upright side."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np

from gentle_core.api import Augmentation, BuildContext, DataError


@attrs.frozen(kw_only=True)
class RightAnglesConfig:
    """Options of `remote-sensing/right-angles`.

    Attributes:
        turns: by 0, 90, 180 or 270 degrees, each with equal chance; of images that are not square, by 0 or 180.
        flips: mirror one image in two.
    """

    turns: bool = True
    flips: bool = True


@attrs.frozen
class RightAngles:
    """Turns and mirrors each image of a batch by itself; no pixel is interpolated or lost."""

    config: RightAnglesConfig

    def __call__(self, item: Any, rng: np.random.Generator) -> Any:
        import torch

        if not isinstance(item, dict) or getattr(item.get("pixels"), "ndim", 0) != 4:
            raise DataError('right-angles changes {"pixels": (B, C, H, W)}, as the image encoders collate it')
        pixels = item["pixels"]
        square = pixels.shape[2] == pixels.shape[3]
        # Two draws an image, whatever the options, so that one option does not move the draws of the other.
        draws = rng.random((2, len(pixels)))
        quarters = (draws[0] * 4).astype(int) if square else 2 * (draws[0] * 2).astype(int)
        quarters = quarters if self.config.turns else np.zeros_like(quarters)
        mirrored = (draws[1] < 0.5) & self.config.flips
        changed = pixels.clone()
        for turn in range(4):
            for flip in (False, True):
                rows = torch.from_numpy(np.flatnonzero((quarters == turn) & (mirrored == flip))).to(pixels.device)
                if not len(rows) or (turn == 0 and not flip):
                    continue
                part = torch.rot90(pixels[rows], turn, (2, 3))
                changed[rows] = part.flip(3) if flip else part
        return {**item, "pixels": changed}


def build_right_angles(config: RightAnglesConfig, context: BuildContext) -> Augmentation:
    return RightAngles(config)
