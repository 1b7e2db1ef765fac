"""What an item or a batch holds, as something that can be compared."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from typing import Any

from gentle_core.data.features import content_key
from gentle_core.errors import DataError


def content(value: Any) -> bytes:
    """A hash of what `value` holds; its pickle where it is of a kind that cannot be hashed."""
    try:
        return content_key(value)
    except DataError:
        return pickle.dumps(value)


def leaves(value: Any) -> Iterator[Any]:
    """What stands in nested mappings, lists and tuples."""
    if isinstance(value, Mapping):
        for part in value.values():
            yield from leaves(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from leaves(part)
    else:
        yield value
