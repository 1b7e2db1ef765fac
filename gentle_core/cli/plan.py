"""What a run would do, in a few lines, without torch: datasets may be opened, models may not."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from gentle_core.batch import BuildContext, ItemIndex
from gentle_core.builtin import Child, GentleConfig, needs
from gentle_core.data.pools import missing_pairs, pools_of
from gentle_core.data.rows import rows_per_batch
from gentle_core.data.sources import open_dataset
from gentle_core.data.streams import torch_seed
from gentle_core.errors import ComponentError, DataError
from gentle_core.factory import cache_folder
from gentle_core.recipe import Recipe, Resolved
from gentle_core.recipe.model import PseudoTable
from gentle_core.schedule import Schedule
from gentle_core.specs import LossSpec

Row = tuple[str, str]


class _NeedsTorch(Exception):
    """A dataset's code imports torch."""


def describe(
    resolved: Resolved, *, data: bool = True, notify: Callable[[str], None] = lambda _: None,
    progress: Callable[[str], None] = lambda _: None,
) -> list[str]:  # fmt: skip
    """Lines about dataset, towers, objective, batches and length of a run.

    Args:
        data: open the dataset and count; False says only what the recipe says.
        notify: receives what the dataset reports (skipped files).
        progress: receives what takes it a while.

    Raises:
        DataError, ComponentError: the dataset cannot be used.
    """
    rows = [("recipe", resolved.recipe.name or str(resolved.path or ""))]
    rows += [*_dataset_rows(resolved), *_tower_rows(resolved), *_objective_rows(resolved), *_teacher_rows(resolved)]
    try:
        rows += _data_rows(resolved, notify, progress) if data else _recipe_rows(resolved.recipe)
    except _NeedsTorch:
        rows += [*_recipe_rows(resolved.recipe), ("", "the dataset's code loads torch: pairs are counted when it runs")]
    rows += _rest(resolved.recipe)
    return [f"{name:<10} {text}".rstrip() for name, text in rows]


def _dataset_rows(resolved: Resolved) -> Iterator[Row]:
    table = resolved.recipe.dataset
    entry = resolved.catalog.get("dataset", table.use)
    changed = _changed(table.config)
    yield "dataset", f"{table.use} ({entry.distribution} {entry.version})" + (f": {changed}" if changed else "")
    for part in table.sources:
        changed = _changed(part.config)
        yield "", f"unmatched items of {part.use}" + (f": {changed}" if changed else "")


def _tower_rows(resolved: Resolved) -> Iterator[Row]:
    width = max(map(len, resolved.recipe.towers))
    for number, (name, tower) in enumerate(resolved.recipe.towers.items()):
        spec = resolved.catalog.get("encoder", tower.encoder.use).spec
        state = "frozen" if tower.encoder.freeze else "trained"
        facts = [f"{tower.encoder.use}, {state}, {_parameters(spec.parameters, tower.encoder.config)}"]
        if changed := _changed(tower.encoder.config):
            facts.append(changed)
        hidden = f"{tower.head.hidden} → " if tower.head.hidden else ""
        facts.append(f"head → {hidden}{tower.head.dimension}")
        if tower.augment:
            facts.append("augmented by " + ", ".join(component.use for component in tower.augment))
        yield "towers" if number == 0 else "", f"{name:<{width}}  {tower.modality}: {'; '.join(facts)}"


def _parameters(count: Callable[[Any], int | None] | None, config: Any) -> str:
    try:
        number = count(config) if count is not None else None
    except Exception:
        number = None  # a plugin's estimate; the run itself counts exactly
    if number is None:
        return "parameters unknown before it is built"
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {unit} parameters"
    return f"{number} parameters"


def _objective_rows(resolved: Resolved) -> Iterator[Row]:
    table = resolved.recipe.objective
    terms = list(_terms(table.config))
    yield "objective", table.use + (": " + " + ".join(terms) if terms else "")
    pairs = table.pairs or tuple(itertools.combinations(resolved.recipe.towers, 2))
    if len(resolved.recipe.towers) > 2:
        yield "", "pairs of towers: " + ", ".join(f"{a}–{b}" for a, b in pairs)


def _teacher_rows(resolved: Resolved) -> Iterator[Row]:
    table, wanted = resolved.recipe.pseudo, {"pseudo", "reference"} & _needs(resolved)
    if table is None or not wanted:
        return
    a, b = table.towers or (*resolved.recipe.objective.pairs, *itertools.combinations(resolved.recipe.towers, 2))[0]
    teacher, changed = table.teacher.use, _changed(table.teacher.config)
    gives = {"pseudo": f"{table.rows} pseudo-pairs a step", "reference": "reference rows"}
    what = " and ".join(gives[name] for name in gives if name in wanted)
    yield "teacher", f"{teacher}{f' ({changed})' if changed else ''} for {a}–{b}: {what}; asked {_asked(table)}"


def _asked(table: PseudoTable) -> str:
    """When the teacher is asked."""

    def after(moment: float) -> str:
        return f"{moment:g} steps" if moment >= 1 else f"{moment:.0%} of the run"

    first = f"after {after(table.start)}" if table.start else "before the first step"
    return f"{first}, then every {after(table.refresh)}" if table.refresh else f"once, {first}"


def _terms(config: Any) -> Iterator[str]:
    """The parts of a composed objective with their weights."""
    children = getattr(config, "children", None)
    for child in children() if callable(children) else ():
        weight = _weight(child.weight)
        if isinstance(config, GentleConfig) and child.key == "ssl" and config.alpha != 1:
            weight = f"{_weight(config.alpha)} · {weight}"
        yield f"{weight} · {_named(child)}"


def _named(child: Child) -> str:
    """A part's name; of one that wraps another, which rows that one sees."""
    inner, keep = child.options.get("loss"), child.options.get("keep", {})
    if not isinstance(inner, Mapping):
        return child.use
    rows = ", ".join(f"{rows} {tower}" for tower, rows in keep.items())
    return f"{inner.get('use')} ({rows or 'all'} rows)"


def _weight(weight: float | Schedule) -> str:
    if not isinstance(weight, Schedule):
        return f"{weight:g}"
    way = f"{weight.steps:g} steps" if weight.steps > 1 else f"{weight.steps:.0%} of the run"
    way = "the run" if weight.steps == 1 else way
    return f"({weight.start:g} → {weight.end:g}, {weight.shape} over {way})"


def _data_rows(resolved: Resolved, notify: Callable[[str], None], progress: Callable[[str], None]) -> Iterator[Row]:
    """Splits, pairs, pools, and what a batch is made of."""
    recipe, table = resolved.recipe, resolved.recipe.dataset
    with _without_torch():
        context = BuildContext(
            cache_dir=cache_folder(), seed=torch_seed(recipe.train.seed, "init", "dataset"), notify=notify,
            progress=progress,
        )  # fmt: skip
        dataset = open_dataset(recipe, resolved.catalog, context)
        names = dict.fromkeys(("train", *recipe.evaluate.splits))
        splits: dict[str, Mapping[str, ItemIndex]] = {name: dataset.index(name) for name in names}
    towers = {name: tower.modality for name, tower in recipe.towers.items()}
    for split, index in splits.items():
        counts = ", ".join(f"{len(index[m]) if m in index else 0} {m}" for m in dict.fromkeys(towers.values()))
        yield "items" if split == "train" else "", f"{split:<5}  {counts}"
    train = splits["train"]
    for tower, modality in towers.items():
        if modality not in train or not len(train[modality]):
            raise DataError(f"the training split of {table.use} has no {modality} items for tower {tower!r}")
    pools = pools_of(table, train, towers, recipe.train.seed)
    wanted = _needs(resolved)
    if not pools.pairs and "pairs" in wanted:
        raise DataError(f"{recipe.objective.use} needs matched pairs, and there are none: raise dataset.paired")
    if said := missing_pairs(table, pools):
        notify(said)
    own = {name: tower.unpaired_rows for name, tower in recipe.towers.items()}
    rows = rows_per_batch(recipe.train, pools.pairs, pools.pool_sizes, "unpaired" in wanted, own)
    sizes = ", ".join(f"{tower} {size}" for tower, size in pools.pool_sizes.items())
    yield "pairs", f"{pools.pairs} matched samples; unmatched pools ({table.pool}): {sizes}"
    unmatched = ", ".join(f"{tower} {count}" for tower, count in rows.unpaired.items())
    yield "batch", f"{rows.paired} matched rows; unmatched rows: {unmatched}"
    epochs = rows.steps / rows.steps_per_epoch
    yield "steps", f"{rows.steps} ({epochs:.3g} epochs of {rows.steps_per_epoch} steps)"


def _recipe_rows(recipe: Recipe) -> Iterator[Row]:
    """What the recipe alone says about batches and steps."""
    train, table = recipe.train, recipe.dataset
    share = f"{table.paired:.0%} of the" if isinstance(table.paired, float) else f"{table.paired}"
    yield "pairs", f"{share} pairs keep their pairing; pools {table.pool}"
    if train.proportional is not None:
        yield "batch", f"{train.proportional} rows, matched ones in proportion to the pairs"
    else:
        paired = train.batch_size if train.paired_rows is None else train.paired_rows
        unpaired = train.batch_size if train.unpaired_rows is None else train.unpaired_rows
        own = [f"{name} {t.unpaired_rows}" for name, t in recipe.towers.items() if t.unpaired_rows is not None]
        apart = f" ({', '.join(own)})" if own else ""
        yield "batch", f"up to {paired} matched rows, and {unpaired} unmatched rows of each tower{apart}"
    yield "steps", f"{train.steps}" if train.steps is not None else f"as many as make {train.epochs:g} epochs"


def _rest(recipe: Recipe) -> Iterator[Row]:
    train = recipe.train
    rates = {
        name: tower.encoder.learning_rate or train.encoder_learning_rate
        for name, tower in recipe.towers.items()
        if not tower.encoder.freeze
    }
    encoders = ", ".join(f"{name} encoder {rate:g}" for name, rate in rates.items()) or "encoders frozen"
    yield (
        "training",
        f"AdamW, rate {train.learning_rate:g} ({encoders}), {train.schedule}, "
        f"{train.precision}, seed {train.seed}, device {recipe.engine.device}",
    )
    forms = recipe.baseline.forms if recipe.baseline.cca else ()
    beside = {
        "CLIP on the same pairs": recipe.baseline.pairs_only,
        f"closed forms ({', '.join(forms)})": bool(forms),
        f"hubness correction ({recipe.evaluate.hubness})": recipe.evaluate.hubness != "none",
    }
    if any(beside.values()):
        yield "beside", ", ".join(name for name, on in beside.items() if on)


def _needs(resolved: Resolved) -> frozenset[str]:
    def lookup(name: str) -> LossSpec:
        spec: LossSpec = resolved.catalog.get("loss", name).spec
        return spec

    table = resolved.recipe.objective
    return needs(lookup(table.use), table.config, lookup)


def _changed(config: Any) -> str:
    """Options that differ from their defaults, as far as they are short."""
    found = []
    for field in attrs.fields(type(config)):
        value, default = getattr(config, field.name), field.default
        if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
            default = default.factory(config) if default.takes_self else default.factory()
        if value != default and isinstance(value, (str, int, float, Path)):
            found.append(f"{field.alias} = {value}")
    return ", ".join(found)


@contextmanager
def _without_torch() -> Iterator[None]:
    """Refuse imports of torch inside the block (unless it is there already), to keep the check quick."""
    if "torch" in sys.modules:
        yield
        return
    sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        yield
    except ComponentError as error:
        if isinstance(error.__cause__, ImportError) and "torch" in str(error.__cause__):
            raise _NeedsTorch from error
        raise
    finally:
        sys.modules.pop("torch", None)
