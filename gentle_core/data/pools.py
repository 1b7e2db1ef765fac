"""Which training items keep their pairing, and which become unmatched pools. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import numpy as np

from gentle_core.batch import ItemIndex
from gentle_core.data.streams import stream
from gentle_core.errors import DataError
from gentle_core.recipe.model import DatasetTable

SOURCE = "unpaired["
"""How the sample ids of further sources begin (`gentle_core.data.sources`). They are never pairs."""


@attrs.frozen(eq=False)
class Pools:
    """The training items of a run. Positions count within the tower's `ItemIndex`.

    Attributes:
        samples: ids of the N matched samples; row i of a batch id is `samples[i]`.
        matched: for each tower and matched sample, the positions of its items (none where the tower lacks it).
        unmatched: for each tower, the positions of its pool, M_a of them.
        described: for each tower and pool item, the number of the sample that it describes: equal numbers in two
            towers are mates. Nothing learns from it; the sampler keeps mates out of matching rows by it.
    """

    samples: tuple[str, ...]
    matched: Mapping[str, tuple[np.ndarray, ...]]
    unmatched: Mapping[str, np.ndarray]
    described: Mapping[str, np.ndarray]

    @property
    def pairs(self) -> int:
        return len(self.samples)

    @property
    def pool_sizes(self) -> dict[str, int]:
        return {tower: len(positions) for tower, positions in self.unmatched.items()}

    def one_each(self, a: str, b: str) -> tuple[np.ndarray, np.ndarray]:
        """Positions (n,), (n,) of the matched samples that both towers have, the first item of each."""
        both = [(x[0], y[0]) for x, y in zip(self.matched[a], self.matched[b], strict=True) if len(x) and len(y)]
        left, right = np.array(both, dtype=np.int64).reshape(-1, 2).T
        return left, right

    def all_of_both(self, a: str, b: str) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
        """For each of the two towers positions (n,) of all items of the matched samples that both towers have, and the
        number (n,) of each one's sample, from 0."""
        both = [pair for pair in zip(self.matched[a], self.matched[b], strict=True) if len(pair[0]) and len(pair[1])]
        sides = []
        for items in zip(*both, strict=True) if both else ((), ()):
            counts = [len(group) for group in items]
            positions = np.concatenate([np.empty(0, np.int64), *items])
            sides.append((positions, np.repeat(np.arange(len(counts)), counts)))
        return sides[0], sides[1]

    def unmatched_id(self, tower: str, positions: np.ndarray) -> np.ndarray:
        """Ids of pool rows: beyond the matched ones, and different in every tower, so that no mates can meet."""
        offset = len(self.samples)
        for other in sorted(self.unmatched):
            if other == tower:
                return offset + positions
            offset += int(self.unmatched[other].max(initial=-1)) + 1
        raise KeyError(tower)


def share_or_count(value: float | int, total: int, what: str) -> int:
    """How many of `total` a share (float) or a count (int) means."""
    if isinstance(value, float):
        if not 0.0 <= value <= 1.0:
            raise DataError(f"{what} = {value}: a share lies between 0.0 and 1.0; write a whole number for a count")
        return round(value * total)
    if value < 0:
        raise DataError(f"{what} = {value}: a count cannot be negative")
    return min(value, total)


def pools_of(table: DatasetTable, index: Mapping[str, ItemIndex], towers: Mapping[str, str], seed: int) -> Pools:
    """The pools that a `[dataset]` table means, of the training index that its dataset gives."""
    return make_pools(index, towers, paired=table.paired, pool=table.pool, unpaired=table.remaining, seed=seed)


def missing_pairs(table: DatasetTable, pools: Pools) -> str:
    """A sentence where the recipe counts on more pairs than there are; "" otherwise."""
    if isinstance(table.paired, float) or table.paired <= pools.pairs:
        return ""
    return f"dataset.paired = {table.paired}, and there are {pools.pairs} pairs: all are used, none joins the pools"


def make_pools(
    index: Mapping[str, ItemIndex],
    towers: Mapping[str, str],
    *,
    paired: float | int = 1.0,
    pool: str = "shuffled",
    unpaired: float | int = 1.0,
    seed: int = 0,
) -> Pools:
    """Split a training index into matched samples and one unmatched pool a tower.

    Samples with items in two towers or more are candidates for pairing; a seeded order decides which keep it, so that
    a smaller `paired` takes a subset of a larger one. The rest loses its pairing: with `pool="shuffled"` every item
    goes into its tower's pool, with `"disjoint"` each sample serves one tower alone, in turn. Items without any mate
    always belong to the pool, and so do all items of further sources, whatever their sample ids.

    Args:
        index: items by modality, as a dataset gives them for its training split.
        towers: modality by tower name.
        paired: share (float) or count (int) of the candidates that keep their pairing.
        unpaired: share or count of the other samples of the dataset that go into the pools.
    """
    positions: dict[str, dict[str, list[int]]] = {}
    for tower, modality in towers.items():
        found: dict[str, list[int]] = {}
        if modality in index:
            for position, sample in enumerate(index[modality].samples):
                found.setdefault(sample, []).append(position)
        positions[tower] = found

    presence: dict[str, int] = {}
    for found in positions.values():
        for sample in found:
            presence[sample] = presence.get(sample, 0) + 1
    own = {sample: count for sample, count in presence.items() if not sample.startswith(SOURCE)}
    candidates = sorted(sample for sample, count in own.items() if count > 1)
    alone = sorted(sample for sample, count in own.items() if count == 1)

    order = [candidates[i] for i in stream(seed, "pairs").permutation(len(candidates))]
    kept = share_or_count(paired, len(order), "dataset.paired")
    chosen, rest = order[:kept], order[kept:]
    rest += [alone[i] for i in stream(seed, "alone").permutation(len(alone))]
    rest = rest[: share_or_count(unpaired, len(rest), "dataset.unpaired")]
    rest += sorted(presence.keys() - own.keys())

    unmatched: dict[str, list[tuple[int, int]]] = {tower: [] for tower in towers}
    for number, sample in enumerate(rest):
        owners = [tower for tower in towers if sample in positions[tower]]
        if pool == "disjoint":
            owners = [owners[number % len(owners)]]
        for tower in owners:
            unmatched[tower] += [(position, number) for position in positions[tower][sample]]

    pool_rows = {tower: np.array(sorted(rows), dtype=np.int64).reshape(-1, 2) for tower, rows in unmatched.items()}
    nothing = np.empty(0, dtype=np.int64)
    return Pools(
        samples=tuple(chosen),
        matched={
            tower: tuple(np.asarray(found[s], dtype=np.int64) if s in found else nothing for s in chosen)
            for tower, found in positions.items()
        },
        unmatched={tower: rows[:, 0] for tower, rows in pool_rows.items()},
        described={tower: rows[:, 1] for tower, rows in pool_rows.items()},
    )
