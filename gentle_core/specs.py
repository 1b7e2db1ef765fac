"""The frozen descriptions by which plugins announce what they bring.

A spec is all that Gentle knows of a component before it is built. Nothing here imports torch: the code behind a
component is named by `target` ("package.module:factory") and imported only when a run builds it.
Every factory is called as `factory(config, context)` with the parsed options and a `BuildContext`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import attrs

GENTLE_API = 1
"""Version of the plugin interface. A spec with a larger `api` comes from a plugin made for a newer Gentle."""
OLDEST_API = 1
"""The oldest version whose plugins this Gentle reads; see docs/reference/stability.md."""

_NAME = re.compile(r"[a-z0-9]+(?:[-_.][a-z0-9]+)*")
_TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")

Scope = Literal["rows", "pairs", "moments", "global"]
Need = Literal[
    "pairs", "unpaired", "views", "raw", "tokens", "coordinates", "labels", "groups",
    "soft_targets", "index", "reference", "ema", "queue", "pseudo",
]  # fmt: skip


@attrs.frozen
class NoOptions:
    """The config class of a component that takes no options."""


def _names(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(values)


def _needs(values: Iterable[Need]) -> frozenset[Need]:
    return frozenset(values)


def _valid_name(_: Any, attribute: attrs.Attribute[str], value: str) -> None:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ValueError(
            f"{attribute.name}={value!r}: use lower-case letters, digits, and single '-', '_' or '.' between"
        )


def _valid_names(instance: Any, attribute: attrs.Attribute[Any], value: tuple[str, ...]) -> None:
    for name in value:
        _valid_name(instance, attribute, name)


def _valid_target(_: Any, attribute: attrs.Attribute[str], value: str) -> None:
    if not _TARGET.fullmatch(value):
        raise ValueError(f"{attribute.name}={value!r}: write it as 'package.module:factory'")


def _valid_target_or_none(_: Any, attribute: attrs.Attribute[str], value: str) -> None:
    if value != "":
        _valid_target(None, attribute, value)


def _valid_example(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if isinstance(value, str):
        _valid_target(None, attribute, value)
    elif value is not None and not isinstance(value, Mapping):
        raise ValueError(f"{attribute.name}={value!r}: give a table of options, or 'package.module:function'")


def _valid_config(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not (isinstance(value, type) and attrs.has(value)):
        raise ValueError(f"{attribute.name}={value!r}: give an attrs class whose fields are the component's options")


@attrs.frozen(kw_only=True)
class ComponentSpec:
    """What all components have in common.

    Attributes:
        name: short name, unique among the owner's components of this kind; recipes write `owner/name`.
        target: "package.module:factory", imported when the component is built.
        summary: one line for `gentle plugins list`.
        config: attrs class of the options. It must import quickly and without torch.
        requires: distributions that the component needs beyond its own package's dependencies.
        licence: SPDX expression of the code or weights behind it.
        citation: what to cite when it is used.
        api: the plugin interface it was written for.
        example: options with which the conformance kit can build it without a network: a table, or
            "package.module:function", which is given an empty folder, may write small files there, and returns the
            table. None where the defaults do.
        deviations: checks of the conformance kit that it is known to fail, each with the reason.
    """

    name: str = attrs.field(validator=_valid_name)
    target: str = attrs.field(validator=_valid_target)
    summary: str
    config: type = attrs.field(default=NoOptions, validator=_valid_config)
    requires: tuple[str, ...] = attrs.field(default=(), converter=_names)
    licence: str = ""
    citation: str = ""
    api: int = GENTLE_API
    example: Mapping[str, Any] | str | None = attrs.field(default=None, validator=_valid_example, hash=False)
    deviations: Mapping[str, str] = attrs.field(factory=dict, hash=False)


@attrs.frozen(kw_only=True)
class ModalitySpec:
    """A kind of data.

    Attributes:
        reads_as: more general modalities whose encoders and augmentations accept it too.
        samples: "package.module:function" that returns a few raw items, of different sizes, for the conformance kit.
            Empty where a dataset of the plugin provides them.
    """

    name: str = attrs.field(validator=_valid_name)
    summary: str
    reads_as: tuple[str, ...] = attrs.field(default=(), converter=_names, validator=_valid_names)
    samples: str = attrs.field(default="", validator=_valid_target_or_none)
    api: int = GENTLE_API


@attrs.frozen(kw_only=True)
class EncoderSpec(ComponentSpec):
    """An encoder; its factory returns an `Encoder`.

    Attributes:
        modality: the modality it reads.
        parameters: import-light function from a config to the parameter count (None where it cannot be known
            without loading weights), for `gentle check`.
    """

    modality: str = attrs.field(validator=_valid_name)
    parameters: Callable[[Any], int | None] | None = None


@attrs.frozen(kw_only=True)
class AugmentationSpec(ComponentSpec):
    """An augmentation; its factory returns an `Augmentation`.

    Attributes:
        modalities: the modalities it acts on. With the same augmentation on several towers the random draws of one
            sample agree (its stream depends on sample, step and view, not on the tower), so a crop cuts both alike.
        stage: "item" acts on single raw items before collation, "batch" on collated tensors on the device.
    """

    modalities: tuple[str, ...] = attrs.field(converter=_names, validator=[attrs.validators.min_len(1), _valid_names])
    stage: Literal["item", "batch"] = attrs.field(default="item", validator=attrs.validators.in_(("item", "batch")))


@attrs.frozen(kw_only=True)
class LossSpec(ComponentSpec):
    """A loss; its factory returns a `Loss`.

    Attributes:
        needs: what must be in the batch; checked before training.
        scope: "rows" (running log-sum-exp over columns), "pairs" (a sum over cells), "moments" (d × d statistics) or
            "global" (whole sets). It decides tiling and what is gathered across ranks.
        min_modalities, max_modalities: how many towers it can align (None: no limit).
        unit: True when it wants L2-normalised rows, False for raw projections.
        same_dimension: whether all towers must project to one dimension.
        modalities: the modalities it is made for; empty for any.
    """

    needs: frozenset[Need] = attrs.field(default=frozenset(), converter=_needs)
    scope: Scope = attrs.field(default="global", validator=attrs.validators.in_(("rows", "pairs", "moments", "global")))
    min_modalities: int = 2
    max_modalities: int | None = None
    unit: bool = True
    same_dimension: bool = True
    modalities: tuple[str, ...] = attrs.field(default=(), converter=_names, validator=_valid_names)


@attrs.frozen(kw_only=True)
class DatasetSpec(ComponentSpec):
    """A dataset; its factory returns a `Dataset`.

    Attributes:
        modalities: those it yields.
        labelled: it reads a folder (option `path`) of items with an attribute "label", the name of a class: what
            `gentle eval --data FOLDER` looks for.
    """

    modalities: tuple[str, ...] = attrs.field(converter=_names, validator=[attrs.validators.min_len(1), _valid_names])
    labelled: bool = False


@attrs.frozen(kw_only=True)
class TaskSpec(ComponentSpec):
    """A downstream evaluation for `gentle eval`; its factory returns a `Task`. `modalities` are those it reads; empty
    for any."""

    modalities: tuple[str, ...] = attrs.field(default=(), converter=_names, validator=_valid_names)


@attrs.frozen(kw_only=True)
class HealthCheck:
    """A check for `gentle doctor`; recipes do not name it.

    Attributes:
        target: "package.module:function", called with a `HealthContext`; gives `Finding` objects.
    """

    name: str = attrs.field(validator=_valid_name)
    target: str = attrs.field(validator=_valid_target)
    summary: str
    api: int = GENTLE_API


@attrs.frozen(kw_only=True)
class TeacherSpec(ComponentSpec):
    """A source of pseudo-pairs; its factory returns a `Teacher`.

    Attributes:
        changes: whether what it says depends on the state of the training, so that asking again makes sense.
    """

    changes: bool = False


KINDS: dict[str, type] = {
    "modality": ModalitySpec,
    "encoder": EncoderSpec,
    "augmentation": AugmentationSpec,
    "loss": LossSpec,
    "dataset": DatasetSpec,
    "task": TaskSpec,
    "teacher": TeacherSpec,
}
