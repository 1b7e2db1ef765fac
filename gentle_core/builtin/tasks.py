"""Options of the tasks on labelled items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import attrs


@attrs.frozen(kw_only=True)
class LabelledConfig:
    """What the tasks on labelled items share.

    Attributes:
        path: the folder of labelled items, the option `path` of the dataset; `gentle eval --data FOLDER`.
        dataset: table { use, … }: the dataset that reads it. Without `use`, the installed one that reads folders of
            labelled items for the tower.
        tower: the tower whose items are classified, where several could be.
        overlap: what happens to items that are, by content, also among the run's training items. "flag": they are
            counted, and figures without them stand beside. "drop": they are left out. "refuse": the task stops.
    """

    path: Path | None = None
    dataset: Mapping[str, Any] = attrs.field(factory=dict)
    tower: str = ""
    overlap: Literal["flag", "drop", "refuse"] = "flag"


@attrs.frozen(kw_only=True)
class ZeroShotConfig(LabelledConfig):
    """Options of `core/zero-shot`.

    Attributes:
        templates: texts with {} in place of the class's name; their embeddings are averaged. Without any, the
            dataset's own ("an aerial photograph of {}."), or the bare name.
        names: the tower that reads the texts, where several could.
        split: "all", or the one split of the dataset that is classified.
    """

    templates: tuple[str, ...] = attrs.field(default=(), converter=tuple)
    names: str = ""
    split: Literal["all", "train", "val", "test"] = "all"

    @templates.validator
    def _has_a_place(self, _: Any, value: Sequence[str]) -> None:
        for template in value:
            if "{}" not in template:
                raise ValueError(f"{template!r} has no {{}} where the name of the class goes")


@attrs.frozen(kw_only=True)
class LinearProbeConfig(LabelledConfig):
    """Options of `core/linear-probe`.

    Attributes:
        space: "feature" (what the encoder gives), "joint" (the aligned embedding), or "both".
        split_seed: deals the items of a dataset without splits of its own to train, val and test (60, 20, 20 %).
    """

    space: Literal["both", "feature", "joint"] = "both"
    split_seed: int = 0


@attrs.frozen(kw_only=True)
class KnnConfig(LinearProbeConfig):
    """Options of `core/knn`; the others are those of `core/linear-probe`.

    Attributes:
        k: the number of neighbours that vote.
    """

    k: int = attrs.field(default=5, validator=attrs.validators.ge(1))
