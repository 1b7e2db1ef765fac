"""Checkpoints that are whole or absent.

A checkpoint is a folder of safetensors and JSON. It is written under another name, each file is flushed to disk, a
manifest with the files' hashes comes last, and then the folder is renamed into place. Whatever has no manifest that
fits is not a checkpoint, and the one before it is used.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from gentle_core.errors import CheckpointError

MANIFEST = "manifest.json"


@attrs.define
class Checkpoint:
    """A state that was read: tensors by part ("model", "loss", "optimizer") and JSON facts ("step", …)."""

    path: Path
    tensors: dict[str, dict[str, Tensor]]
    facts: dict[str, Any]


def write_durably(path: Path, data: bytes) -> None:
    """Write and flush to the disk, so that a rename that follows cannot overtake the content."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace_durably(path: Path, data: bytes) -> None:
    """Replace a file by new content at once: readers see the old or the new, never a part."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        write_durably(partial, data)
        os.replace(partial, path)
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
    partial = folder / f".partial-{target.name}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        hashes = {}
        files = {f"{part}.safetensors": serialise(content) for part, content in tensors.items()}
        files["state.json"] = json.dumps({**facts, "step": step}, indent=1).encode()
        for name, data in files.items():
            write_durably(partial / name, data)
            hashes[name] = hashlib.sha256(data).hexdigest()
        write_durably(partial / MANIFEST, json.dumps({"step": step, "sha256": hashes}, indent=1).encode())
        if target.exists():
            shutil.rmtree(target)
        os.replace(partial, target)
        _flush_folder(folder)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointError(
            f"cannot write checkpoint {target}: {error.strerror or error}; earlier checkpoints are untouched, "
            "make room and go on with --resume auto"
        ) from error
    return target


def serialise(tensors: Mapping[str, Tensor]) -> bytes:
    """Each tensor as a copy of its own: safetensors refuses memory that two share."""
    return save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()})


def _intact(path: Path) -> dict[str, Any] | None:
    """The manifest of a checkpoint whose files all have the hashes it states, else None."""
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        for name, expected in manifest["sha256"].items():
            if Path(name).name != name or hashlib.sha256((path / name).read_bytes()).hexdigest() != expected:
                return None
        return manifest
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def steps_in(folder: Path) -> list[Path]:
    """Checkpoint folders, newest first, whether intact or not."""
    return sorted((p for p in folder.glob("step-*") if p.is_dir()), reverse=True)


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
    """The newest intact checkpoint; damaged ones are named and passed over."""
    for path in steps_in(folder):
        try:
            return load_checkpoint(path)
        except CheckpointError as error:
            notify(f"{error}; trying the one before it")
    return None


def prune(folder: Path, keep_last: int, keep: set[str]) -> None:
    """Remove all but the newest `keep_last` checkpoints and those named in `keep`, and leftovers of broken writes."""
    for path in steps_in(folder)[max(keep_last, 1) :]:
        if path.name not in keep:
            shutil.rmtree(path, ignore_errors=True)
    for leftover in folder.glob(".partial-*"):
        shutil.rmtree(leftover, ignore_errors=True)
