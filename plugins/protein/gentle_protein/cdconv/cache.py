"""The geometry of chains that come again, within a bound on memory."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor

from gentle_protein.cdconv.geometry import Edges

_MAX_SIGHTED = 1 << 17


@attrs.frozen
class ChainGeometry:
    """One chain's displacements (L, 6) and the edges of each stage, numbered from the chain's first residue."""

    displacement: Tensor
    stages: tuple[Edges, ...]

    def compact(self) -> ChainGeometry:
        """A copy in its own memory, about 1 KB a residue."""

        def shrink(tensor: Tensor) -> Tensor:
            return tensor.to(torch.int32 if tensor.dtype == torch.int64 else tensor.dtype, copy=True)

        stages = tuple(Edges(*(shrink(t) for t in attrs.astuple(e, recurse=False))) for e in self.stages)
        return ChainGeometry(shrink(self.displacement), stages)

    @property
    def nbytes(self) -> int:
        tensors = [self.displacement, *(t for e in self.stages for t in attrs.astuple(e, recurse=False))]
        return sum(t.nbytes for t in tensors)


@attrs.frozen
class Key:
    """A chain's id, and a hash of what its geometry depends on."""

    chain: str
    digest: bytes


def key(chain_id: str, coordinates: np.ndarray, dtype: torch.dtype) -> Key:
    """The key of a chain's geometry, as numbers of type `dtype`."""
    digest = hashlib.blake2b(coordinates.tobytes(), digest_size=16)
    digest.update(str(dtype).encode())
    return Key(chain_id, digest.digest())


class GeometryCache:
    """Least recently used first out.

    Coordinates that an augmentation has changed never come again. So once a chain has come with other coordinates than
    before, whatever is new is kept from its second visit on; until then, from its first.
    A copy of the cache, in another process for example, starts empty.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.nbytes = 0
        self.hits = 0
        self.misses = 0
        self._kept: OrderedDict[Key, ChainGeometry] = OrderedDict()
        self._changing = False
        self._seen: dict[str, bytes] = {}
        self._sighted: OrderedDict[Key, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def __reduce__(self) -> tuple[Any, ...]:
        return GeometryCache, (self.limit_bytes,)

    def get(self, name: Key) -> ChainGeometry | None:
        geometry = self._kept.get(name)
        if geometry is None:
            self.misses += 1
            return None
        self.hits += 1
        self._kept.move_to_end(name)
        return geometry

    def offer(self, name: Key, geometry: ChainGeometry) -> None:
        """Keep a copy of `geometry` if it may come again and fits."""
        if self.limit_bytes == 0 or name in self._kept or not self._may_return(name):
            return
        geometry = geometry.compact()
        if geometry.nbytes > self.limit_bytes:
            return
        self._kept[name] = geometry
        self.nbytes += geometry.nbytes
        while self.nbytes > self.limit_bytes:
            _, dropped = self._kept.popitem(last=False)
            self.nbytes -= dropped.nbytes

    def _may_return(self, name: Key) -> bool:
        if not self._changing:
            self._changing = self._seen.setdefault(name.chain, name.digest) != name.digest
            if not self._changing:
                return True
            self._seen.clear()
        if name in self._sighted:
            return True
        self._sighted[name] = None
        if len(self._sighted) > _MAX_SIGHTED:
            self._sighted.popitem(last=False)
        return False
