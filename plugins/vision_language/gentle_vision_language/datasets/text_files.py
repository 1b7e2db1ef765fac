"""Reading text that may be damaged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from gentle_core.api import DataError
from gentle_vision_language.datasets.skips import Skips

_WIDE = (b"\xff\xfe", b"\xfe\xff")


def read_bytes(path: Path) -> bytes:
    """A file's bytes. Raises DataError where there is none, or it is UTF-16."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    if data.startswith(_WIDE):
        raise DataError(f"{path}: is UTF-16; save it as UTF-8")
    return data


def read_lines(path: Path, skips: Skips) -> Iterator[tuple[int, str]]:
    """The lines of a UTF-8 file with their numbers, without line ends and a byte order mark.

    A line that is not UTF-8 is skipped by name. Raises DataError where the file cannot be read.
    """
    for number, line in enumerate(read_bytes(path).removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        try:
            yield number, line.rstrip(b"\r").decode("utf-8")
        except UnicodeDecodeError as error:
            skips.add(f"{path}:{number}", f"is not UTF-8 (byte {line[error.start]:#04x})", "not UTF-8")


def read_text(path: Path) -> str:
    """A whole UTF-8 file. Raises DataError where it cannot be read or is not UTF-8, naming the line."""
    data = read_bytes(path)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}:{line}: is not UTF-8 (byte {data[error.start]:#04x}); save it as UTF-8") from None
