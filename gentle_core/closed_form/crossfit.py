"""Choosing among closed forms without validation data: parts of the pairs are held out in turn.

The pairs are dealt into K parts. Every form with every setting is fitted K times, each time without one part, and
judged by the ranks of all held-out pairs together; then it is fitted on all pairs with what was chosen. So every pair
serves both ends, and none judges a fit that knew it. Pool items stand among the candidates where there are pools: a
part of few pairs alone would be too easy to search. Those are kept out of the K fits as the held-out pairs are: a form
that had seen them in its pools would tell them from the pairs by that, and choices would go to whichever does.

All K + 1 fits are the ordinary `fit_forms`, in a thread each. Wherever one of them has ranks to judge a setting by, it
waits for the others, and all go on with the ranks of the K together: so all take the same decisions.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import attrs
import numpy as np
import torch

from gentle_core.closed_form.features import Features
from gentle_core.closed_form.fit import fit_forms
from gentle_core.closed_form.forms import Form
from gentle_core.closed_form.judge import Judge
from gentle_core.errors import DataError
from gentle_core.evaluate.retrieval import Ranks

FOLDS = 5
HELD_OUT = "the pairs held out in turn"
"""What a choice is then based on, in words."""
DISTRACTORS = 300
"""Items of each pool among a part's candidates, at most; and no more than a quarter of the pool."""


class Meeting:
    """A point that all threads reach again and again, each with something that the others are to know."""

    def __init__(self, parties: int):
        self._brought: list[Any] = [None] * parties
        self._told: tuple[Any, ...] = ()
        self._barrier = threading.Barrier(parties, action=self._tell)

    def _tell(self) -> None:
        self._told = tuple(self._brought)  # replaced only when all have come again, so have read it

    def share(self, number: int, value: Any) -> tuple[Any, ...]:
        """What each party has brought. Raises BrokenBarrierError where one of them has left."""
        self._brought[number] = value
        self._barrier.wait()
        return self._told

    def leave(self) -> None:
        self._barrier.abort()


@attrs.frozen(eq=False)
class Seat(Judge):
    """One thread's place in the meeting. The last one, that of all pairs, has no ranks of its own to bring."""

    meeting: Meeting
    number: int

    def ranks(self, found: dict[str, Ranks]) -> dict[str, Ranks]:
        brought = self.meeting.share(self.number, found)[:-1]
        return {name: together([ranks[name] for ranks in brought]) for name in found}

    def least(self, value: int) -> int:
        return int(min(self.meeting.share(self.number, value)))


def together(parts: Sequence[Ranks]) -> Ranks:
    """The queries of all parts; rows are numbered on end."""
    sizes = [len(part.rank) + part.without_mate for part in parts]
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    return Ranks(
        rank=np.concatenate([part.rank for part in parts]),
        rows=np.concatenate([part.rows + start for part, start in zip(parts, starts, strict=True)]),
        samples=[sample for part in parts for sample in part.samples],
        mates=np.concatenate([part.mates for part in parts]),
        candidates=max(part.candidates for part in parts),
        without_mate=sum(part.without_mate for part in parts),
    )


def folds_of(data: Features, seed: int = 0, folds: int = FOLDS) -> list[Features]:
    """The data without one part of the pairs, which is what is judged by, for each part. The pools lack the items that
    stand among the candidates."""
    samples = np.intersect1d(data.labels_x, data.labels_y)
    if len(samples) < 3:
        raise DataError(f"{len(samples)} training pairs: holding some out in turn needs at least three")
    order = np.random.default_rng((seed, len(samples))).permutation(samples)
    pools, others = {}, []
    for number, side in enumerate("xy"):
        pool = getattr(data, f"pool_{side}")
        rows = torch.from_numpy(np.random.default_rng((seed, number, len(pool))).permutation(len(pool)))
        taken = min(DISTRACTORS, len(pool) // 4)
        pools[f"pool_{side}"] = pool[rows[taken:].sort().values]
        others.append(pool[rows[:taken].sort().values])
    found = []
    for part in np.array_split(order, min(folds, len(samples))):
        kept = np.setdiff1d(samples, part)
        given: dict[str, Any] = dict(pools)
        for side, rows in zip("xy", others, strict=True):
            items, labels = getattr(data, f"items_{side}"), getattr(data, f"labels_{side}")
            train, held = np.flatnonzero(np.isin(labels, kept)), np.flatnonzero(np.isin(labels, part))
            given[f"items_{side}"] = items[torch.from_numpy(train)]
            given[f"labels_{side}"] = np.searchsorted(kept, labels[train])
            given[f"{side}_val"] = torch.cat([items[torch.from_numpy(held)], rows.to(items)])
            given[f"samples_{side}_val"] = [*labels[held].tolist(), *(f"pool {side} {i}" for i in range(len(rows)))]
        found.append(attrs.evolve(data, **given))
    return found


def fit_forms_crossed(
    data: Features,
    forms: Iterable[str],
    *,
    hubness: bool = True,
    seed: int = 0,
    tell: Callable[[str], None] = lambda _: None,
    folds: int = FOLDS,
) -> list[Form]:
    """`fit_forms` on all pairs, with settings chosen by pairs held out in turn; what `data` has to validate on is not
    looked at. The forms' ranks are those of the held-out pairs.

    Raises:
        DataError: fewer than three pairs, or joint embeddings of a model that was trained on the pairs.
    """
    if any(data.joint):
        raise DataError("trained heads have seen all pairs: they cannot be judged by pairs held out afterwards")
    forms, parts = list(forms), folds_of(data, seed, folds)
    meeting = Meeting(len(parts) + 1)
    failures: list[BaseException] = []

    def fit(number: int, given: Features, say: Callable[[str], None]) -> list[Form]:
        try:
            return fit_forms(
                attrs.evolve(given, judge=Seat(meeting, number)), forms, hubness=hubness, seed=seed, tell=say
            )
        except BaseException as error:
            if not isinstance(error, threading.BrokenBarrierError):
                failures.append(error)
            meeting.leave()
            raise

    def beside(number: int, given: Features) -> None:
        try:
            fit(number, given, lambda _: None)
        except BaseException:  # kept in `failures`, and raised by the caller's thread
            return

    threads = [
        threading.Thread(target=beside, args=(number, part), daemon=True, name=f"fold {number}")
        for number, part in enumerate(parts)
    ]
    for thread in threads:
        thread.start()
    first = parts[0]
    judged = {name: getattr(first, name) for name in ("x_val", "y_val", "samples_x_val", "samples_y_val")}
    try:
        return fit(len(parts), attrs.evolve(data, **judged), tell)
    except threading.BrokenBarrierError:
        raise failures[0] from None
    finally:
        for thread in threads:
            thread.join()
