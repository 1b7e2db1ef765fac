"""Parsed files on disk, so that a second run does not parse them again."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from gentle_protein.datasets.files import READER, Parsed, Trace

_VERSION = f"{READER}/gemmi {version('gemmi')}"


def parse_cached(root: Path, paths: Sequence[Path], parse: Callable[[Path], Parsed], folder: Path) -> list[Parsed]:
    """`parse(path)` of each path, taken from a cache in `folder` where size and modification time are the same.

    There is one cache file for each `root`; it always holds just the given paths. A damaged or unwritable cache costs
    time, nothing else.
    """
    cache = folder / f"{hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:16]}.npz"
    known = _read(cache)
    keys = [_key(path) for path in paths]
    results = [known[key] if key in known else parse(path) for key, path in zip(keys, paths, strict=True)]
    if set(keys) != set(known):
        _write(cache, dict(zip(keys, results, strict=True)))
    return results


def _key(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:  # a dangling link: parsing it will say so
        return f"{path.absolute()}|gone"
    return f"{path.absolute()}|{status.st_size}|{status.st_mtime_ns}"


def _read(cache: Path) -> dict[str, Parsed]:
    try:
        with np.load(cache, allow_pickle=False) as archive:
            meta = json.loads(archive["meta"].tobytes())
            letters, ca = archive["letters"].tobytes().decode("ascii"), archive["ca"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return {}
    if meta["version"] != _VERSION:
        return {}
    parsed, at = {}, 0
    for key, chains, problems in meta["files"]:
        traces = []
        for name, length in chains:
            traces.append(Trace(name, letters[at : at + length], ca[at : at + length]))
            at += length
        parsed[key] = Parsed(tuple(traces), tuple(problems))
    return parsed


def _write(cache: Path, parsed: dict[str, Parsed]) -> None:
    traces = [trace for result in parsed.values() for trace in result.traces]
    files = [[key, [[t.chain, len(t.ca)] for t in r.traces], r.problems] for key, r in parsed.items()]
    meta: dict[str, Any] = {"version": _VERSION, "files": files}
    arrays: dict[str, Any] = {
        "meta": np.frombuffer(json.dumps(meta).encode(), dtype=np.uint8),
        "letters": np.frombuffer("".join(t.sequence for t in traces).encode("ascii"), dtype=np.uint8),
        "ca": np.concatenate([t.ca for t in traces]) if traces else np.zeros((0, 3), np.float32),
    }
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=cache.parent, suffix=".tmp", delete=False) as out:
            np.savez(out, **arrays)
        os.replace(out.name, cache)
    except OSError:
        return
