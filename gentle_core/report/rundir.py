"""Reads a run directory, whatever state it is in: a part that is missing or broken is left out and named."""

from __future__ import annotations

import json
import tomllib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from gentle_core.errors import DataError

KNOWN_FILES = ("manifest.json", "metrics.jsonl", "results.json", "resolved.toml", "recipe.toml")
SPLITS = ("test", "val")
"""Splits in the order in which a report prefers them."""


@attrs.frozen(eq=False)
class Points:
    """Held-out embeddings of one tower.

    Attributes:
        z: (n, d) float32 unit rows.
        items: (n,) item ids.
        samples: (n,) what each item describes; equal sample ids in two towers mark mates.
        attributes: per-item columns of length n.
    """

    z: np.ndarray
    items: np.ndarray
    samples: np.ndarray
    attributes: Mapping[str, np.ndarray] = attrs.field(factory=dict)

    def __len__(self) -> int:
        return len(self.items)


@attrs.frozen(kw_only=True, eq=False)
class RunData:
    """What a run directory holds.

    Attributes:
        lines: the lines of metrics.jsonl by split, each sorted by step. Of several lines with one step the last
            counts, but a closing evaluation gives way to the one that the training made at that step.
        embeddings: by split, then tower.
        baselines: the run directories under `baselines/` by folder name.
        problems: what could not be read, one sentence each.
    """

    path: Path
    manifest: Mapping[str, Any]
    lines: Mapping[str, list[dict[str, Any]]]
    results: Mapping[str, Any]
    embeddings: Mapping[str, Mapping[str, Points]]
    recipe_text: str
    resolved_text: str
    resolved: Mapping[str, Any]
    baselines: Mapping[str, RunData]
    problems: tuple[str, ...]

    @property
    def towers(self) -> list[str]:
        """Tower names in the recipe's order, as far as anything tells."""
        for table in (self.manifest.get("towers"), self.resolved.get("towers")):
            if isinstance(table, Mapping) and table:
                return [str(name) for name in table]
        for towers in self.embeddings.values():
            return list(towers)
        return []


def table(value: Any) -> Mapping[str, Any]:
    """`value` if it is a mapping, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def read_run(path: Path, *, nested: bool = False) -> RunData:
    """Read `path`.

    Raises:
        DataError: there is no such folder, or none of a run's files is in it (unless `nested`).
    """
    if not path.is_dir():
        raise DataError(f"{path}: no such run directory")
    if not nested and not any((path / name).exists() for name in KNOWN_FILES):
        raise DataError(f"{path}: not a run directory (it holds none of {', '.join(KNOWN_FILES)})")
    problems: list[str] = []
    resolved_text, recipe_text = (_text(path / name, problems) for name in ("resolved.toml", "recipe.toml"))
    folder = path / "baselines"
    children = sorted(p for p in folder.iterdir() if p.is_dir()) if folder.is_dir() and not nested else []
    baselines = {child.name: read_run(child, nested=True) for child in children}
    for name, child in baselines.items():
        problems.extend(f"Baseline {name}: {problem}" for problem in child.problems)
    return RunData(
        path=path,
        manifest=_json(path / "manifest.json", problems),
        lines=_metrics(path / "metrics.jsonl", problems),
        results=_json(path / "results.json", problems),
        embeddings=_embeddings(path / "embeddings", problems),
        recipe_text=recipe_text,
        resolved_text=resolved_text,
        resolved=_toml(resolved_text or recipe_text),
        baselines=baselines,
        problems=tuple(problems),
    )


def _text(path: Path, problems: list[str]) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        problems.append(f"{path.name} cannot be read ({error.strerror}).")
        return ""


def _json(path: Path, problems: list[str]) -> Mapping[str, Any]:
    text = _text(path, problems)
    if not text.strip():
        return {}
    try:
        return table(json.loads(text))
    except ValueError:
        problems.append(f"{path.name} is damaged and was left out.")
        return {}


def _toml(text: str) -> Mapping[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return {}


def _metrics(path: Path, problems: list[str]) -> Mapping[str, list[dict[str, Any]]]:
    by_split: dict[str, dict[int, dict[str, Any]]] = {}
    broken = 0
    rows = [row for row in _text(path, problems).splitlines() if row.strip()]
    for position, row in enumerate(rows):
        try:
            line = json.loads(row)
            step = int(line["step"])
        except (ValueError, TypeError, KeyError):
            # A run that was killed may leave half a line at the end: nothing to report.
            broken += position < len(rows) - 1
            continue
        lines = by_split.setdefault(str(line.get("split", "train")), {})
        # The closing evaluation is of the chosen model, which need not be that of the last step.
        if not (line.get("final") and step in lines):
            lines[step] = line
    if broken:
        problems.append(f"metrics.jsonl: {broken} damaged line{'s' if broken > 1 else ''} left out.")
    return {split: [lines[step] for step in sorted(lines)] for split, lines in by_split.items()}


def _embeddings(folder: Path, problems: list[str]) -> Mapping[str, Mapping[str, Points]]:
    found: dict[str, Mapping[str, Points]] = {}
    for path in sorted(folder.glob("*.npz")) if folder.is_dir() else []:
        try:
            with np.load(path, allow_pickle=False) as arrays:
                towers = [key.removesuffix(".z") for key in arrays.files if key.endswith(".z")]
                found[path.stem] = {tower: _points(arrays, tower) for tower in towers}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            problems.append(f"embeddings/{path.name} is damaged and was left out.")
    return found


def _points(arrays: Any, tower: str) -> Points:
    z = np.asarray(arrays[f"{tower}.z"], dtype=np.float32)
    items = np.asarray(arrays[f"{tower}.items"]).astype(str)
    key = f"{tower}.samples"
    samples = np.asarray(arrays[key]).astype(str) if key in arrays.files else items
    if z.ndim != 2 or not len(z) == len(items) == len(samples):
        raise ValueError(f"tower {tower}: {z.shape} embeddings, {len(items)} items, {len(samples)} samples")
    keep = np.isfinite(z).all(axis=1)
    prefix = f"{tower}.attr."
    columns = {k.removeprefix(prefix): np.asarray(arrays[k]) for k in arrays.files if k.startswith(prefix)}
    columns = {name: column[keep] for name, column in columns.items() if len(column) == len(items)}
    return Points(z[keep], items[keep], samples[keep], columns)
