"""What a recipe's step needs, found out without training: parts are built, a few rows pass the towers, and the
objective runs on random embeddings.

Towers are built on torch's meta device where they allow it: shapes without numbers, so that a tower of billions of
parameters can be planned on a laptop. One whose work depends on its input's values (neighbours in space) is built in
memory.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from gentle_core.batch import AlignBatch, LossContext, Rows
from gentle_core.builtin import needs
from gentle_core.data.pools import pools_of
from gentle_core.data.rows import RowPlan, rows_per_batch
from gentle_core.data.sampler import BatchSampler, TowerPlan
from gentle_core.engine.budget import ObjectiveCost, Setting, TowerCost
from gentle_core.engine.build import Builder
from gentle_core.engine.recompute import blocks_of
from gentle_core.engine.towers import Tower, to_device
from gentle_core.errors import DataError
from gentle_core.losses.cells import TILE_ROWS
from gentle_core.recipe.load import Resolved
from gentle_core.recipe.model import Recipe

SAMPLE = 6
"""Rows that pass a tower to see what it keeps; a second time twice as many, for the share that is the same."""
OBJECTIVE_ROWS = (256, 512, 1024)
"""Rows of each set at which the objective is measured beyond what fits."""


@attrs.frozen
class Foreseen:
    """What was found about a recipe.

    Attributes:
        on_meta: by tower, whether it was measured without numbers.
    """

    towers: dict[str, TowerCost]
    objective: ObjectiveCost
    rows: RowPlan
    views: int
    on_meta: dict[str, bool]


def foresee(resolved: Resolved, notify: Callable[[str], None] = lambda _: None) -> Foreseen:
    """Measure towers and objective of a recipe.

    Raises:
        GentleError: the data or a component cannot be used.
    """
    recipe = resolved.recipe
    builder = Builder(recipe=recipe, catalog=resolved.catalog, notify=notify, load_weights=False)
    dataset = builder.dataset()
    index = dataset.index("train")
    modalities = {name: table.modality for name, table in recipe.towers.items()}
    for name, modality in modalities.items():
        if not len(index.get(modality, ())):
            raise DataError(f"the training split of {recipe.dataset.use} has no {modality} items for tower {name!r}")
    spec = resolved.catalog.get("loss", recipe.objective.use).spec
    wanted = needs(spec, recipe.objective.config, lambda name: resolved.catalog.get("loss", name).spec)
    pools = pools_of(recipe.dataset, index, modalities, recipe.train.seed)
    rows = rows_per_batch(recipe.train, pools.pairs, pools.pool_sizes, "unpaired" in wanted)
    plans = BatchSampler(pools, rows, recipe.train.seed).batch(0)
    towers, on_meta = {}, {}
    for name, modality in modalities.items():
        frozen = recipe.towers[name].encoder.freeze
        augmented = bool(builder.augmentations(name, "item") or builder.augmentations(name, "batch"))
        items = [index[modality].items[p] for p in plans[name].positions]
        towers[name], on_meta[name] = _tower(
            builder, name, dataset.load(modality, items), plans[name],
            cached=frozen and (not augmented or recipe.towers[name].encoder.views > 0),
        )  # fmt: skip
    views = 2 if "views" in wanted else 1
    return Foreseen(towers, _objective(builder, towers, views), rows, views, on_meta)


def setting_of(recipe: Recipe, found: Foreseen, ranks: int, stage: int | None) -> Setting:
    """How the recipe is spread over so many ranks: at a ZeRO stage, or (None) with the local back end."""
    half = recipe.train.precision != "float32"  # at stage 0 by autocast: the weights stay whole
    return Setting(
        ranks=ranks, stage=stage, chunks=recipe.train.accumulate, views=found.views, weight=2 if half and stage else 4,
        offload=recipe.engine.offload != "none" and bool(stage),
    )  # fmt: skip


# -- towers ------------------------------------------------------------------------------------------------------------


def _tower(builder: Builder, name: str, raw: list[Any], plan: TowerPlan, cached: bool) -> tuple[TowerCost, bool]:
    """Count a tower's parameters and measure what it keeps for the backward pass."""
    for device in ("meta", "cpu"):
        try:
            with torch.device(device):
                tower = builder.tower(name)
            tower.train()
            lean = builder.recipe.engine.activation_checkpointing and not tower.frozen
            blocks = blocks_of(tower.encoder) if lean else []
            precision = builder.recipe.train.precision
            small, large = (_kept(tower, raw, count, cached, precision, blocks) for count in _counts(raw))
            break
        except Exception:
            if device == "cpu":
                raise
    more = large.rows - small.rows
    slope = (large.kept - small.kept) / more if more else small.kept / small.rows
    cost = TowerCost(
        parameters=_count(tower), trainable=_count(tower, trained=True), largest=_largest(tower),
        matched=plan.matched, unmatched=len(plan.positions) - plan.matched,
        dimension=builder.recipe.towers[name].head.dimension, inputs=small.inputs / small.rows, row=max(slope, 0.0),
        fixed=max(small.kept - slope * small.rows, 0.0), largest_activation=small.largest / small.rows,
        block=large.block / large.rows, cached=cached,
    )  # fmt: skip
    return cost, device == "meta"


@attrs.frozen
class _Kept:
    """Bytes of a forward pass: what it keeps for the backward pass, its inputs, the largest tensor kept, and what the
    largest block keeps that is computed again."""

    rows: int
    kept: float
    inputs: float
    largest: float
    block: float


def _counts(raw: list[Any]) -> tuple[int, int]:
    return min(SAMPLE, len(raw)), min(2 * SAMPLE, len(raw))


def _kept(tower: Tower, raw: list[Any], count: int, cached: bool, precision: str, blocks: Sequence[nn.Module]) -> _Kept:
    """Of `count` rows: the longest item and others spread evenly over the sizes, as a batch pads to its longest.

    Of `blocks` only what enters is kept.
    """
    order = sorted(range(len(raw)), key=lambda i: -tower.encoder.size(raw[i]))
    chosen = [raw[order[i]] for i in np.linspace(0, len(order) - 1, count).astype(int)]
    device = next(tower.parameters()).device
    if cached:
        inputs: Any = torch.zeros(count, tower.encoder.width, device=device)
    else:
        inputs = to_device(tower.encoder.collate(chosen), device)
    own = {_storage(t) for t in (*tower.parameters(), *tower.buffers())}
    given = {_storage(t): _size(t) for t in _tensors(inputs)}
    kept: dict[int, Tensor] = {}
    inner: list[dict[int, Tensor]] = [{} for _ in blocks]
    at = [kept]  # where what is kept now counts

    def pack(x: Tensor) -> Tensor:
        if _storage(x) not in own and _storage(x) not in given:
            at[-1][_storage(x)] = x
        return x

    def enter(number: int, _: nn.Module, entering: Any, named: Any) -> None:
        for x in (*_tensors(entering), *_tensors(named)):
            pack(x)
        at.append(inner[number])

    def leave(*_: Any) -> None:
        at.pop()

    hooks = [block.register_forward_pre_hook(partial(enter, n), with_kwargs=True) for n, block in enumerate(blocks)]
    hooks += [block.register_forward_hook(leave) for block in blocks]
    cast = torch.autocast(device.type if device.type != "meta" else "cpu", torch.bfloat16, precision == "bfloat16")
    with cast, torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        out = tower(inputs, cached)
    for hook in hooks:
        hook.remove()
    sizes = [_size(x) for x in (*kept.values(), out)]
    most = max((sum(_size(x) for name, x in found.items() if name not in kept) for found in inner), default=0)
    return _Kept(count, float(sum(sizes)), float(sum(given.values())), float(max(sizes)), float(most))


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return [x for part in parts for x in _tensors(part)]


def _storage(x: Tensor) -> int:
    return x.untyped_storage()._cdata


def _size(x: Tensor) -> int:
    return x.untyped_storage().nbytes()


def _count(module: nn.Module, trained: bool = False) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trained)


def _largest(module: nn.Module) -> int:
    """Numbers in the largest layer: the parameters that one module holds itself."""
    return max((sum(p.numel() for p in m.parameters(recurse=False)) for m in module.modules()), default=0)


# -- objective ---------------------------------------------------------------------------------------------------------


def _objective(builder: Builder, towers: Mapping[str, TowerCost], views: int) -> ObjectiveCost:
    """Fit the peak of objective and gradient, measured on random embeddings of a few sizes."""
    torch.manual_seed(0)
    loss = builder.loss()
    total = max(t.matched + t.unmatched for t in towers.values())
    sizes = [min(rows, total) for rows in OBJECTIVE_ROWS] if total > OBJECTIVE_ROWS[-1] else [total]
    found = []
    for rows in dict.fromkeys(sizes):
        scale = rows / total
        context = LossContext(step=0, steps=1, pairs=builder.pairs(), tile=builder.recipe.train.tile)
        _both_ways(loss, _random_batch(towers, scale, views), context)  # what is computed once and kept
        batch = _random_batch(towers, scale, views)
        count = sum(len(r.z) for r in batch.towers.values())
        found.append((count, float(peak_bytes(partial(_both_ways, loss, batch, context)))))
    if len(found) == 1:
        return ObjectiveCost(fixed=found[0][1], row=0.0, square=0.0)
    # Within tiles memory is linear; what grows with the square shows in the last of three sizes.
    (b1, m1), (b2, m2), (b3, m3) = found
    slopes = (m2 - m1) / (b2 - b1), (m3 - m2) / (b3 - b2)
    square = max((slopes[1] - slopes[0]) / (b3 - b1), 0.0)
    square = square if square * b3 * b3 > 0.1 * m3 else 0.0
    row = max(slopes[1] - square * (b2 + b3), 0.0) if square else max((m3 - m2) / (b3 - b2), 0.0)
    fixed = max(m3 - row * b3 - square * b3 * b3, 0.0)
    return ObjectiveCost(fixed=fixed, row=row, square=square, tile=min(4 * 4.0 * TILE_ROWS**2, fixed))


def _random_batch(towers: Mapping[str, TowerCost], scale: float, views: int) -> AlignBatch:
    found, start = {}, 10**6
    for name, tower in towers.items():
        matched, unmatched = round(tower.matched * scale), round(tower.unmatched * scale)
        raw = torch.randn(views, matched + unmatched, tower.dimension)
        ids = torch.cat([torch.arange(matched), torch.arange(unmatched) + start])
        start += unmatched
        leaf = raw[0].requires_grad_()
        second = raw[1].requires_grad_() if views == 2 else None
        found[name] = Rows(
            z=F.normalize(leaf, dim=-1), ids=ids, raw=leaf,
            views=None if second is None else F.normalize(second, dim=-1), raw_views=second,
        )  # fmt: skip
    return AlignBatch(found)


def _both_ways(loss: Any, batch: AlignBatch, context: LossContext) -> None:
    loss(batch, context).loss.backward()


def peak_bytes(run: Callable[[], object]) -> int:
    """Peak of torch's own allocations on the CPU above the start."""
    with muted(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        run()
    results = recorded.profiler.kineto_results
    events = [(e.start_ns(), e.nbytes()) for e in results.events() if e.name() == "[memory]"]
    return max(itertools.accumulate(size for _, size in sorted(events)), default=0)


@contextlib.contextmanager
def muted() -> Iterator[None]:
    """Without the lines that the profiler's library prints past Python."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        yield
    finally:
        for number, handle in enumerate(kept, 1):
            os.dup2(handle, number)
            os.close(handle)
        os.close(nowhere)
