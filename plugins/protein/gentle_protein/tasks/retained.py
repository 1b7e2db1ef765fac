"""How much of a benchmark is there: figures on a part of it are not those of published tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gentle_protein.datasets.cdconv_layout import Labelled


def facts(splits: Mapping[str, Labelled], official: Mapping[str, int]) -> dict[str, Any]:
    """Retained and official counts by split, what was dropped and why, and a notice where anything is missing."""
    retained = {split: f"{len(splits[split]):,} of {size:,}" for split, size in official.items() if split in splits}
    found: dict[str, Any] = {"retained": retained}
    if dropped := {split: dict(part.dropped) for split, part in splits.items() if part.dropped}:
        found["dropped"] = dropped
    absent = [split for split in official if split not in splits]
    if absent:
        found["not scored"] = f"{', '.join(absent)}: not in the folder"
    if absent or any(len(splits[split]) != size for split, size in official.items() if split in splits):
        found["notice"] = "the benchmark is not complete here: these figures cannot be compared with published ones"
    return found
