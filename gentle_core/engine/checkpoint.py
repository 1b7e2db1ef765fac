"""Checkpoints that are whole or absent.

A checkpoint is a folder of safetensors and JSON. It is written under another name, each file is flushed to disk, a
manifest with the files' hashes comes last, and then the folder is renamed into place. Whatever has no manifest that
fits is not a checkpoint, and the one before it is used. A folder is also renamed before it is removed, so that a kill
at any moment leaves nothing half there under a checkpoint's name.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attrs
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from gentle_core.errors import CheckpointError

MANIFEST = "manifest.json"
PARTIAL, REMOVED = ".partial-", ".removed-"

AHEAD = 1 << 28
"""Bytes by which writing may run ahead of hashing, which goes on beside it."""

_TYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


@attrs.define
class Checkpoint:
    """A state that was read: tensors by part ("model", "loss", "optimizer") and JSON facts ("step", …)."""

    path: Path
    tensors: dict[str, dict[str, Tensor]]
    facts: dict[str, Any]


def write_durably(path: Path, data: Any) -> str:
    """Write bytes, or a series of them, and flush to the disk, so that a rename that follows cannot overtake the
    content. Returns their SHA-256."""
    digest, waiting = hashlib.sha256(), deque[tuple[int, Future[None]]]()
    with open(path, "wb") as file, ThreadPoolExecutor(1) as beside:
        for piece in (data,) if isinstance(data, bytes) else data:
            while sum(size for size, _ in waiting) > AHEAD:
                waiting.popleft()[1].result()
            waiting.append((len(piece), beside.submit(digest.update, piece)))
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def replace_durably(path: Path, data: Any) -> None:
    """Replace a file by new content at once: readers see the old or the new, never a part."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        write_durably(partial, data)
        os.replace(partial, path)
        _flush_folder(path.parent)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise CheckpointError(f"cannot write {path}: {error.strerror or error}") from error


def _flush_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def save_checkpoint(
    folder: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], facts: Mapping[str, Any]
) -> Path:
    """Write `folder/step-NNNNNNNN`. On failure nothing is left of it and earlier checkpoints are untouched."""
    target = folder / f"step-{step:08d}"
    partial = folder / f"{PARTIAL}{target.name}"
    former: Path | None = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        hashes = {f"{part}.safetensors": write_durably(partial / f"{part}.safetensors", serialise(content))
                  for part, content in tensors.items()}  # fmt: skip
        hashes["state.json"] = write_durably(partial / "state.json", _json({**facts, "step": step}))
        write_durably(partial / MANIFEST, _json({"step": step, "sha256": hashes}))
        _flush_folder(partial)
        if target.exists():  # of the same step, from before a resume; `recover` knows this moment
            os.replace(target, former := _out_of_the_way(target))
        os.replace(partial, target)
        _flush_folder(folder)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        if former is not None and former.exists() and not target.exists():
            os.replace(former, target)
        raise CheckpointError(
            f"cannot write checkpoint {target}: {error.strerror or error}; earlier checkpoints are untouched, "
            "make room and go on with --resume auto"
        ) from error
    _sweep(folder, REMOVED)
    return target


def _json(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, indent=1).encode()


def serialise(tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """The pieces of a safetensors file.

    The library's own writers copy every tensor once or twice before the first byte reaches the disk; a checkpoint is
    written from where the tensors lie, one at a time.
    """
    header: dict[str, Any] = {}
    end = 0
    order = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))  # keeps numbers aligned
    for name, tensor in order:
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for _, tensor in order:
        if not tensor.numel():
            continue
        yield tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _out_of_the_way(path: Path) -> Path:
    """A free name for a folder that is about to be removed."""
    number = 0
    while (free := path.with_name(f"{REMOVED}{path.name}.{number}")).exists():
        number += 1
    return free


def _remove(path: Path) -> None:
    """Remove a checkpoint: its name goes at once, its content after that."""
    with contextlib.suppress(OSError):
        os.replace(path, gone := _out_of_the_way(path))
        shutil.rmtree(gone, ignore_errors=True)


def _sweep(folder: Path, *prefixes: str) -> None:
    for prefix in prefixes:
        for leftover in folder.glob(f"{prefix}*"):
            shutil.rmtree(leftover, ignore_errors=True)


def recover(folder: Path) -> None:
    """Finish what a kill broke off: a whole checkpoint that lacks only its name gets it; other leftovers go."""
    for partial in folder.glob(f"{PARTIAL}step-*"):
        target = folder / partial.name.removeprefix(PARTIAL)
        if not target.exists() and not partial.is_symlink() and _intact(partial) is not None:
            os.replace(partial, target)
            _flush_folder(folder)
    _sweep(folder, PARTIAL, REMOVED)


def _intact(path: Path) -> dict[str, Any] | None:
    """The manifest of a checkpoint whose files all have the hashes it states, else None."""
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        for name, expected in manifest["sha256"].items():
            if Path(name).name != name or (path / name).is_symlink() or _hash(path / name) != expected:
                return None
        return manifest if "state.json" in manifest["sha256"] else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _hash(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def steps_in(folder: Path) -> list[Path]:
    """Checkpoint folders, newest first, whether intact or not."""
    return sorted((p for p in folder.glob("step-*") if p.is_dir() and not p.is_symlink()), reverse=True)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read one checkpoint; an incomplete or altered one is an error."""
    manifest = _intact(path)
    if manifest is None:
        raise CheckpointError(f"{path} is not an intact checkpoint: a file is missing or differs from its manifest")
    names = [name for name in manifest["sha256"] if name.endswith(".safetensors")]
    try:
        tensors = {name.removesuffix(".safetensors"): load_file(path / name) for name in names}
        return Checkpoint(path, tensors, json.loads((path / "state.json").read_text()))
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"cannot read checkpoint {path}: {error}") from error


def newest_checkpoint(folder: Path, notify: Callable[[str], None]) -> Checkpoint | None:
    """The newest intact checkpoint; damaged ones are named and passed over, what a kill left behind is put right."""
    recover(folder)
    for path in steps_in(folder):
        try:
            return load_checkpoint(path)
        except CheckpointError as error:
            notify(f"{error}; trying the one before it")
    return None


def prune(folder: Path, keep_last: int, keep: Collection[str]) -> None:
    """Remove all but the newest `keep_last` checkpoints and those named in `keep`, and leftovers of broken writes."""
    for path in steps_in(folder)[max(keep_last, 1) :]:
        if path.name not in keep:
            _remove(path)
    _sweep(folder, PARTIAL, REMOVED)
