"""Finding files."""

from __future__ import annotations

import os
from pathlib import Path
from re import Pattern

from gentle_core.errors import DataError


def files_below(folder: Path, name: Pattern[str], what: str) -> list[str]:
    """Paths of the files in and below a folder in whose name the pattern is found, folder by folder in name order.

    Links are followed, each folder is visited once; what is hidden is left out.

    Args:
        what: what they are, for the error: "image (.jpg, .png)".

    Raises:
        DataError: the folder is missing, or holds none.
    """
    if not folder.is_dir():
        reason = "is a file; name the folder that holds it" if folder.is_file() else "no such folder"
        raise DataError(f"{folder}: {reason}")
    found: list[str] = []
    seen: set[str] = set()
    for where, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(where)
        if real in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(inner for inner in folders if not inner.startswith("."))
        found += [os.path.join(where, one) for one in sorted(names) if name.search(one) and not one.startswith(".")]
    if not found:
        raise DataError(f"{folder}: holds no {what}")
    return found
