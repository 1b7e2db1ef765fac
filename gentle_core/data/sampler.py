"""Which items a step sees: a function of (seed, step) alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
import numpy as np

from gentle_core.data.pools import Pools
from gentle_core.data.pseudo import PseudoRows, PseudoSampler
from gentle_core.data.rows import RowPlan
from gentle_core.data.streams import stream


@attrs.frozen(eq=False)
class TowerPlan:
    """The rows of one tower in one step: matched rows first, then rows of its pool, then those of pseudo-pairs.

    Attributes:
        positions: (B,) positions in the tower's `ItemIndex`.
        ids: (B,) int64; equal ids in two towers are a matched pair, pool rows have ids of their own. Those of the
            pseudo-pairs count from 0 by themselves.
        matched: how many of the rows are matched.
        pseudo: how many of the rows, the last ones, are those of pseudo-pairs.
        weight: (pseudo,) weights of the pseudo-pairs.
    """

    positions: np.ndarray
    ids: np.ndarray
    matched: int
    pseudo: int = 0
    weight: np.ndarray = attrs.field(factory=lambda: np.empty(0, dtype=np.float32))


class BatchSampler:
    """Draws global batches from pools.

    Matched samples and each tower's pool are shuffled apart, anew in every epoch, each from its own random stream.
    The last rows of an epoch that don't fill a batch wait for the next epoch's order, so no batch repeats an item;
    a shorter pool simply starts its next epoch earlier.

    Attributes:
        pseudo: draws the pseudo-pairs, once there are any.
    """

    def __init__(self, pools: Pools, rows: RowPlan, seed: int):
        self.pools, self.rows, self.seed = pools, rows, seed
        self.pseudo: PseudoSampler | None = None
        self._orders: dict[str, tuple[int, np.ndarray]] = {}

    def _draw(self, name: str, length: int, count: int, step: int) -> np.ndarray:
        if count == 0:
            return np.empty(0, dtype=np.int64)
        epoch, place = divmod(step, length // count)
        if self._orders.get(name, (-1,))[0] != epoch:
            self._orders[name] = (epoch, stream(self.seed, name, epoch).permutation(length))
        return self._orders[name][1][place * count : (place + 1) * count]

    def batch(self, step: int) -> Mapping[str, TowerPlan]:
        """The rows of every tower in this step."""
        chosen = self._draw("matched", self.pools.pairs, self.rows.paired, step)
        drawn_rows = self._unmatched(step)
        plans = {}
        for tower, items in self.pools.matched.items():
            present = np.array([i for i in chosen if len(items[i])], dtype=np.int64)
            matched = self._one_of_each([items[i] for i in present], tower, step)
            drawn = self.pools.unmatched[tower][drawn_rows[tower]]
            plans[tower] = TowerPlan(
                positions=np.concatenate([matched, drawn]),
                ids=np.concatenate([present, self.pools.unmatched_id(tower, drawn)]),
                matched=len(present),
            )
        return plans if self.pseudo is None else self._with_pseudo_pairs(plans, self.pseudo.batch(step))

    def _with_pseudo_pairs(self, plans: dict[str, TowerPlan], drawn: PseudoRows) -> dict[str, TowerPlan]:
        for tower, positions in drawn.positions.items():
            plan = plans[tower]
            plans[tower] = attrs.evolve(
                plan,
                positions=np.concatenate([plan.positions, positions]),
                ids=np.concatenate([plan.ids, np.arange(len(positions))]),
                pseudo=len(positions),
                weight=drawn.weight,
            )
        return plans

    def _unmatched(self, step: int) -> dict[str, np.ndarray]:
        """Each tower's draw from its pool, as places in it. Losses read no pairing from row numbers; all the same, no
        two towers hold mates in matching rows."""
        found: dict[str, np.ndarray] = {}
        described: list[np.ndarray] = []
        for tower, pool in self.pools.unmatched.items():
            places = self._draw(f"unmatched/{tower}", len(pool), self.rows.unpaired[tower], step)
            order = apart(self.pools.described[tower][places], described)
            found[tower] = places[order]
            described.append(self.pools.described[tower][found[tower]])
        return found

    def _one_of_each(self, groups: list[np.ndarray], tower: str, step: int) -> np.ndarray:
        """One item of each sample; where a sample has several (captions), which one is a draw of its own stream."""
        if all(len(group) == 1 for group in groups):
            return np.array([group[0] for group in groups], dtype=np.int64)
        shares = stream(self.seed, "item", tower, step).random(len(groups))
        return np.array([g[int(s * len(g))] for g, s in zip(groups, shares, strict=True)], dtype=np.int64)


def apart(samples: np.ndarray, others: Sequence[np.ndarray]) -> np.ndarray:
    """An order of `samples` (m,) in which no row holds what the same row of one of `others` holds.

    Rows that clash are exchanged with the first row that can take them; the rest stay. Where no row can (a pool of one
    item), the clash stays.
    """
    order = np.arange(len(samples))

    def clash(row: int, item: int) -> bool:
        return any(row < len(other) and other[row] == samples[item] for other in others)

    suspects = np.zeros(len(samples), dtype=bool)
    for other in others:
        shared = min(len(other), len(samples))
        suspects[:shared] |= other[:shared] == samples[:shared]
    for row in np.flatnonzero(suspects).tolist():
        spares = (r for r in range(len(order)) if not clash(row, order[r]) and not clash(r, order[row]))
        if clash(row, order[row]) and (spare := next(spares, None)) is not None:
            order[row], order[spare] = order[spare], order[row]
    return order
