"""The options of the tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import attrs


@attrs.frozen(kw_only=True)
class ProbeConfig:
    """What all tasks share.

    Attributes:
        path: the task's folder in CDConv's layout.
        tower: evaluate this tower alone; empty for every tower that reads sequences or structures.
        space: "feature" (what the encoder gives) or "joint" (the aligned embedding).
    """

    path: Path
    tower: str = ""
    space: Literal["feature", "joint"] = "feature"


@attrs.frozen(kw_only=True)
class FoldConfig(ProbeConfig):
    """Options of `protein/fold`. `level` is the test split to score; "all" scores each that exists."""

    level: Literal["all", "fold", "superfamily", "family"] = "all"


@attrs.frozen(kw_only=True)
class ReactionConfig(ProbeConfig):
    """Options of `protein/reaction`."""


@attrs.frozen(kw_only=True)
class EcConfig(ProbeConfig):
    """Options of `protein/ec`.

    Attributes:
        cutoffs: largest identity (%) of a test chain to the training chains; one figure for each. They need the
            test list `nrPDB-EC_test.csv`.
    """

    cutoffs: tuple[int, ...] = (30, 40, 50, 70, 95)


@attrs.frozen(kw_only=True)
class GoConfig(ProbeConfig):
    """Options of `protein/go`.

    Attributes:
        ontology: biological process, molecular function or cellular component.
        cutoffs: as in `protein/ec`, from `nrPDB-GO_test.csv`.
    """

    ontology: Literal["bp", "mf", "cc"] = "mf"
    cutoffs: tuple[int, ...] = (30, 40, 50, 70, 95)
