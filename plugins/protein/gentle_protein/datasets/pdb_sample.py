"""`protein/pdb-sample`: the real PDB chains that are shipped with the package (see `scripts/make_pdb_sample.py`)."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import as_file, files

import numpy as np

from gentle_core.api import SPLITS, BuildContext
from gentle_protein.datasets.chains import Chain, ChainDataset
from gentle_protein.datasets.config import PdbSampleConfig

UNIT = 0.01
"""Å of the integers in the file."""


def read_sample() -> dict[str, list[Chain]]:
    """All chains of the shipped file by split, in the file's order."""
    with as_file(files("gentle_protein") / "data" / "pdb_sample.npz") as path, np.load(path) as archive:
        table = {name: archive[name] for name in archive.files}
    splits: dict[str, list[Chain]] = {split: [] for split in SPLITS}
    for chain, split in zip(_chains(table), table["split"], strict=True):
        splits[SPLITS[split]].append(chain)
    return splits


def _chains(table: dict[str, np.ndarray]) -> Iterator[Chain]:
    lengths = table["length"].astype(np.int64)
    ends = np.cumsum(lengths)
    starts = ends - lengths

    # Steps from residue to residue, as two byte planes, with each chain's first position in front of its own.
    delta = np.stack([table["delta_low"], table["delta_high"]], axis=-1).view(np.int16)[..., 0]
    steps = np.empty((ends[-1], 3), dtype=np.int64)
    inner = np.ones(len(steps), dtype=bool)
    inner[starts] = False
    steps[inner] = delta
    steps[starts] = table["first"]

    letters = table["sequence"].tobytes().decode("ascii")
    for name, start, end in zip(table["ids"], starts, ends, strict=True):
        ca = (np.cumsum(steps[start:end], axis=0) * UNIT).astype(np.float32)
        item = name.decode("ascii")
        yield Chain(item, letters[start:end], ca, source=f"PDB entry {item[:4]}")


def limited(chains: list[Chain], limit: int) -> list[Chain]:
    """The first `limit` chains of a fixed shuffle, in their old order; all of them for 0.

    The file is ordered by PDB id, that is roughly by date, so its head would be no fair sample.
    """
    if limit == 0 or limit >= len(chains):
        return chains
    chosen = np.random.default_rng(0).permutation(len(chains))[:limit]
    return [chains[i] for i in sorted(chosen)]


def build(config: PdbSampleConfig, context: BuildContext) -> ChainDataset:
    limits = {"train": config.train, "val": config.val, "test": config.test}
    splits = {split: limited(chains, limits[split]) for split, chains in read_sample().items()}
    facts = {
        "source": "PDB entries, from the structure database of Debian's promod3-data 3.2.1; "
        "the longest contiguous stretch of each chain",
        "licence": "CC0-1.0",
        "residues": "40-164",
        "splits": "no chain shares more than 8 % of its 5-mers with a chain of another split, directly or through "
        "others; all chains of a PDB entry are in one split",
    }
    return ChainDataset(splits, facts)
