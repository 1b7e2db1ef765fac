"""The options of the losses."""

from __future__ import annotations

from typing import Literal

import attrs

_positive = attrs.validators.gt(0.0)


@attrs.frozen(kw_only=True)
class PseudoConfig:
    """What both losses share.

    Attributes:
        queries: towers whose unmatched rows are given pseudo-labels; empty for every tower. S-CLIP: the image tower.
        temperature: τ at the start; logits are cosines over τ.
        learn_temperature: learn τ along with the model.
        max_scale: largest 1/τ.
    """

    queries: tuple[str, ...] = ()
    temperature: float = attrs.field(default=0.07, validator=_positive)
    learn_temperature: bool = True
    max_scale: float = attrs.field(default=100.0, validator=_positive)


@attrs.frozen(kw_only=True)
class CaptionConfig(PseudoConfig):
    """Options of `remote-sensing/caption-labels`.

    Attributes:
        assign: how captions of the batch are assigned to an image without one, by its similarity to the images that
            have one. "transport": an entropic optimal-transport plan, which uses all captions equally often (S-CLIP);
            "soft": a softmax over similarities (Soft-PL); "hard": the most similar one (Hard-PL).
        label_temperature: τ of the softmax of "soft".
        blur: weight of the entropy in "transport"; costs are 1 − cosine, so they lie in 0 … 2.
        iterations: most Sinkhorn iterations of "transport".
    """

    assign: Literal["transport", "soft", "hard"] = "transport"
    label_temperature: float = attrs.field(default=0.07, validator=_positive)
    blur: float = attrs.field(default=0.05, validator=_positive)
    iterations: int = attrs.field(default=200, validator=attrs.validators.ge(1))


@attrs.frozen(kw_only=True)
class KeywordConfig(PseudoConfig):
    """Options of `remote-sensing/keyword-labels`."""
