"""Scenes with captions: the shared caption dataset under the name `aerial-image`, with keywords as labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from gentle_core.api import BuildContext, DataError, ItemIndex
from gentle_remote_sensing.bands import BANDS, BandsFile, problem
from gentle_remote_sensing.datasets.config import CaptionsConfig, SceneChecks
from gentle_remote_sensing.datasets.names import KEYWORDS, Keywords
from gentle_vision_language.datasets.captions import CaptionDataset, Entry, usable
from gentle_vision_language.datasets.skips import Skips
from gentle_vision_language.items import ImageFile

SCENE, TEXT = "aerial-image", "text"
SPLITS = ("train", "val", "test")


def served_as(config: SceneChecks) -> str:
    """The modality of a dataset's images."""
    return BANDS if config.multispectral else SCENE


def image_file(config: SceneChecks, path: str) -> ImageFile:
    return BandsFile(path) if config.multispectral else ImageFile(path)


def checked(entries: Sequence[Entry], skips: Skips, config: SceneChecks, context: BuildContext) -> set[str]:
    """Ids of the entries whose image, if they have one, can be used; the others are skipped by name."""
    if not config.multispectral:
        limits = {"min_side": config.min_side, "max_pixels": config.max_pixels, "check": config.check}
        return {entry.id for entry in usable(entries, skips, context, **limits)}  # type: ignore[arg-type]
    kept = set()
    for entry in entries:
        why = problem(entry.image, config.min_side) if entry.image is not None and config.check == "decode" else ""
        if why:
            skips.add(str(entry.image), why, "bad images")
        else:
            kept.add(entry.id)
    return kept


class SceneDataset(CaptionDataset):
    """Scenes and captions by split. A caption's `labels` say which keywords it contains."""

    def __init__(
        self,
        splits: Mapping[str, Sequence[Entry]],
        facts: Mapping[str, Any],
        keywords: Sequence[str],
        image_modality: str = SCENE,
    ):
        super().__init__(splits, {**facts, "keywords": list(keywords)}, image_modality)
        self._keywords = Keywords(keywords)
        self._rows: dict[str, np.ndarray] = {}
        self._found: dict[str, dict[str, ItemIndex]] = {}

    def index(self, split: str) -> dict[str, ItemIndex]:
        if split not in self._found:
            self._found[split] = self._indexed(split)
        return dict(self._found[split])

    def _indexed(self, split: str) -> dict[str, ItemIndex]:
        found = super().index(split)
        if TEXT in found:
            texts = found[TEXT]
            rows = [self._row(text) for entry in self._splits[split] for text in entry.captions]
            found[TEXT] = attrs.evolve(texts, attributes={**texts.attributes, "labels": np.stack(rows)})
        return found

    def _row(self, caption: str) -> np.ndarray:
        """(K,) bool; the captions of such data repeat each other a lot."""
        if caption not in self._rows:
            self._rows[caption] = self._keywords.row(caption)
        return self._rows[caption]


@attrs.define
class Reader:
    """Collects entries by split, and what could not be used."""

    config: CaptionsConfig
    context: BuildContext
    skips: Skips = attrs.field(init=False)
    entries: list[tuple[str, Entry]] = attrs.field(factory=list)
    counts: Counter[str] = attrs.field(factory=Counter)

    def __attrs_post_init__(self) -> None:
        self.skips = Skips(self.config.strict)

    def dataset(self, facts: Mapping[str, Any], where: Path) -> SceneDataset:
        """The dataset of what was read. Raises DataError where nothing usable is left."""
        whole = checked([entry for _, entry in self.entries], self.skips, self.config, self.context)
        splits = {s: [e for split, e in self.entries if split == s and e.id in whole] for s in SPLITS}
        if not any(splits.values()):
            raise DataError("; ".join(filter(None, (f"{where}: no scene with captions", self.skips.notice()))))
        if notice := self.skips.notice():
            self.context.notify(notice)
        more = {"source": str(where), "skipped": self.skips.facts(), "left_out": dict(self.counts)}
        return SceneDataset(splits, {**more, **facts}, self.config.keywords or KEYWORDS, served_as(self.config))
