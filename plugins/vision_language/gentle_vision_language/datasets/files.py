"""Finding image files, and reading tables of captions in the formats in which people keep them."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gentle_core.api import DataError, files_below
from gentle_vision_language.datasets.skips import Skips
from gentle_vision_language.datasets.text_files import read_lines, read_text

SUFFIX = re.compile(r"\.(jpe?g|png|webp|bmp|gif|tiff?)$", re.IGNORECASE)
TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet")
IMAGE_KEYS = ("image", "file_name", "filename", "filepath", "image_path", "img", "path", "image_id")
CAPTION_KEYS = ("caption", "captions", "text", "texts", "sentences", "raw", "description")


def image_files(folder: Path) -> dict[str, str]:
    """Image files in a folder and its subfolders by their name, hidden ones left out; of two with one name the first.

    Raises DataError where the folder is missing or holds none.
    """
    found: dict[str, str] = {}
    for path in image_paths(folder):
        found.setdefault(os.path.basename(path), path)
    return found


def image_paths(folder: Path) -> list[str]:
    """The image files in a folder and its subfolders, in name order, hidden ones left out.

    Raises DataError where the folder is missing or holds none.
    """
    return files_below(folder, SUFFIX, "image (.jpg, .png, .webp, .bmp, .gif, .tif)")


def read_table(path: Path, skips: Skips) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The rows of a table, each with where it stands ("captions.csv:17").

    What is no row is skipped by name. Raises DataError where the file cannot be read as what its name says.
    """
    kind = path.suffix.lower()
    if kind in (".jsonl", ".ndjson"):
        for number, line in read_lines(path, skips):
            if line.strip():
                yield from _object(f"{path}:{number}", line, skips)
    elif kind in (".csv", ".tsv"):
        yield from _separated(path, "\t" if kind == ".tsv" else ",", skips)
    elif kind == ".json":
        yield from _json(path)
    elif kind == ".parquet":
        yield from _parquet(path)
    else:
        raise DataError(f"{path}: a table of captions ends in {', '.join(TABLES)}")


def _object(where: str, text: str, skips: Skips) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        found = json.loads(text)
    except ValueError as error:
        skips.add(where, f"is no JSON: {error}", "lines that are no JSON")
        return
    if isinstance(found, Mapping):
        yield where, found
    else:
        skips.add(where, "is no JSON object", "lines that are no JSON")


def _separated(path: Path, delimiter: str, skips: Skips) -> Iterator[tuple[str, Mapping[str, Any]]]:
    # A quoted caption may hold line breaks, so the good lines are read as one text.
    lines = [line for _, line in read_lines(path, skips)]
    reader = csv.DictReader(io.StringIO("\n".join(lines)), delimiter=delimiter)
    if not reader.fieldnames:
        raise DataError(f"{path}: is empty; its first line should name the columns")
    try:
        for row in reader:
            yield f"{path}:{reader.line_num}", {str(k).strip(): v for k, v in row.items() if k is not None}
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: {error}") from None


def _json(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        found = json.loads(read_text(path))
    except ValueError as error:
        raise DataError(f"{path}: is no JSON: {error}") from None
    if isinstance(found, Mapping) and isinstance(found.get("images"), list):
        found = found["images"]
    if isinstance(found, Mapping):  # {"a.jpg": ["caption", …]}
        found = [{"image": name, "captions": texts} for name, texts in found.items()]
    if not isinstance(found, list) or not all(isinstance(row, Mapping) for row in found):
        raise DataError(f'{path}: expected a list of objects, {{"images": […]}} or {{"a.jpg": ["a caption", …]}}')
    for number, row in enumerate(found):
        yield f"{path}[{number}]", row


def _parquet(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise DataError(f"{path}: Parquet needs pyarrow: pip install 'gentle-vision-language[parquet]'") from None
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        with parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    yield f"{path}[{number}]", row
                    number += 1
    except (OSError, pyarrow.ArrowException) as error:
        line = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"{path}: is no readable Parquet file: {line}") from None


def choose_key(given: str, usual: Sequence[str], row: Mapping[str, Any], path: Path, what: str, option: str) -> str:
    """The column `given`, or the first with a usual name. Raises DataError where there is none, naming those there."""
    names = {str(name).lower(): str(name) for name in row}
    found = given if given in row else "" if given else next((names[n] for n in usual if n in names), "")
    if not found:
        there = ", ".join(map(str, row))
        wanted = f"no {given!r}" if given else f"no column that looks like {what}"
        raise DataError(f"{path}: {wanted}; it has {there}: name the right one with {option}")
    return found


def texts_of(value: Any) -> list[Any]:
    """A caption, a list of captions, or Karpathy's list of {"raw": …}, as a list."""
    if not isinstance(value, (list, tuple)):
        return [] if value is None else [value]
    return [part.get("raw", part.get("caption")) if isinstance(part, Mapping) else part for part in value]
