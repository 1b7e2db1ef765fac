"""Options of the CDConv encoder, its presets, and its parameter count. Nothing here imports torch."""

from __future__ import annotations

import itertools
from typing import Any, Literal

import attrs

Preset = Literal["small", "fold", "reaction", "ec", "go"]

_OFFICIAL: dict[str, Any] = {
    "channels": (256, 512, 1024, 2048),
    "radii": (8.0, 12.0, 16.0, 20.0),
    "blocks": 2,
    "kernel_channels": 24,
    "kernel_size": 21,
    "dropout": 0.2,
    "norm": "batch",
    "frame": "global",
    "noise_channels": 16,
    "position_noise": 0.05,
}

PRESETS: dict[str, dict[str, Any]] = {
    "small": {
        "channels": (32, 64, 128),
        "radii": (8.0, 12.0, 16.0),
        "blocks": 1,
        "kernel_channels": 8,
        "kernel_size": 11,
        "base_width": 32,
        "dropout": 0.1,
        "norm": "batch",
        "frame": "local",
        "noise_channels": 0,
        "position_noise": 0.0,
    },
    "fold": {**_OFFICIAL, "kernel_size": 5, "base_width": 64},
    "reaction": {**_OFFICIAL, "base_width": 32},
    "ec": {**_OFFICIAL, "kernel_channels": 32, "base_width": 16},
    "go": {**_OFFICIAL, "base_width": 32},
}
"""What each preset sets. "small" learns in minutes on a CPU; the others are the published sizes for their tasks."""


def _from_preset(name: str, *validators: Any) -> Any:
    """A field whose default is the preset's value, so that a resolved recipe shows the number that is used."""
    default = attrs.Factory(lambda config: PRESETS.get(config.preset, PRESETS["small"])[name], takes_self=True)
    return attrs.field(default=default, validator=list(validators))


def _positive(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    numbers = value if isinstance(value, tuple) else (value,)
    if not numbers or any(not number > 0 for number in numbers):
        raise ValueError(f"{attribute.name}={value!r}: must be positive")


def _not_negative(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not value >= 0:
        raise ValueError(f"{attribute.name}={value!r}: must not be negative")


def _share(_: Any, attribute: attrs.Attribute[Any], value: float) -> None:
    if not 0 <= value < 1:
        raise ValueError(f"{attribute.name}={value!r}: must lie in [0, 1)")


def _odd(_: Any, attribute: attrs.Attribute[Any], value: int) -> None:
    if not 3 <= value <= 255 or value % 2 == 0:
        raise ValueError(f"{attribute.name}={value!r}: must be odd and between 3 and 255")


def _among(*values: str) -> Any:
    def check(_: Any, attribute: attrs.Attribute[Any], value: str) -> None:
        if value not in values:
            raise ValueError(f"{attribute.name}={value!r}: must be one of {', '.join(values)}")

    return check


@attrs.frozen(kw_only=True)
class CDConvConfig:
    """Options of `protein/cdconv`.

    Attributes:
        preset: where every option that is not given takes its value from.
        channels: output channels of each stage; residues are pooled by two between stages.
        radii: neighbourhood radius of each stage in Å.
        blocks: residual blocks a stage.
        kernel_channels: K, how many continuous kernels an edge has.
        kernel_size: l, taps along the sequence; offsets beyond ±l//2 share the outermost taps.
        base_width: a block of C output channels convolves C * base_width / 64 channels.
        dropout: before each linear map and each convolution.
        norm: "batch" is the published form. "layer" keeps a chain's embedding independent of its batch in training as
            well, so that cutting a batch into chunks changes nothing; but it takes away how much a residue's
            neighbours add up to, and learns markedly less here. In evaluation both are independent.
        neighborhood: "ball", every residue of the chain within the radius, as in the authors' code; or "window",
            which also requires |i - j| <= l // 2, as in the paper's text.
        input: "displacement", Eq. 12 of Gentle-CLIP: a residue is described by the way to its two neighbours, and its
            type reaches the tower by no path; or "residue", CDConv's learned embedding of 21 residue types, for items
            with a `residues` array and for PyG batches.
        frame: in which frame the displacement is written: "local" (invariant to rotation) or "global" (the paper).
        input_channels: width of the embedding of displacement or type.
        noise_channels: width of the noise that Gentle-CLIP puts in place of residue types; 0 for none.
        evaluation_noise: that noise in evaluation: "zero", or "seeded" by the chain's id.
        position_noise: standard deviation in Å of the noise on coordinates in training. Local frames stay clean.
            With it, geometry cannot be cached.
        cache_mib: memory for the geometry of chains that come again, in each process; 0 for none.
    """

    preset: Preset = attrs.field(default="small", validator=_among(*PRESETS))
    channels: tuple[int, ...] = _from_preset("channels", _positive)
    radii: tuple[float, ...] = _from_preset("radii", _positive)
    blocks: int = _from_preset("blocks", _positive)
    kernel_channels: int = _from_preset("kernel_channels", _positive)
    kernel_size: int = _from_preset("kernel_size", _odd)
    base_width: int = _from_preset("base_width", _positive)
    dropout: float = _from_preset("dropout", _share)
    norm: Literal["batch", "layer"] = _from_preset("norm", _among("batch", "layer"))
    neighborhood: Literal["ball", "window"] = attrs.field(default="ball", validator=_among("ball", "window"))
    input: Literal["displacement", "residue"] = attrs.field(
        default="displacement", validator=_among("displacement", "residue")
    )
    frame: Literal["local", "global"] = _from_preset("frame", _among("local", "global"))
    input_channels: int = attrs.field(default=16, validator=_positive)
    noise_channels: int = _from_preset("noise_channels", _not_negative)
    evaluation_noise: Literal["zero", "seeded"] = attrs.field(default="zero", validator=_among("zero", "seeded"))
    position_noise: float = _from_preset("position_noise", _not_negative)
    cache_mib: int = attrs.field(default=512, validator=_not_negative)

    def __attrs_post_init__(self) -> None:
        if len(self.channels) != len(self.radii):
            raise ValueError(
                f"channels has {len(self.channels)} stages but radii has {len(self.radii)}: give one radius a stage"
            )
        thin = [c for c in self.channels if self.width(c) < 1]
        if thin:
            raise ValueError(f"base_width={self.base_width} leaves no channel to convolve in a stage of {thin[0]}")

    def width(self, channels: int) -> int:
        """Channels that the convolution of a block with `channels` outputs works on."""
        return channels * self.base_width // 64

    @property
    def embedding_channels(self) -> int:
        """Channels that enter the first block."""
        return self.input_channels + self.noise_channels


def parameters(config: CDConvConfig) -> int:
    """Number of parameters of the encoder that `config` describes."""
    embedding = (21 if config.input == "residue" else 6 + 1) * config.input_channels
    total, widths = embedding, (config.embedding_channels, *config.channels)
    for before, after in itertools.pairwise(widths):
        for source in (before,) + (after,) * (config.blocks - 1):
            total += _block_parameters(config, source, after)
    return total


def _block_parameters(config: CDConvConfig, source: int, target: int) -> int:
    width, kernels = config.width(target), config.kernel_channels
    norms = 2 * (source + width + width)
    linears = source * width + width * target
    convolution = config.kernel_size * (7 + 1) * kernels + kernels * width * width
    skip = 0 if source == target else 2 * source + source * target
    return norms + linears + convolution + skip
