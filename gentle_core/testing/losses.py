"""Checks of losses, on random batches in float64. Shapes: B rows of a tower, d dimensions."""

from __future__ import annotations

import copy
import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gentle_core.batch import LossContext, LossOut, ParamGroups
from gentle_core.modules import hash_tensors
from gentle_core.testing import ranks
from gentle_core.testing.batches import Inputs, difference, evaluate, gradients, make_inputs, numbers_of_towers
from gentle_core.testing.bench import DIMENSION, TOWERS, Subject, one_line
from gentle_core.testing.cases import Violation, check

EXACT = 1e-8
"""How far values may differ in float64 that are the same but for the order of sums."""
SINGLE = 1e-3
"""The same between float32 and float64."""
SLOPE = 1e-4
"""Between a gradient and a difference quotient."""
MANY, TILE = 192, 32


@check("loss", "builds")
def builds(subject: Subject) -> None:
    """Its factory returns a torch module with the methods of a loss."""
    loss = subject.build()
    if not isinstance(loss, nn.Module):
        raise Violation(
            f"its factory returns {type(loss).__name__}, no torch.nn.Module", "subclass gentle_core.api.LossModule"
        )
    missing = [n for n in ("forward", "param_groups", "post_step", "scorer") if not callable(getattr(loss, n, None))]
    if missing:
        raise Violation(f"it lacks {', '.join(missing)}", "subclass LossModule, which has defaults for all but forward")


@check("loss", "value")
def value(subject: Subject) -> None:
    """It returns a finite scalar, and terms that add up to it."""
    inputs = make_inputs(subject)
    pairs = tuple(itertools.combinations(inputs.leaves, 2))
    out = _loss(subject)(inputs.batch(), LossContext(step=1, steps=10, pairs=pairs))
    if not isinstance(out, LossOut):
        raise Violation(f"forward returns {type(out).__name__}", "return gentle_core.api.LossOut(loss)")
    for name, scalar in {"loss": out.loss, **out.terms}.items():
        if not isinstance(scalar, Tensor) or scalar.dim():
            shown = f"of shape {tuple(scalar.shape)}" if isinstance(scalar, Tensor) else type(scalar).__name__
            raise Violation(f"{name} is {shown}, no scalar tensor", "reduce over rows with a mean or a sum")
        if not torch.isfinite(scalar):
            raise Violation(f"{name} is {scalar.item()} on ordinary rows", "look for a logarithm or division by 0")
    if not out.loss.requires_grad:
        raise Violation("the loss carries no gradient to the rows", "compute it from batch.towers[…].z (or .raw)")
    if out.terms:
        total = sum(out.weights.get(name, 1.0) * float(term.detach()) for name, term in out.terms.items())
        if abs(total - float(out.loss.detach())) > 1e-6 * max(1.0, abs(total)):
            raise Violation(
                f"the loss is {out.loss.item():.6g}, its terms times their weights add up to {total:.6g}",
                "give each part as a term before weighting, and its weight in `weights`; or give no terms",
            )
    carried = [name for name, entry in out.logs.items() if isinstance(entry, Tensor) and entry.requires_grad]
    if carried:
        raise Violation(f"logs {', '.join(carried)} keep the graph alive", "log .item() or .detach()")


@check("loss", "gradient")
def gradient(subject: Subject) -> None:
    """Its gradient in the rows is that of its value."""
    loss, inputs = _loss(subject), make_inputs(subject, counts=(5, 4, 4), pairs=2)
    found = gradients(evaluate(loss, inputs, tile=0).loss, inputs)
    step, generator = 1e-6, torch.Generator().manual_seed(2)
    for name, leaf in inputs.leaves.items():
        direction = torch.randn(leaf.shape, generator=generator, dtype=leaf.dtype)
        values = []
        for sign in (1, -1):
            moved = inputs.of(inputs.leaves | {name: leaf.detach() + sign * step * direction})
            values.append(evaluate(loss, moved, tile=0).loss.item())
        quotient = (values[0] - values[1]) / (2 * step)
        slope = float((found[name] * direction).sum())
        if abs(quotient - slope) > SLOPE * max(1.0, abs(quotient)):
            raise Violation(
                f"along a random direction of tower {name}'s rows the loss rises by {quotient:.6g}, its gradient says "
                f"{slope:.6g}",
                "look for detach() and .item() in the middle of the loss; where that is meant, declare "
                'deviations={"gradient": "why"}',
            )


@check("loss", "precision")
def precision(subject: Subject) -> None:
    """In float32 it gives what it gives in float64."""
    inputs = make_inputs(subject, counts=(24, 20, 22), pairs=12)
    exact = evaluate(_loss(subject), inputs).loss
    rough = evaluate(_loss(subject, torch.float32), inputs.to(torch.float32)).loss
    if (gap := difference(rough, exact)) > SINGLE:
        raise Violation(
            f"in float32 it gives {rough.item():.6g}, in float64 {exact.item():.6g} (difference {gap:.2g})",
            "subtract the largest logit before exp (torch.logsumexp), and avoid differences of large numbers",
        )


@check("loss", "permutation")
def permutation(subject: Subject) -> None:
    """The order of the rows does not matter, in each tower by itself: pairs come from ids."""
    loss, inputs = _loss(subject), make_inputs(subject)
    generator = torch.Generator().manual_seed(4)
    orders = {name: torch.randperm(len(ids), generator=generator) for name, ids in inputs.ids.items()}
    turned = inputs.permuted(orders)
    before, after = evaluate(loss, inputs).loss, evaluate(loss, turned).loss
    if (gap := difference(after, before)) > EXACT:
        raise Violation(
            f"with the rows of each tower in another order the loss is {after.item():.6g} instead of "
            f"{before.item():.6g} (difference {gap:.2g})",
            "find the pairs with batch.pairs(a, b); rows with one position in two towers are no pair",
        )
    expected, found = gradients(before, inputs), gradients(after, turned)
    for name, order in orders.items():
        if difference(found[name], expected[name][:, order]) > EXACT:
            raise Violation("the gradient does not follow the rows to their new places", "index gradients with ids")


@check("loss", "counts")
def counts(subject: Subject) -> None:
    """Towers may have different numbers of rows, and any number of them may be matched."""
    for rows, pairs in (((3, 9, 4), 2), ((9, 3, 5), 3), ((6, 6, 6), 6)):
        _sound(subject, make_inputs(subject, counts=rows, pairs=pairs), f"{rows[0]} and {rows[1]} rows, {pairs} pairs")


@check("loss", "few")
def few(subject: Subject) -> None:
    """One pair, no pairs, no rows in a tower: finite all the same."""
    cases = {"one pair and nothing else": ((1, 1, 1), 1), "no pairs": ((4, 3, 3), 0), "one row a tower": ((1, 1, 1), 0)}
    cases |= {"no rows in tower b": ((4, 0, 3), 0), "no rows in tower a": ((0, 4, 3), 0)}
    for what, (rows, pairs) in cases.items():
        _sound(subject, make_inputs(subject, counts=rows, pairs=pairs), what)


@check("loss", "extremes")
def extremes(subject: Subject) -> None:
    """Collapsed, opposite and badly scaled rows give a finite loss and finite gradients, in float32."""
    inputs = make_inputs(subject, counts=(16, 12, 12), pairs=8, dtype=torch.float32)
    same = {name: leaf[:, :1].expand_as(leaf) for name, leaf in inputs.leaves.items()}
    first = next(iter(inputs.leaves.values()))[:1, :1]
    one = {name: first.expand_as(leaf) for name, leaf in inputs.leaves.items()}
    opposite = {name: leaf * (-1) ** k for k, (name, leaf) in enumerate(one.items())}
    tried = {"all rows of a tower equal": same, "all rows of all towers equal": one, "towers opposite": opposite}
    if not subject.spec.same_dimension:
        tried = {"all rows of a tower equal": same}
    for what, leaves in tried.items():
        _sound(subject, inputs.of(leaves), what, torch.float32)
    for scale in (1e-3, 1e3):
        _sound(subject, inputs.scaled(scale), f"projections of size {scale:g}", torch.float32)


@check("loss", "repeatable")
def repeatable(subject: Subject) -> None:
    """Under one random state the same batch gives the same loss, and is left as it was."""
    loss, inputs = _loss(subject), make_inputs(subject)
    batch = inputs.batch()
    before = _hash(batch)
    seen = []
    for _ in range(2):
        torch.manual_seed(0)
        fresh = copy.deepcopy(loss)
        seen.append(evaluate(fresh, inputs).loss.detach())
    if not torch.equal(*seen):
        raise Violation(
            f"the same batch gives {seen[0].item():.6g}, then {seen[1].item():.6g}",
            "draw from torch's generator alone, which every step seeds",
        )
    loss(batch, LossContext(step=1, steps=10))
    if _hash(batch) != before:
        raise Violation("it changes the rows or ids that it is given", "work on copies: no in-place operations on them")


@check("loss", "evaluation")
def evaluation(subject: Subject) -> None:
    """In evaluation it works without second views."""
    out = evaluate(_loss(subject).eval(), make_inputs(subject), views=False, training=False)
    if not torch.isfinite(out.loss):
        raise Violation(
            f"in evaluation it is {out.loss.item()}", "where ctx.training is False, leave terms of views out"
        )


@check("loss", "towers")
def towers(subject: Subject) -> None:
    """It takes every number of towers that it declares."""
    least, most = numbers_of_towers(subject)
    for number in range(least, min(most, len(TOWERS)) + 1):
        _sound(subject, make_inputs(subject, towers=number), f"{number} towers")


@check("loss", "dimensions")
def dimensions(subject: Subject) -> None:
    """Where it declares so, towers may have different dimensions."""
    if subject.spec.same_dimension:
        return
    sizes = {name: DIMENSION - k for k, name in enumerate(TOWERS)}
    inputs = make_inputs(subject, dimensions=sizes)
    loss = subject.build(dimensions={name: sizes[name] for name in inputs.leaves}).double()
    if not torch.isfinite(evaluate(loss, inputs).loss):
        raise Violation("with towers of different dimensions it is not finite", "declare same_dimension=True")


@check("loss", "tiles")
def tiles(subject: Subject) -> None:
    """Tiled equals dense: `ctx.tile` changes neither value nor gradient."""
    loss, inputs = _loss(subject), make_inputs(subject, counts=(11, 9, 8), pairs=5)
    dense = evaluate(loss, inputs, tile=0).loss
    expected = gradients(dense, inputs)
    for tile in (2, 5, "auto"):
        tiled = evaluate(loss, inputs, tile=tile).loss
        found = gradients(tiled, inputs)
        gap = max(difference(tiled, dense), *(difference(found[name], expected[name]) for name in expected))
        if gap > EXACT:
            raise Violation(
                f"with tile={tile!r} loss or gradient differ by {gap:.2g} from tile=0",
                "cover every cell once, the ragged tiles at the edges included; or ignore ctx.tile",
            )


@check("loss", "memory")
def memory(subject: Subject) -> None:
    """A loss of scope "rows", "pairs" or "moments" keeps no B x B matrix for its backward pass."""
    scope = subject.spec.scope
    if scope == "global":
        return  # promises nothing
    inputs = make_inputs(subject, counts=(MANY,) * len(TOWERS), pairs=MANY // 2, dtype=torch.float32)
    loss, largest = _loss(subject, torch.float32), 0

    def note(tensor: Tensor) -> Tensor:
        nonlocal largest
        largest = max(largest, tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        evaluate(loss, inputs, tile=TILE)
    if largest >= MANY * MANY // 4:
        raise Violation(
            f'of {MANY} rows it keeps {largest} numbers in one tensor, with tile={TILE}; its scope is "{scope}"',
            'stream over tiles of ctx.tile rows (see docs/reference/plugin-interface.md), or declare scope="global"',
        )


@check("loss", "ranks")
def one_rank_against_two(subject: Subject) -> None:
    """On two ranks, each with its own rows, loss and gradients are those of one."""
    make_inputs(subject)  # there is something to try
    found = subject.bench.remembered("two ranks", lambda: ranks.try_losses(subject.bench))
    problem = found.get(subject.entry.full_name, "it was not tried")
    if problem:
        raise Violation(
            problem,
            "compute from the whole batch that every rank is given (ctx.group says who shares the work), and average "
            "nothing over ranks",
        )


@check("loss", "groups")
def groups(subject: Subject) -> None:
    """`param_groups` names every trainable parameter once."""
    loss = subject.build()
    found = loss.param_groups()
    if not isinstance(found, ParamGroups):
        raise Violation(f"param_groups returns {type(found).__name__}", "return gentle_core.api.ParamGroups(min=[…])")
    named = [id(p) for p in (*found.min, *found.max, *found.own)]
    if len(named) != len(set(named)):
        raise Violation("param_groups names a parameter twice", "put each into one of min, max and own")
    forgotten = [name for name, p in loss.named_parameters() if p.requires_grad and id(p) not in named]
    if forgotten:
        raise Violation(f"param_groups forgets {', '.join(forgotten)}", "add them to min, max (adversaries) or own")


@check("loss", "saved")
def saved(subject: Subject) -> None:
    """Its state goes through safetensors into a fresh loss that gives the same value."""
    loss, inputs = _loss(subject), make_inputs(subject)
    out = evaluate(loss, inputs)
    if trainable := [p for p in loss.parameters() if p.requires_grad]:
        found = torch.autograd.grad(out.loss, trainable, allow_unused=True)
        with torch.no_grad():
            for parameter, slope in zip(trainable, found, strict=True):
                parameter -= 0.1 * (torch.zeros_like(parameter) if slope is None else slope)
    loss.post_step(LossContext(step=1, steps=10))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "loss.safetensors"
        try:
            save_file({key: value.contiguous() for key, value in loss.state_dict().items()}, path)
            fresh = subject.build(seed=1).double()
            fresh.load_state_dict(load_file(path))
        except (RuntimeError, ValueError) as error:
            raise Violation(
                f"its state cannot be saved and loaded: {str(error).splitlines()[0]}",
                "keep all that steps change in parameters and buffers made in __init__",
            ) from error
    torch.manual_seed(0)
    after = evaluate(loss, inputs).loss
    torch.manual_seed(0)
    if difference(evaluate(fresh, inputs).loss, after) > EXACT:
        raise Violation(
            "after a step, a loss that is rebuilt and loaded gives another value: a resumed run would differ",
            "keep all that steps change in parameters and buffers (register_buffer)",
        )


@check("loss", "scorer")
def scorer(subject: Subject) -> None:
    """Its scorer, if it has one, gives finite scores (m, n)."""
    score = subject.build().double().scorer()
    if score is None:
        return
    u, v = (torch.nn.functional.normalize(torch.randn(n, DIMENSION, dtype=torch.float64), dim=1) for n in (4, 3))
    found = score(u, v)
    if tuple(found.shape) != (4, 3) or not torch.isfinite(found).all():
        raise Violation(f"of 4 and 3 rows its scorer makes {tuple(found.shape)}", "return finite scores (m, n)")


# -- helpers ---------------------------------------------------------------------------------------------------------


def _loss(subject: Subject, dtype: torch.dtype = torch.float64) -> Any:
    return subject.build().to(dtype)


def _sound(subject: Subject, inputs: Inputs, what: str, dtype: torch.dtype = torch.float64) -> None:
    """Loss and gradients are finite."""
    try:
        out = evaluate(_loss(subject, dtype), inputs)
        found = gradients(out.loss, inputs)
    except (RuntimeError, IndexError, ValueError, ZeroDivisionError) as error:
        raise Violation(
            f"with {what} it fails: {one_line(error)}",
            "return a 0 that is connected to the rows (rows.sum() * 0) where there is nothing to compare",
        ) from error
    bad = [name for name, slope in found.items() if not torch.isfinite(slope).all()]
    if not torch.isfinite(out.loss) or bad:
        which = (
            f"the loss is {out.loss.item()}" if not torch.isfinite(out.loss) else f"gradients of {bad} are not finite"
        )
        raise Violation(
            f"with {what} {which}",
            "guard divisions by counts and norms (clamp_min), use torch.logsumexp, and no sqrt or log at 0",
        )


def _hash(batch: Any) -> str:
    return hash_tensors(dict(_tensors(batch)))


def _tensors(batch: Any) -> Iterator[tuple[str, Tensor]]:
    for tower, rows in batch.towers.items():
        for name in ("z", "ids", "raw", "views", "raw_views"):
            if (tensor := getattr(rows, name)) is not None:
                yield f"{tower}/{name}", tensor
