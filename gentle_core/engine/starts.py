"""Heads that start from a closed form: `head.init = "cca"`."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs
import numpy as np
import torch
from torch import Tensor

from gentle_core.closed_form.linear import Alignment, cca
from gentle_core.closed_form.moments import Moments
from gentle_core.closed_form.select import fit_select
from gentle_core.engine.towers import ProjectionHead, varying
from gentle_core.errors import DataError
from gentle_core.evaluate.arrays import matched_rows

if TYPE_CHECKING:
    from gentle_core.engine.session import Session

UNTOLD = 1.0
"""Ridge and column power where no validation items tell."""


@attrs.frozen(eq=False)
class Paired:
    """Encoder features of a pair's matched items, row by row mates, and of the validation items with their samples."""

    x: Tensor
    y: Tensor
    x_val: Tensor | None = None
    y_val: Tensor | None = None
    samples_x: Sequence[str] = ()
    samples_y: Sequence[str] = ()


def fit_cca(data: Paired) -> Alignment:
    """The CCA that heads start from: all columns, weighted; chosen on validation where there are mates.

    Features that a head takes for constant have no part in it. CCA scales every column to unit variance: such a one
    gets weights beside which all others vanish, and the first step of training then moves the head to anywhere.
    """
    data = attrs.evolve(data, x=_still(data.x), y=_still(data.y))
    if set(data.samples_x) & set(data.samples_y):
        return fit_select(
            data.x, data.y, data.x_val, data.y_val, samples_x_val=data.samples_x, samples_y_val=data.samples_y,
            dimensions=(),
        ).alignment  # fmt: skip
    return cca(Moments.of(data.x, data.y), UNTOLD).weighted(UNTOLD)


def _still(features: Tensor) -> Tensor:
    """(n, W) with columns that hardly vary at 0."""
    return torch.where(varying(features.double().std(0, correction=0)), features, 0.0)


def start_heads(session: Session) -> None:
    """Heads with `init = "cca"` begin where CCA on the encoders' features lies."""
    pair = session.builder.pairs()[0]
    if session.recipe.towers[pair[0]].head.init != "cca":
        return
    matched = dict(zip(pair, session.pools.all_of_both(*pair), strict=True))
    if (count := len(set(matched[pair[0]][1].tolist()))) < 3:
        raise DataError(f'head.init = "cca" needs three pairs or more, and there are {count}: raise dataset.paired')
    features = {}  # computed by all ranks together
    for name, (positions, _) in matched.items():
        rows = positions.tolist()
        features[name] = session.train.features(session.model, name, rows)[rows]
        session.check_finite(name, rows, features[name])
    left, right = matched_rows(*(numbers for _, numbers in matched.values()))
    x, y = features[pair[0]][left], features[pair[1]][right]
    data = Paired(x, y)
    if (val := session.validation) is not None:
        (x_val, y_val), (samples_x, samples_y) = (
            [val.features(session.model, name) for name in pair], [val.index[name].samples for name in pair]
        )  # fmt: skip
        data = Paired(x, y, x_val, y_val, samples_x, samples_y)
    fitted = session.ranks.on_main(functools.partial(fit_cca, data))
    start(session.model.tower(pair[0]).head, fitted.mean_x, fitted.x_map)
    start(session.model.tower(pair[1]).head, fitted.mean_y, fitted.y_map)


@torch.no_grad()
def start(head: ProjectionHead, mean: np.ndarray, linear: np.ndarray) -> None:
    """Let a head of one linear layer, whose statistics are known, project as (features − `mean`) · `linear`.

    The scale stays that of its random weights: cosines do not depend on it, and what a learning rate means does. Of
    `linear` (W, k) as many columns are used as the head has dimensions; dimensions beyond k are 0 and stay so.
    """
    layer = head.layers
    assert isinstance(layer, torch.nn.Linear)
    own, std = (values.double().cpu().numpy() for values in (head.mean, head.std))
    linear = linear[:, : head.dimension]
    weight = linear.T * std
    scale = float(layer.weight.norm()) / max(float(np.linalg.norm(weight)), 1e-300)
    layer.weight.zero_()
    layer.bias.zero_()
    layer.weight[: len(weight)] = torch.from_numpy(scale * weight).to(layer.weight)
    layer.bias[: len(weight)] = torch.from_numpy(scale * ((own - mean) @ linear)).to(layer.bias)
