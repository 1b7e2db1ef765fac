"""Pseudo-pairs in a run: when the teacher is asked, what it may look at, and what becomes of its answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor

from gentle_core.closed_form.proposals import Proposals, propose
from gentle_core.data.loader import TowerSource
from gentle_core.data.pseudo import ProposalTable, PseudoSampler
from gentle_core.data.sampler import BatchSampler
from gentle_core.engine.splits import Split
from gentle_core.engine.towers import AlignedModel
from gentle_core.errors import ComponentError
from gentle_core.recipe.model import PseudoTable

_COLUMNS = ("items", "candidates", "shares", "weight")


@attrs.define
class View:
    """What a teacher may look at (see `gentle_core.protocols.TeacherView`).

    Attributes:
        positions: training positions by part ("pairs", "matched", "pool") and tower.
        numbers: of each matched item's sample, by tower.
        train: the training split for a model; a frozen tower's features are held by the split that computed them.
        validation: the "val" split; None where there is none.
        saved: loads a finished run's model.
    """

    towers: tuple[str, str]
    step: int
    model: AlignedModel
    positions: Mapping[str, Mapping[str, np.ndarray]]
    train: Callable[[AlignedModel], Split]
    validation: Split | None
    saved: Callable[[Path], AlignedModel]
    numbers: Mapping[str, np.ndarray] = attrs.field(factory=dict)

    def features(self, tower: str, part: str) -> Tensor:
        return self._features(self.model, tower, part)

    def joint(self, tower: str, part: str, model: Any = None) -> Tensor:
        by = self.model if model is None else model
        found: Tensor = by.head(tower, self._features(by, tower, part))
        return found

    def items(self, tower: str, part: str) -> list[Any]:
        split, rows = self._rows(self.model, tower, part)
        return [] if split is None else split.load(tower, rows)

    def samples(self, tower: str) -> Sequence[str]:
        return self.validation.index[tower].samples if self.validation is not None else ()

    def groups(self, tower: str) -> Sequence[int]:
        found: Sequence[int] = self.numbers[tower].tolist()
        return found

    def _features(self, model: AlignedModel, tower: str, part: str) -> Tensor:
        split, rows = self._rows(model, tower, part)
        if split is None or not len(rows):
            return torch.empty(0, model.tower(tower).encoder.width)
        return split.features(model, tower, rows)[torch.as_tensor(rows)]

    def _rows(self, model: AlignedModel, tower: str, part: str) -> tuple[Split | None, list[int]]:
        if part == "val":
            split = self.validation
            return split, [] if split is None else list(range(len(split.index[tower])))
        return self.train(model), self.positions[part][tower].tolist()


class PseudoPairing:
    """Asks the teacher when it is time, and gives its pseudo-pairs to the sampler.

    Args:
        view: makes a view of the training at a step.
        listens: whether the teacher changes with the model, and so wants to see it after every step.
        share: called with a function: what it returns on the first rank, on all ranks.
        tell: told what the teacher has to say of itself.
        sources: of the training items, where they are to get the teacher's rows as reference; None where nothing
            compares with these.
        pairs: whether pseudo-pairs are wanted.
    """

    def __init__(
        self, table: PseudoTable, teacher: Any, towers: tuple[str, str], sampler: BatchSampler,
        view: Callable[[int], View], steps: int, seed: int, listens: bool, share: Callable[[Callable[[], Any]], Any],
        tell: Callable[[str], None] = lambda _: None, sources: Mapping[str, TowerSource] | None = None,
        pairs: bool = True,
    ):  # fmt: skip
        self.table, self.teacher, self.towers, self.sampler = table, teacher, towers, sampler
        self.view, self.seed, self.listens, self.share, self.tell = view, seed, listens, share, tell
        self.sources, self.pairs = sources, pairs
        self.start, self.every = (round(x * steps) if x < 1 else int(x) for x in (table.start, table.refresh))
        self.every = max(self.every, 1) if table.refresh else 0
        self._tables: tuple[ProposalTable, ProposalTable] | None = None

    def due(self, step: int) -> bool:
        """Whether the teacher is to be asked before this step."""
        since = step - self.start
        return since == 0 or (self.every > 0 and since > 0 and since % self.every == 0)

    def refresh(self, step: int) -> dict[str, float]:
        """Ask the teacher; returns figures for the log."""
        view = self.view(step)
        rows = self.teacher.embed(view)
        says = getattr(self.teacher, "says", None)
        if callable(says) and (said := says()):
            self.tell(f"teacher: {said}")
        a, b = self.towers
        pools = [self.sampler.pools.unmatched[tower] for tower in self.towers]
        for tower, pool in zip(self.towers, pools, strict=True):
            self._check(tower, rows.get(tower), len(pool))
        if self.sources is not None:
            self._refer(view, rows)
        if not self.pairs:
            return {}
        found = self.share(lambda: propose(rows[a], rows[b], self.table))
        self._use((_table(found[0], pools[0], pools[1]), _table(found[1], pools[1], pools[0])))
        asked = sum(len(pool) for pool in pools)
        proposed = sum(len(f) for f in found)
        scores = np.concatenate([f.score for f in found])
        return {
            "pseudo/proposed": float(proposed),
            "pseudo/share": proposed / max(asked, 1),
            "pseudo/score": float(scores.mean()) if len(scores) else 0.0,
        }

    def _refer(self, view: View, pool: Mapping[str, Tensor]) -> None:
        """The teacher's rows of all training items that a batch may hold."""
        assert self.sources is not None
        matched = self.teacher.embed_matched(view)
        for tower in self.towers:
            places = view.positions["matched"][tower]
            self._check(tower, matched.get(tower), len(places), "matched")
            source = self.sources[tower]
            rows = matched[tower].new_zeros(len(source.index), matched[tower].shape[1])
            rows[torch.from_numpy(places)] = matched[tower]
            rows[torch.from_numpy(self.sampler.pools.unmatched[tower])] = pool[tower]
            source.reference = rows.float().cpu()

    def observe(self, model: AlignedModel, step: int) -> None:
        self.teacher.observe(model, step)

    def state(self) -> dict[str, Tensor]:
        """The pseudo-pairs in use and the teacher's state, for a checkpoint."""
        found = {f"teacher.{name}": value for name, value in self.teacher.state().items()}
        for side, table in enumerate(self._tables or ()):
            found |= {f"table.{side}.{name}": torch.from_numpy(getattr(table, name)) for name in _COLUMNS}
        for tower, source in (self.sources or {}).items():
            if source.reference is not None:
                found[f"reference.{tower}"] = source.reference
        return found

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take up a checkpoint's state."""
        own = {name.removeprefix("teacher."): v for name, v in state.items() if name.startswith("teacher.")}
        self.teacher.load(own)
        for tower, source in (self.sources or {}).items():
            source.reference = state.get(f"reference.{tower}")
        if "table.0.items" in state:
            sides = [ProposalTable(*(state[f"table.{side}.{name}"].numpy() for name in _COLUMNS)) for side in (0, 1)]
            self._use((sides[0], sides[1]))

    def _use(self, tables: tuple[ProposalTable, ProposalTable]) -> None:
        self._tables = tables
        self.sampler.pseudo = PseudoSampler(self.towers, tables, self.table.rows, self.seed)

    def _check(self, tower: str, rows: Tensor | None, count: int, part: str = "pool") -> None:
        use = self.table.teacher.use
        if rows is None or len(rows) != count:
            got = "none" if rows is None else str(len(rows))
            raise ComponentError(f"the teacher {use} gave {got} rows for the {count} {part} items of tower {tower!r}")
        if not bool(rows.isfinite().all()):
            raise ComponentError(f"the teacher {use} gave rows for tower {tower!r} that are not finite")


def _table(found: Proposals, own: np.ndarray, other: np.ndarray) -> ProposalTable:
    """From rows of the pools to positions in the towers' indices.

    A teacher is as sure of an item as the share of its best candidate is large."""
    return ProposalTable(
        items=own[found.rows],
        candidates=other[found.candidates] if len(other) else found.candidates,
        shares=found.shares,
        weight=found.shares.max(axis=1, initial=0.0).astype(np.float32),
    )
