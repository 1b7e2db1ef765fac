"""Reading FASTA files."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

SUFFIX = re.compile(r"\.(fasta|fa|faa|seq)(\.gz)?$", re.IGNORECASE)

_LETTERS = re.compile(r"[A-Z]+")


def read_bytes(path: Path) -> bytes:
    """The bytes of a plain or gz-compressed file, whatever its name.

    Raises ValueError where the file cannot be read or the compressed data are damaged or cut short.
    """
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise ValueError("the gz data are damaged or cut short") from None
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror or error}") from None


def read_fasta(path: Path) -> Iterator[tuple[str, str]]:
    """(id, sequence) of each record; the id is the header's first word. Letters are upper case, a trailing `*` is cut.

    Raises ValueError where the file cannot be read or does not begin with a record.
    """
    text = read_bytes(path).decode("utf-8", "replace")
    head, *records = re.split(r"^>", text, flags=re.MULTILINE)
    if head.strip() or not records:
        raise ValueError("no FASTA file: the first record must begin with '>'")
    for record in records:
        title, _, body = record.partition("\n")
        name = title.split()[0] if title.split() else ""
        yield name, "".join(body.split()).rstrip("*").upper()


def problem(name: str, sequence: str) -> str | None:
    """Why a record cannot be used, or None."""
    if not name:
        return "a record has no id after '>'"
    if not sequence:
        return f"record {name} is empty"
    if not _LETTERS.fullmatch(sequence):
        return f"record {name} holds {re.sub('[A-Z]', '', sequence)[0]!r}, which is no residue letter"
    return None
