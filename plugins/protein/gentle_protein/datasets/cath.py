"""`protein/cath`: `chain_set.jsonl` and `chain_set_splits.json` as Ingraham et al. (NeurIPS 2019) published CATH 4.2.

A line is a JSON object with `name`, `seq` and `coords`, the latter with lists of N, CA, C and O positions in Å, NaN
where an atom was not seen. Residues without Cα are dropped from the sequence as well.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gentle_core.api import SPLITS, BuildContext, DataError, read_splits
from gentle_protein.chain import MIN_RESIDUES
from gentle_protein.datasets.chains import Chain, ChainDataset, Skips
from gentle_protein.datasets.config import CathConfig
from gentle_protein.datasets.files import Parsed, Trace
from gentle_protein.datasets.parsed import parse_cached

CHAINS = ("chain_set.jsonl", "chain_set.jsonl.gz")
LISTS = "chain_set_splits.json"


def build(config: CathConfig, context: BuildContext) -> ChainDataset:
    """The dataset of a folder in this layout.

    Raises DataError where a file is missing or damaged, the lists name no chain of the file, and under `strict` for
    anything that would be skipped.
    """
    path = next((p for p in (config.path / name for name in CHAINS) if p.is_file()), None)
    if path is None:
        raise DataError(f"{config.path}: holds neither {CHAINS[0]} nor {CHAINS[1]}")
    split_of = read_splits(config.path / LISTS)
    [parsed] = parse_cached(path, [path], read_chain_set, Path(context.cache_dir) / "protein-cath")

    skips, counts = Skips(config.strict), Counter[str]()
    for problem in parsed.problems:
        skips.add(str(path), problem)
    splits: dict[str, list[Chain]] = {split: [] for split in SPLITS}
    for trace in parsed.traces:
        if trace.chain not in split_of:
            counts["in_no_split"] += 1
        elif len(trace.ca) < config.min_length:
            counts["shorter"] += 1
        elif len(trace.ca) > config.max_length:
            counts["longer"] += 1
        else:
            splits[split_of[trace.chain]].append(Chain(trace.chain, trace.sequence, trace.ca, source=str(path)))
    if not any(splits.values()):
        raise DataError("; ".join(filter(None, (f"{path}: no usable chain that {LISTS} names", skips.notice()))))
    if notice := skips.notice():
        context.notify(notice)
    facts = {
        "source": str(path),
        "licence": "coordinates are PDB entries (CC0-1.0); CATH annotations CC-BY-4.0",
        "skipped": skips.facts(),
        "outside_length": {"shorter": counts["shorter"], "longer": counts["longer"]},
        "left_out": {
            "in_no_split": counts["in_no_split"],
            "names_without_chain": len(split_of.keys() - {trace.chain for trace in parsed.traces}),
        },
        "splits": f"from {LISTS}: no CATH topology is in two splits",
    }
    return ChainDataset(splits, facts)


def read_chain_set(path: Path) -> Parsed:
    """All usable chains of the file. Raises DataError where it is cut short or a name occurs twice."""
    traces: dict[str, Trace] = {}
    problems = []
    for number, line in _lines(path):
        try:
            trace = _trace(json.loads(line))
        except json.JSONDecodeError:
            problems.append(f"line {number} is no JSON")
        except (KeyError, TypeError, AttributeError):
            problems.append(f"line {number} lacks name, seq or coords.CA")
        except ValueError as error:
            problems.append(f"line {number}: {error}")
        else:
            if trace.chain in traces:
                raise DataError(f"{path}: two chains have the name {trace.chain!r}, the second in line {number}")
            traces[trace.chain] = trace
    return Parsed(tuple(traces.values()), tuple(problems))


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
            yield from ((number, line) for number, line in enumerate(lines, 1) if line.strip())
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise DataError(f"{path}: the gz data are damaged or cut short; download it again") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None


def _trace(record: dict[str, Any]) -> Trace:
    """Raises ValueError where a record's sequence and coordinates do not make a chain."""
    name, sequence = str(record["name"]), str(record["seq"]).upper()
    rows = [row or (None, None, None) for row in record["coords"]["CA"]]
    if len(rows) != len(sequence):
        raise ValueError(f"{name} has {len(sequence)} letters and {len(rows)} positions")
    ca = np.array(rows, dtype=np.float32).reshape(-1, 3)
    seen = np.isfinite(ca).all(axis=1)
    if seen.sum() < MIN_RESIDUES:
        raise ValueError(f"{name} has {seen.sum()} residue(s) with Cα; {MIN_RESIDUES} are needed")
    return Trace(name, "".join(sequence[i] for i in np.flatnonzero(seen)), ca[seen])
