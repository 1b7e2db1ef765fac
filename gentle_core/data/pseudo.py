"""Which pseudo-pairs a step sees: a function of (seed, step) and the proposals alone. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import numpy as np

from gentle_core.data.streams import stream


@attrs.frozen(eq=False)
class ProposalTable:
    """Candidates of the items of one tower in the other one's pool.

    Attributes:
        items: (q,) positions in the tower's `ItemIndex`.
        candidates: (q, k) positions in the other tower's.
        shares: (q, k); rows sum to 1.
        weight: (q,) how sure the teacher is, in (0, 1].
    """

    items: np.ndarray
    candidates: np.ndarray
    shares: np.ndarray
    weight: np.ndarray


@attrs.frozen(eq=False)
class PseudoRows:
    """The pseudo-pairs of a step: positions (P,) by tower, row by row, and weights (P,)."""

    positions: Mapping[str, np.ndarray]
    weight: np.ndarray


class PseudoSampler:
    """Draws pseudo-pairs: half of them start from items of one tower, half from items of the other.

    Items are taken in an order of their own that changes every epoch; a candidate is drawn by its share. Within a batch
    no item occurs twice, since the other pairs of a batch are its negatives.
    """

    def __init__(self, towers: tuple[str, str], tables: tuple[ProposalTable, ProposalTable], rows: int, seed: int):
        self.towers, self.tables, self.rows, self.seed = towers, tables, rows, seed

    def batch(self, step: int) -> PseudoRows:
        """The pseudo-pairs of this step; fewer than `rows` where pools are small or candidates coincide."""
        chosen: list[tuple[int, int, float]] = []
        seen: tuple[set[int], set[int]] = set(), set()
        for side, table in enumerate(self.tables):
            wanted = (self.rows + 1 - side) // 2
            for own, other, weight in self._drawn(side, table, min(wanted, len(table.items)), step):
                pair = (own, other) if side == 0 else (other, own)
                if pair[0] not in seen[0] and pair[1] not in seen[1]:
                    chosen.append((*pair, weight))
                    seen[0].add(pair[0])
                    seen[1].add(pair[1])
        columns = [np.array([row[i] for row in chosen], dtype=np.int64) for i in (0, 1)]
        positions = dict(zip(self.towers, columns, strict=True))
        return PseudoRows(positions, np.array([row[2] for row in chosen], dtype=np.float32))

    def _drawn(self, side: int, table: ProposalTable, count: int, step: int) -> list[tuple[int, int, float]]:
        if not count:
            return []
        tower = self.towers[side]
        epoch, place = divmod(step, len(table.items) // count)
        order = stream(self.seed, "pseudo", tower, epoch).permutation(len(table.items))
        rows = order[place * count : (place + 1) * count]
        points = stream(self.seed, "pseudo-mate", tower, step).random(count)
        which = (table.shares[rows].cumsum(axis=1) < points[:, None]).sum(axis=1).clip(max=table.shares.shape[1] - 1)
        # Rounding may point past the last candidate that has a share.
        which = np.where(table.shares[rows, which] > 0, which, table.shares[rows].argmax(axis=1))
        return [
            (int(table.items[r]), int(table.candidates[r, w]), float(table.weight[r]))
            for r, w in zip(rows, which, strict=True)
        ]
