"""Closed forms, fitted: pipelines from features to unit embeddings, and averages of them.

A `Fitted` form is a linear map, then perhaps a propagation over a graph, then perhaps a hubness correction. An
`Ensemble` averages the cosines of several.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import attrs
import torch
from torch import Tensor

from gentle_core.closed_form.graph import Graph
from gentle_core.closed_form.hubness import Corrected
from gentle_core.closed_form.linear import Alignment
from gentle_core.evaluate.arrays import as_tensor
from gentle_core.evaluate.retrieval import Ranks, mean_recall

Side = Literal["x", "y"]

LABELS = {
    "ridge": "Ridge, closed form",
    "cca": "CCA, closed form",
    "procrustes": "Procrustes, closed form",
    "propagation": "Label propagation on CCA",
    "ot-em": "OT-EM CCA",
    "ensemble": "Cosines averaged",
}
TRAINED = "Trained heads"
ONLY_PAIRS = " (pairs only)"


@attrs.frozen(eq=False, kw_only=True)
class Form(abc.ABC):
    """What takes features of two modalities into one space: a closed form, a trained model's heads, or an average.

    Attributes:
        name, label: "ot-em", "OT-EM CCA".
        pools: whether unmatched rows took part.
        settings: what was chosen.
        hubness: a correction on top.
        ranks: of the validation items, by direction.
        seconds: what fitting and choosing took.
    """

    name: str
    label: str
    pools: bool
    settings: Mapping[str, Any]
    hubness: Corrected | None = None
    ranks: Mapping[str, Ranks] = attrs.field(factory=dict)
    seconds: float = 0.0

    @abc.abstractmethod
    def plain(self, features: Any, side: Side) -> Tensor:
        """Unit embeddings (n, k) float64 of features (n, p), without the hubness correction."""

    def embed(self, features: Any, side: Side) -> Tensor:
        """Unit embeddings float64 whose inner products are the scores, correction included."""
        z = self.plain(features, side)
        return z if self.hubness is None else self.hubness.lift(z, "u" if side == "x" else "v")

    @property
    def recall(self) -> float:
        """Mean recall on validation, percent."""
        return mean_recall(self.ranks)


@attrs.frozen(eq=False, kw_only=True)
class Fitted(Form):
    """A closed form, fitted.

    Attributes:
        map: features to unit embeddings.
        graphs: a propagation on top, for x and y.
    """

    map: Alignment
    graphs: tuple[Graph, Graph] | None = None

    def plain(self, features: Any, side: Side) -> Tensor:
        seen = features[:, : len(self.map.x_map if side == "x" else self.map.y_map)]  # joint embeddings come after
        z = torch.from_numpy(self.map.embed_x(seen) if side == "x" else self.map.embed_y(seen))
        return z if self.graphs is None else self.graphs[side == "y"].embed(z)


@attrs.frozen(eq=False, kw_only=True)
class Trained(Form):
    """The joint embeddings of a trained model, which follow the first `skip` columns of x and y."""

    skip: tuple[int, int]

    def plain(self, features: Any, side: Side) -> Tensor:
        z = as_tensor(features)[:, self.skip[side == "y"] :].double()
        return z / z.norm(dim=1, keepdim=True).clamp_min(1e-300)


@attrs.frozen(eq=False, kw_only=True)
class Ensemble(Form):
    """The mean of the members' cosines, each without its own hubness correction."""

    members: tuple[Form, ...]

    def plain(self, features: Any, side: Side) -> Tensor:
        return self.joined([member.plain(features, side) for member in self.members])

    def joined(self, parts: Sequence[Tensor]) -> Tensor:
        """From the members' unit embeddings."""
        return torch.cat(list(parts), dim=1) / len(parts) ** 0.5
