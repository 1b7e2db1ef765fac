"""Checks of teachers, with a view of random features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gentle_core.testing.bench import Subject
from gentle_core.testing.cases import Violation, check

ROWS = {"pairs": 24, "matched": 24, "pool": 15, "val": 12}
WIDTHS = {"a": 9, "b": 7}


class RandomModel:
    """Stands for the model that is being trained."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(1)
        self.weights = {tower: torch.randn(width, 6, generator=generator) for tower, width in WIDTHS.items()}

    @property
    def tower_modules(self) -> dict[str, Tensor]:
        return self.weights

    def trained_state(self) -> dict[str, Tensor]:
        return self.weights

    def load_state_dict(self, state: Mapping[str, Tensor], strict: bool = True) -> None:
        self.weights = {name: value.clone() for name, value in state.items()}


class RandomView:
    """Two towers' features that describe the same hidden points, pairs row by row, the pools in orders of their own."""

    towers = ("a", "b")
    step = 0

    def __init__(self) -> None:
        self.model = RandomModel()
        generator = torch.Generator().manual_seed(0)
        maps = {tower: torch.randn(5, width, generator=generator) for tower, width in WIDTHS.items()}
        self._features: dict[tuple[str, str], Tensor] = {}
        for part, count in ROWS.items():
            hidden = torch.randn(count, 5, generator=generator)
            for tower in self.towers:
                order = torch.randperm(count, generator=generator) if part == "pool" else torch.arange(count)
                self._features[tower, part] = hidden[order] @ maps[tower]

    def features(self, tower: str, part: str) -> Tensor:
        return self._features[tower, part].clone()

    def joint(self, tower: str, part: str, model: Any = None) -> Tensor:
        found = self.features(tower, part) @ (self.model if model is None else model).weights[tower]
        return torch.nn.functional.normalize(found, dim=1)

    def items(self, tower: str, part: str) -> list[Any]:
        return list(self.features(tower, part))

    def samples(self, tower: str) -> Sequence[str]:
        return [str(row) for row in range(ROWS["val"])]

    def groups(self, tower: str) -> Sequence[int]:
        return range(ROWS["matched"])

    def saved(self, path: Any) -> Any:
        return self.model


@check("teacher", "builds")
def builds(subject: Subject) -> None:
    """Its factory returns an object with `embed(view)`, `observe`, `state` and `load`."""
    made = subject.build()
    missing = [name for name in ("embed", "observe", "state", "load") if not callable(getattr(made, name, None))]
    if missing:
        raise Violation(
            f"its factory returns {type(made).__name__} without {missing[0]}", "subclass TeacherModule and write embed"
        )


@check("teacher", "rows")
def rows(subject: Subject) -> None:
    """It embeds both pools, in their order, as finite unit rows of one width."""
    _embedded(subject.build())


@check("teacher", "repeatable")
def repeatable(subject: Subject) -> None:
    """The same pools give the same rows."""
    one, two = (dict(subject.build().embed(RandomView())) for _ in range(2))
    if any(not torch.equal(one[tower], two[tower]) for tower in one):
        raise Violation("two builds give different rows", "draw random numbers from context.seed")


@check("teacher", "state")
def state(subject: Subject) -> None:
    """What it keeps of the steps it observed survives a checkpoint."""
    made, again, view = subject.build(), subject.build(), RandomView()
    for step in range(2):
        made.observe(view.model, step)
    kept = dict(made.state())
    bad = [name for name, value in kept.items() if not isinstance(value, Tensor)]
    if bad:
        raise Violation(f"state()[{bad[0]!r}] is no tensor", "return tensors by name")
    again.load({name: value.clone() for name, value in kept.items()})
    found = dict(again.state())
    if found.keys() != kept.keys() or any(not torch.equal(found[name], kept[name]) for name in kept):
        raise Violation("state() differs after load(state())", "keep in state() all that observe changes")


def _embedded(teacher: Any) -> dict[str, Tensor]:
    view = RandomView()
    found = dict(teacher.embed(view))
    for tower in view.towers:
        z = found.get(tower)
        if not isinstance(z, Tensor) or z.shape[:1] != (ROWS["pool"],) or z.ndim != 2:
            got = (
                "nothing" if z is None else f"a tensor {tuple(z.shape)}" if isinstance(z, Tensor) else type(z).__name__
            )
            raise Violation(
                f"embed gives {got} for tower {tower!r} with a pool of {ROWS['pool']}", "return one row a pool item"
            )
        if not bool(z.isfinite().all()) or not torch.allclose(z.norm(dim=1), torch.ones(len(z)).to(z), atol=1e-4):
            raise Violation(f"the rows of tower {tower!r} are no finite unit vectors", "normalise them")
    if found[view.towers[0]].shape != found[view.towers[1]].shape:
        raise Violation("the two towers' rows differ in width", "embed both pools in one space")
    return found
