"""How many rows of which kind a global batch has, and how many steps a run takes. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from gentle_core.errors import DataError
from gentle_core.recipe.model import TrainTable


@attrs.frozen
class RowPlan:
    """Rows of a global batch.

    Attributes:
        paired: n matched rows.
        unpaired: m_a rows from tower a's pool.
        steps: optimiser steps of the run.
        steps_per_epoch: steps that pass once over the longest of pairs and pools.
    """

    paired: int
    unpaired: Mapping[str, int]
    steps: int
    steps_per_epoch: int


def rows_per_batch(
    train: TrainTable,
    pairs: int,
    pool_sizes: Mapping[str, int],
    unpaired: bool = True,
    own: Mapping[str, int | None] | None = None,
) -> RowPlan:
    """The rows of a batch for `pairs` matched samples and pools of these sizes.

    Matched and unmatched counts are set apart (`paired_rows`, `unpaired_rows`; both default to `batch_size`), or
    follow the paper's rule n = floor(N / (M + N) * B) with `proportional = B` (below Eq. 1; M is the longest pool).
    No batch holds an item twice, so a count never exceeds what there is. With `unpaired=False` (an objective that
    looks at pairs alone) the pools are left out. `own` holds what single towers say instead (`unpaired_rows`).
    """
    chosen = own or {}
    longest = max(pool_sizes.values(), default=0)
    if train.proportional is not None:
        total = train.proportional
        n = total * pairs // max(longest + pairs, 1)
        wanted = total - n
    else:
        n = train.batch_size if train.paired_rows is None else train.paired_rows
        wanted = train.batch_size if train.unpaired_rows is None else train.unpaired_rows
    n = min(n, pairs)
    asked = {tower: wanted if chosen.get(tower) is None else int(chosen[tower] or 0) for tower in pool_sizes}
    rows = {tower: min(asked[tower], size) if unpaired else 0 for tower, size in pool_sizes.items()}
    if n == 0 and not any(rows.values()):
        raise DataError(
            f"a batch would be empty: {pairs} pairs and pools of {dict(pool_sizes)}; "
            "raise dataset.paired or train.paired_rows, or choose an objective that uses unmatched rows"
        )
    passes = [pairs // n if n else 0]
    passes += [size // rows[tower] for tower, size in pool_sizes.items() if rows[tower]]
    per_epoch = max(*passes, 1)
    steps = train.steps if train.steps is not None else max(round((train.epochs or 1) * per_epoch), 1)
    return RowPlan(paired=n, unpaired=rows, steps=steps, steps_per_epoch=per_epoch)
