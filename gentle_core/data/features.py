"""Features of frozen encoders, computed once an item and kept on disk.

A store belongs to one encoder state (weights and preprocessing); its rows are addressed by a hash of the item's
content, so a renamed file finds its features and a changed one does not. Shards are written whole and renamed into
place: a run that is killed keeps what was finished, and runs side by side do no harm to each other.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import attrs
import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gentle_core.errors import DataError

_A = TypeVar("_A")
_R = TypeVar("_R")

SHARD_ROWS = 4096
KEY_BYTES = 16


def _feed(digest: Any, value: Any) -> None:
    """Add a type-tagged, length-prefixed rendering of `value` to the digest."""
    if value is None or isinstance(value, bool | int | float | str):
        data = f"{type(value).__name__}:{value!r}".encode()
    elif isinstance(value, bytes):
        data = b"bytes:" + value
    elif isinstance(value, Tensor):
        return _feed(digest, value.detach().cpu().numpy())
    elif isinstance(value, np.ndarray):
        data = f"array:{value.dtype.str}{value.shape}:".encode() + np.ascontiguousarray(value).tobytes()
    elif isinstance(value, Mapping):
        digest.update(f"map{len(value)}:".encode())
        for key in sorted(value):
            _feed(digest, key)
            _feed(digest, value[key])
        return
    elif callable(getattr(value, "content", None)):  # an item that lies on disk and is read when it is needed
        return _feed(digest, value.content())
    elif isinstance(value, Sequence):
        digest.update(f"list{len(value)}:".encode())
        for part in value:
            _feed(digest, part)
        return
    elif attrs.has(type(value)):
        return _feed(digest, {f.name: getattr(value, f.name) for f in attrs.fields(type(value)) if f.eq})
    elif hasattr(value, "tobytes") and hasattr(value, "size"):  # images
        data = f"{getattr(value, 'mode', '')}{value.size}:".encode() + value.tobytes()
    else:
        raise DataError(f"cannot hash an item of type {type(value).__name__}; make it an attrs class, array or str")
    digest.update(len(data).to_bytes(8, "little"))
    digest.update(data)


def content_key(item: Any) -> bytes:
    """16 bytes that depend on the item's content alone."""
    digest = hashlib.blake2b(digest_size=KEY_BYTES)
    _feed(digest, item)
    return digest.digest()


def _digest(keys: Tensor, features: Tensor) -> str:
    """Of a shard's content: a bit that flips on a disk must not become a feature."""
    digest = hashlib.blake2b(keys.contiguous().numpy().data, digest_size=16)
    digest.update(features.contiguous().numpy().data)
    return digest.hexdigest()


def _refuse_link(path: Path) -> None:
    if path.is_symlink():
        raise DataError(f"{path} is a symbolic link; the feature cache holds plain files and folders only: remove it")


class FeatureStore:
    """Rows of features on disk under `root/features/key/`, by content key."""

    def __init__(self, root: Path, key: str):
        safe = re.fullmatch(r"[A-Za-z0-9_-]+", key)  # a plugin's fingerprint, which becomes a folder's name
        self.folder = (
            root / "features" / (key if safe else hashlib.blake2b(key.encode(), digest_size=20).hexdigest())[:40]
        )
        self._rows: dict[bytes, int] = {}
        self._shards: list[Tensor] = []
        self._starts: list[int] = []
        """Number of each shard's first row, all shards' rows counted on end."""
        _refuse_link(self.folder)
        for shard in sorted(self.folder.glob("*.safetensors")):
            self._read(shard)

    def _read(self, shard: Path) -> None:
        _refuse_link(shard)
        try:
            with safe_open(shard, "pt") as file:
                stated = (file.metadata() or {}).get("blake2b", "")
                keys, features = file.get_tensor("keys"), file.get_tensor("features")
            if stated != _digest(keys, features):
                raise SafetensorError("other content than was written")
        except (OSError, MemoryError):
            return  # it cannot be read just now (too little memory, too many open files): computed again, and kept
        except (SafetensorError, KeyError):
            shard.unlink(missing_ok=True)  # derived data: computed again
            return
        table = keys.contiguous().numpy().tobytes()
        self._take_up([table[at : at + KEY_BYTES] for at in range(0, len(table), KEY_BYTES)], features)

    def _take_up(self, keys: Sequence[bytes], features: Tensor) -> None:
        start = self._starts[-1] + len(self._shards[-1]) if self._shards else 0
        self._shards.append(features)
        self._starts.append(start)
        self._rows.update(zip(keys, range(start, start + len(features)), strict=True))

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, key: bytes) -> bool:
        return key in self._rows

    def take(self, keys: Sequence[bytes]) -> Tensor:
        """Features (n, width) of these keys, which must all be there."""
        rows = np.array([self._rows[key] for key in keys], dtype=np.int64)
        where = np.searchsorted(self._starts, rows, side="right") - 1
        # Encoders without weights of their own may share a store, and differ in width.
        found = torch.empty(len(keys), self._shards[where[0]].shape[1])
        for shard in np.unique(where):
            places = np.flatnonzero(where == shard)
            within = torch.from_numpy(rows[places] - self._starts[shard])
            found[torch.from_numpy(places)] = self._shards[shard][within]
        return found

    def add(self, keys: Sequence[bytes], features: Tensor) -> None:
        """Write one shard and make it readable at once."""
        features = features.detach().float().cpu().contiguous()
        self.folder.mkdir(parents=True, exist_ok=True)
        table = torch.from_numpy(np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(-1, KEY_BYTES).copy())
        name = hashlib.blake2b(b"".join(keys), digest_size=12).hexdigest()
        handle, temporary = tempfile.mkstemp(dir=self.folder, suffix=".partial")
        os.close(handle)
        try:
            content = {"keys": table, "features": features}
            save_file(content, temporary, {"blake2b": _digest(table, features)})
            os.replace(temporary, self.folder / f"{name}.safetensors")
        except OSError as error:
            Path(temporary).unlink(missing_ok=True)
            raise DataError(f"cannot write the feature cache in {self.folder}: {error.strerror or error}") from error
        self._take_up(keys, features)


def size_buckets(sizes: Sequence[int], budget: int, most: int = 256) -> Iterator[list[int]]:
    """Positions in batches of similar size, longest first: at most `most` items and `budget` padded units each."""
    group: list[int] = []
    for position in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        if group and ((len(group) + 1) * sizes[group[0]] > budget or len(group) == most):
            yield group
            group = []
        group.append(position)
    if group:
        yield group


def ahead(function: Callable[[_A], _R], arguments: Iterable[_A]) -> Iterator[_R]:
    """`function` of each argument, in order, worked out one argument ahead in a thread: a batch is read and collated
    while the one before it is encoded."""
    with ThreadPoolExecutor(1, thread_name_prefix="gentle-ahead") as thread:
        waiting: Future[_R] | None = None
        for argument in arguments:
            upcoming = thread.submit(function, argument)
            if waiting is not None:
                yield waiting.result()
            waiting = upcoming
        if waiting is not None:
            yield waiting.result()


def encode_all(
    prepare: Callable[[list[Any], list[bytes]], Any],
    encode: Callable[[Any], Tensor],
    size: Callable[[Any], int],
    load: Callable[[Sequence[int]], list[Any]],
    count: int,
    *,
    store: FeatureStore | None = None,
    variant: str = "",
    budget: int = 16384,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Features (count, width) of all items, in order, from the store where it has them.

    Args:
        prepare: raw items and their keys to what `encode` takes; it runs in a thread, one batch ahead.
        encode: prepared items to features, no gradients.
        size: relative cost of an item, for bucketing.
        load: positions to raw items.
        count: how many items there are.
        store: where finished features are kept; None keeps nothing.
        variant: of the items, when they are not encoded as they are: a name for the change.
        budget: largest number of padded units (items × longest size) encoded at once.
        progress: called with (done, total) when there is something to compute.
    """
    parts = []
    for start in range(0, count, SHARD_ROWS):
        positions = list(range(start, min(start + SHARD_ROWS, count)))
        items = load(positions)
        keys = [content_key([variant, item] if variant else item) for item in items] if store is not None else []
        missing = list(range(len(items)))
        if store is not None:  # what occurs twice is encoded once
            missing = list({keys[i]: i for i in reversed(missing) if keys[i] not in store}.values())[::-1]
        fresh: dict[int, Tensor] = {}
        buckets = [[missing[j] for j in b] for b in size_buckets([size(items[i]) for i in missing], budget)]

        def prepared(chosen: list[int], items: list[Any] = items, keys: list[bytes] = keys) -> Any:
            return prepare([items[i] for i in chosen], [keys[i] for i in chosen] if keys else [])

        for chosen, inputs in zip(buckets, ahead(prepared, buckets), strict=True):
            fresh.update(zip(chosen, encode(inputs).detach().float().cpu(), strict=True))
            if progress:
                progress(start + len(fresh), count)
        rows = torch.stack([fresh[i] for i in missing]) if missing else torch.empty(0, 0)
        if store is not None:
            if missing:
                store.add([keys[i] for i in missing], rows)
            rows = store.take(keys)
        parts.append(rows)
    return torch.cat(parts) if parts else torch.empty(0, 0)
