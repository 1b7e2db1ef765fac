"""Checks of encoders. Shapes: B items, W = the declared width."""

from __future__ import annotations

import copy
import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gentle_core.data.features import content_key
from gentle_core.errors import DataError
from gentle_core.modules import hash_tensors
from gentle_core.testing.bench import Subject, one_line
from gentle_core.testing.cases import NotApplicable, Violation, check
from gentle_core.testing.contents import leaves
from gentle_core.testing.isolation import no_network

TOLERANCE = 1e-3
"""How far features may differ, against their own size, where they are the same but for the order of float32 sums."""
SAME = 1e-6
"""Below this, features of different items are the same."""
HALF_TOLERANCE = 0.15
"""The same between float32 and bfloat16 arithmetic."""

_METHODS = ("collate", "forward", "size", "fingerprint", "facts", "portable")


@check("encoder", "builds")
def builds(subject: Subject) -> None:
    """Its factory returns a torch module with a width and the methods of an encoder."""
    encoder = subject.build()
    if not isinstance(encoder, nn.Module):
        raise Violation(
            f"its factory returns {type(encoder).__name__}, no torch.nn.Module",
            "subclass gentle_core.api.EncoderModule",
        )
    missing = [name for name in _METHODS if not callable(getattr(encoder, name, None))]
    if missing:
        raise Violation(f"it lacks {', '.join(missing)}", "subclass EncoderModule, which has defaults for most of them")
    width = getattr(encoder, "width", None)
    if type(width) is not int or width < 1:
        raise Violation(f"its width is {width!r}", "set `width` to the number of features an item, a plain int")


@check("encoder", "offline")
def offline(subject: Subject) -> None:
    """Building it and encoding with it asks nothing of the network."""
    with no_network() as asked:
        encoder = subject.build().eval()
        _features(encoder, subject.items())
    if asked:
        raise Violation(
            f"it tries to reach {', '.join(dict.fromkeys(asked))}",
            "give the spec an example whose weights come with the package or are random; and download nothing where "
            "an option does not ask for it",
        )


@check("encoder", "collate")
def collate(subject: Subject) -> None:
    """`collate` makes CPU tensors, the same each time, and leaves the items as they were."""
    encoder, items = subject.build().eval(), subject.items()
    before = [_state_of(item) for item in items]
    first = encoder.collate(items)
    parts = list(leaves(first))
    strangers = sorted({type(leaf).__name__ for leaf in parts if not isinstance(leaf, Tensor)})
    if not any(isinstance(leaf, Tensor) for leaf in parts):
        raise Violation(
            f"collate returns no tensor but {', '.join(strangers)}",
            "return tensors, in dicts, lists or tuples: nothing else is moved to the device",
        )
    away = sorted({str(leaf.device) for leaf in parts if isinstance(leaf, Tensor) and leaf.device.type != "cpu"})
    if away:
        raise Violation(f"collate makes tensors on {', '.join(away)}", "leave them on the CPU: the loop moves them")
    if [_state_of(item) for item in items] != before:
        raise Violation("collate changes the items that it is given", "copy what you change: items are used again")
    if _state_of(first) != _state_of(encoder.collate(items)):
        raise Violation(
            "collate makes other tensors of the same items the second time, in evaluation",
            "leave randomness to augmentations, or to forward in training",
        )


@check("encoder", "size")
def size(subject: Subject) -> None:
    """`size` gives each item a cost above 0."""
    encoder = subject.build()
    for item in subject.items():
        cost = encoder.size(item)
        if isinstance(cost, bool) or not isinstance(cost, (int, float)) or not (math.isfinite(cost) and cost > 0):
            raise Violation(
                f"size of {type(item).__name__} is {cost!r}",
                "return a number above 0 that grows with the cost of an item: its length, or 1 where all cost the same",
            )


@check("encoder", "shape")
def shape(subject: Subject) -> None:
    """Features are (items, width), float, for one item and for several."""
    encoder, items = subject.build().eval(), subject.items()
    for count in sorted({1, 2, len(items)} - {n for n in (2,) if len(items) < 2}):
        features = _features(encoder, items[:count])
        if not isinstance(features, Tensor):
            raise Violation(f"forward returns {type(features).__name__}", "return one tensor (items, width)")
        if tuple(features.shape) != (count, encoder.width):
            raise Violation(
                f"{count} items give features {tuple(features.shape)}, where ({count}, {encoder.width}) are declared",
                "pool over positions, keep the batch dimension of a single item, and make `width` what comes out",
            )
        if not features.is_floating_point():
            raise Violation(f"features are {features.dtype}", "return float32")


@check("encoder", "finite")
def finite(subject: Subject) -> None:
    """Features are finite, and tell different items apart."""
    encoder, items = subject.build().eval(), subject.items()
    features = _features(encoder, items)
    if not torch.isfinite(features).all():
        bad = (~torch.isfinite(features).all(1)).nonzero()[:, 0].tolist()
        raise Violation(
            f"features of items {bad} hold nan or infinity",
            "look for a division by a count of 0, a logarithm of 0, a softmax over masked positions only",
        )
    different = len({_state_of(item) for item in items}) > 1
    if different and _difference(features, features[:1].expand_as(features)) < SAME:
        raise Violation("all items have the same features", "see whether forward looks at its inputs at all")


@check("encoder", "padding")
def padding(subject: Subject) -> None:
    """An item's features do not depend on longer items beside it."""
    encoder, items = subject.build().eval(), subject.items()
    by_size = sorted(items, key=encoder.size)
    short, long = by_size[0], by_size[-1]
    if encoder.size(short) == encoder.size(long):
        raise NotApplicable("all items are of one size: there is no padding to see through")
    alone, beside = _features(encoder, [short]), _features(encoder, [short, long])[:1]
    if (difference := _difference(beside, alone)) > TOLERANCE:
        raise Violation(
            f"the features of an item of size {encoder.size(short)} change by {difference:.2g} of themselves when one "
            f"of size {encoder.size(long)} is in the batch",
            "mask padded positions before every sum, mean, maximum, normalisation and attention",
        )


@check("encoder", "batch")
def batch(subject: Subject) -> None:
    """An item's features do not depend on its batch or its place in it, in evaluation."""
    encoder, items = subject.build().eval(), subject.items()
    together = _features(encoder, items)
    if len(items) > 1:
        order = torch.arange(len(items) - 1, -1, -1)
        turned = _features(encoder, [items[i] for i in order.tolist()])
        if (difference := _difference(turned, together[order])) > TOLERANCE:
            raise Violation(
                f"in the opposite order the same items get other features (difference {difference:.2g})",
                "return row i for item i: undo a sorting or grouping that collate makes",
            )
    alone = torch.cat([_features(encoder, [item]) for item in items])
    if (difference := _difference(alone, together)) > TOLERANCE:
        raise Violation(
            f"encoded one by one the same items get other features (difference {difference:.2g})",
            "let no statistic go over the batch in evaluation (batch normalisation by running averages, no mean over "
            "items)",
        )


@check("encoder", "eval")
def evaluation(subject: Subject) -> None:
    """In evaluation the same items give the same bits, whatever the random state."""
    encoder, items = subject.build().eval(), subject.items()
    torch.manual_seed(1)
    first = _features(encoder, items)
    torch.manual_seed(2)
    if not torch.equal(_features(encoder, items), first):
        raise Violation(
            "in evaluation two passes over the same items differ",
            "make dropout, noise and sampling depend on self.training (F.dropout wants training=self.training)",
        )


@check("encoder", "frozen")
def frozen(subject: Subject) -> None:
    """Frozen means frozen: passes in evaluation change no weight and no buffer, and give no gradient."""
    encoder, items = subject.build(), subject.items()
    encoder.requires_grad_(False)
    encoder.eval()
    print_before, before = encoder.fingerprint(), hash_tensors(encoder.state_dict())
    features = encoder(encoder.collate(items))
    if features.requires_grad:
        raise Violation(
            "without trainable weights its features still carry a gradient",
            "build forward from its own parameters alone, and turn none of them on again",
        )
    if any(module.training for module in encoder.modules()):
        raise Violation("a part of it goes back to training mode", "do not call train() inside forward or collate")
    if hash_tensors(encoder.state_dict()) != before:
        raise Violation(
            "a pass in evaluation changes its weights or buffers",
            "update running statistics and counters in training alone",
        )
    if encoder.fingerprint() != print_before:
        raise Violation(
            "its fingerprint changes though its weights do not: cached features would never be found again",
            "hash weights and options that matter, nothing else",
        )


@check("encoder", "fingerprint")
def fingerprint(subject: Subject) -> None:
    """The fingerprint is the same for the same weights and another for others."""
    encoder = subject.build()
    if subject.build().fingerprint() != encoder.fingerprint():
        raise Violation(
            "built twice from one seed, it has two fingerprints",
            "initialise from context.seed (torch is seeded with it), and hash content, not addresses or times",
        )
    weight = next((p for p in encoder.parameters() if p.numel()), None)
    if weight is None:
        return
    before = encoder.fingerprint()
    with torch.no_grad():
        weight[(0,) * weight.dim()] += 1.0
    if encoder.fingerprint() == before:
        raise Violation(
            "its fingerprint does not see that a weight has changed: a frozen encoder would get stale features",
            "let it depend on hash_tensors(self.state_dict())",
        )


@check("encoder", "state")
def state(subject: Subject) -> None:
    """The state dict has the same keys and shapes after training as before, and none is left out."""
    encoder, items = subject.build(), subject.items()
    before = {key: tuple(value.shape) for key, value in encoder.state_dict().items()}
    again = {key: tuple(value.shape) for key, value in subject.build().state_dict().items()}
    if before != again:
        raise Violation(
            f"built twice, it has other entries in its state dict: {_unlike(before, again)}",
            "give parameters and buffers fixed names and shapes that follow from the options",
        )
    encoder.train()
    features = encoder(encoder.collate(items))
    if features.requires_grad:
        features.square().sum().backward()
    after = {key: tuple(value.shape) for key, value in encoder.state_dict().items()}
    if before != after:
        raise Violation(
            f"a training pass changes the entries of its state dict: {_unlike(before, after)}",
            "make all parameters and buffers in __init__, none lazily",
        )


@check("encoder", "gradient")
def gradient(subject: Subject) -> None:
    """Its trainable weights get finite gradients."""
    encoder, items = subject.build().train(), subject.items()
    trainable = {name: p for name, p in encoder.named_parameters() if p.requires_grad}
    if not trainable:
        raise NotApplicable("it has no trainable weights")
    features = encoder(encoder.collate(items))
    if not features.requires_grad:
        raise Violation("in training its features carry no gradient", "take no_grad, detach and numpy out of forward")
    (features * torch.linspace(-1, 1, features.numel()).view_as(features)).sum().backward()
    bad = [name for name, p in trainable.items() if p.grad is not None and not torch.isfinite(p.grad).all()]
    if bad:
        raise Violation(f"gradients of {_listed(bad)} hold nan or infinity", "look for sqrt or norm at 0")
    if not any(p.grad is not None and p.grad.abs().max() > 0 for p in trainable.values()):
        raise Violation("no trainable weight gets a gradient", "see where forward leaves the graph (detach, no_grad)")


@check("encoder", "saved")
def saved(subject: Subject) -> None:
    """Saved as safetensors and rebuilt without its files, it gives the same features."""
    encoder, items = subject.build().eval(), subject.items()
    portable = encoder.portable()
    try:
        rebuilt = subject.build(seed=1, load_weights=False, options=portable).eval()
    except Exception as error:
        raise Violation(
            f"with load_weights off it cannot be rebuilt: {one_line(error)}",
            "make the architecture alone where context.load_weights is False; portable() returns the options for that",
        ) from error
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        try:
            save_file({key: value.contiguous() for key, value in encoder.state_dict().items()}, path)
        except (RuntimeError, ValueError) as error:
            raise Violation(
                f"its state dict cannot be saved as safetensors: {str(error).splitlines()[0]}",
                "keep only tensors in it, and a shared one once",
            ) from error
        try:
            rebuilt.load_state_dict(load_file(path))
        except RuntimeError as error:
            raise Violation(
                f"the rebuilt encoder does not take the saved weights: {one_line(error)}",
                "let the state dict follow from the options alone, weights loaded or not",
            ) from error
    if (difference := _difference(_features(rebuilt, items), _features(encoder, items))) > SAME:
        raise Violation(
            f"rebuilt and loaded, it gives other features (difference {difference:.2g})",
            "keep all that features depend on in parameters, persistent buffers or options",
        )


@check("encoder", "seed")
def seed(subject: Subject) -> None:
    """Built from one seed, it starts from the same weights."""
    first, second = (hash_tensors(subject.build(seed=3).state_dict()) for _ in range(2))
    if first != second:
        raise Violation(
            "built twice from one seed, it starts from different weights",
            "initialise with torch's generator, which is seeded, or from context.seed",
        )


@check("encoder", "autocast")
def autocast(subject: Subject) -> None:
    """It works under bfloat16 autocast, and gives nearly the same features."""
    encoder, items = subject.build().eval(), subject.items()
    plain = _features(encoder, items)
    inputs = encoder.collate(items)
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = encoder(inputs)
            if half.requires_grad:
                half.float().square().sum().backward()
    except RuntimeError as error:
        raise Violation(
            f"under autocast it fails: {str(error).splitlines()[0]}",
            "name no dtype in forward; bring operands together with .to(other.dtype)",
        ) from error
    if not torch.isfinite(half).all():
        raise Violation("under autocast its features hold nan or infinity", "keep sums and norms in float32")
    if (difference := _difference(half.detach(), plain)) > HALF_TOLERANCE:
        raise Violation(
            f"under autocast its features are others (difference {difference:.2g})",
            "keep long sums, norms and exponentials in float32",
        )


@check("encoder", "parameters")
def parameters(subject: Subject) -> None:
    """The declared number of parameters is the true one."""
    declare = subject.spec.parameters
    count = None if declare is None else declare(subject.config())
    if count is None:
        return
    true = sum(p.numel() for p in subject.build().parameters())
    if count != true:
        raise Violation(f"its spec declares {count} parameters, it has {true}", "mend the spec's `parameters` function")


@check("encoder", "facts")
def facts(subject: Subject) -> None:
    """Its facts can be written into a manifest."""
    found = subject.build().facts()
    try:
        if not isinstance(found, Mapping):
            raise TypeError(f"a {type(found).__name__}, no mapping")
        json.dumps(dict(found))
    except (TypeError, ValueError) as error:
        raise Violation(f"facts() is not fit for JSON: {error}", "return a dict of str, numbers, lists") from error


@check("encoder", "items")
def items_hash(subject: Subject) -> None:
    """Items can be told apart by content, as cached features of a frozen encoder need."""
    for item in subject.items():
        try:
            same = content_key(item) == content_key(copy.deepcopy(item))
        except DataError as error:
            raise Violation(
                f"an item of type {type(item).__name__} has no content to hash: {error}",
                "make items str, bytes, arrays, tensors, images, or attrs classes, lists and mappings of these",
            ) from error
        if not same:
            raise Violation(
                f"a copy of an item of type {type(item).__name__} hashes to something else",
                "leave out of its fields what is not content (eq=False)",
            )


# -- helpers ---------------------------------------------------------------------------------------------------------


def _features(encoder: Any, items: Sequence[Any]) -> Any:
    with torch.no_grad():
        return encoder(encoder.collate(list(items)))


def _difference(a: Tensor, b: Tensor) -> float:
    """The largest difference of a row, against the norm of the row."""
    a, b = a.double(), b.double()
    return float(((a - b).norm(dim=1) / b.norm(dim=1).clamp_min(1e-12)).max())


def _state_of(value: Any) -> bytes:
    """A hash of what a value holds; of what has no hash, its identity alone."""
    try:
        return content_key(value)
    except DataError:
        return repr(id(value)).encode()


def _unlike(a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    return _listed(sorted(key for key in a.keys() | b.keys() if a.get(key) != b.get(key)))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
