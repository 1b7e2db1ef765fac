"""The honest comparisons beside a run: CLIP on the same pairs, and closed-form CCA on encoder features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import torch
from torch import Tensor

from gentle_core.closed_form.select import fit_select
from gentle_core.data.pools import Pools
from gentle_core.engine.splits import Embedded, Split
from gentle_core.engine.towers import AlignedModel
from gentle_core.recipe.load import Resolved, derive
from gentle_core.recipe.model import BaselineTable

PAIRS_ONLY = "CLIP, pairs only"
CCA_INITIAL = "CCA, closed form"
CCA_TRAINED = "CCA on the pairs-only features"


def pairs_only(resolved: Resolved) -> Resolved:
    """The same run with L_CL alone: same pairs, same batches of pairs, same steps, no unmatched rows."""
    recipe = resolved.recipe
    clip_options = dict(recipe.objective.options.get("clip", {}))
    use = clip_options.pop("use", "core/clip")
    objective = attrs.evolve(recipe.objective, use=use, options=clip_options, config=None)
    return derive(
        resolved,
        attrs.evolve(
            recipe,
            name=f"{recipe.name} (pairs only)".strip(),
            objective=objective,
            baseline=BaselineTable(pairs_only=False, cca=False),
        ),
    )


def matched_rows(pools: Pools, a: str, b: str) -> tuple[Tensor, Tensor]:
    """Index positions (N,), (N,) of the training pairs of two towers, one item of each side a sample."""
    both = [(x[0], y[0]) for x, y in zip(pools.matched[a], pools.matched[b], strict=True) if len(x) and len(y)]
    left, right = zip(*both, strict=True) if both else ((), ())
    return torch.tensor(left, dtype=torch.long), torch.tensor(right, dtype=torch.long)


def closed_form_cca(
    model: AlignedModel,
    train: Split,
    validation: Split,
    others: Mapping[str, Split],
    pools: Pools,
    pair: tuple[str, str],
) -> tuple[dict[str, Embedded], dict[str, Any]] | None:
    """Regularised CCA on encoder features of the training pairs, ridge and column weights chosen on validation.

    Returns:
        Embeddings of every split in `others` and facts about the fit; None with fewer than three pairs.
    """
    a, b = pair
    rows_a, rows_b = matched_rows(pools, a, b)
    if len(rows_a) < 3:
        return None
    x = train.features(model, a, rows_a.tolist())[rows_a]
    y = train.features(model, b, rows_b.tolist())[rows_b]
    chosen = fit_select(
        x, y, validation.features(model, a), validation.features(model, b),
        samples_x_val=validation.index[a].samples, samples_y_val=validation.index[b].samples,
    )  # fmt: skip
    found = {}
    for name, split in others.items():
        z_a = torch.from_numpy(chosen.alignment.embed_x(split.features(model, a))).float()
        z_b = torch.from_numpy(chosen.alignment.embed_y(split.features(model, b))).float()
        found[name] = Embedded(
            z={a: z_a, b: z_b},
            items={tower: split.index[tower].items for tower in pair},
            samples={tower: split.index[tower].samples for tower in pair},
            attributes={tower: split.index[tower].attributes for tower in pair},
        )
    return found, {"pairs": len(rows_a), **chosen.settings}
