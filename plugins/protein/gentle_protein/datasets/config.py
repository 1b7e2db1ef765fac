"""The options of the datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import attrs

_fraction = [attrs.validators.ge(0.0), attrs.validators.lt(1.0)]
_count = attrs.validators.ge(0)


@attrs.frozen(kw_only=True)
class PdbSampleConfig:
    """Options of `protein/pdb-sample`.

    Attributes:
        train, val, test: how many chains of the split to use; 0 for all. The choice is fixed, and a smaller number
            gives a subset of a larger one.
    """

    train: int = attrs.field(default=0, validator=_count)
    val: int = attrs.field(default=0, validator=_count)
    test: int = attrs.field(default=0, validator=_count)


@attrs.frozen(kw_only=True)
class StructuresConfig:
    """Options of `protein/structures`.

    Attributes:
        path: folder of PDB or mmCIF files (.pdb, .ent, .cif, .mmcif, also with .gz), searched with its subfolders.
        fasta: FASTA file or folder of FASTA files whose records become sequence-only training items. A record with
            the id of a chain in `path` adds nothing if it agrees with that chain.
        structures_only: a second folder of structure files, whose chains become structure-only training items.
        chains: which protein chains of a file to take. "unique": each distinct sequence once; "longest": one;
            "first": one; "all".
        min_length, max_length: in residues with Cα; chains outside are left out and counted.
        val_fraction, test_fraction: shares of the entries that go to these splits, by a hash of the entry.
        split_seed: another number deals the entries anew.
        splits: instead of fractions, a JSON file {"train": […], "val": […], "test": […]} or a folder with train.txt,
            val.txt and test.txt, of chain ids or entry names.
        strict: stop at the first file or chain that cannot be used instead of skipping it.
    """

    path: Path
    fasta: Path | None = None
    structures_only: Path | None = None
    chains: Literal["unique", "longest", "first", "all"] = "unique"
    min_length: int = attrs.field(default=20, validator=attrs.validators.ge(3))
    max_length: int = attrs.field(default=1022, validator=attrs.validators.ge(3))
    val_fraction: float = attrs.field(default=0.1, validator=_fraction)
    test_fraction: float = attrs.field(default=0.1, validator=_fraction)
    split_seed: int = 0
    splits: Path | None = None
    strict: bool = False

    def __attrs_post_init__(self) -> None:
        if self.min_length > self.max_length:
            raise ValueError(f"min_length = {self.min_length} is above max_length = {self.max_length}")
        if self.val_fraction + self.test_fraction >= 1:
            raise ValueError(
                f"val_fraction + test_fraction = {self.val_fraction + self.test_fraction:g} leaves nothing to train on"
            )


@attrs.frozen(kw_only=True)
class CathConfig:
    """Options of `protein/cath`.

    Attributes:
        path: folder with chain_set.jsonl (or .jsonl.gz) and chain_set_splits.json.
        min_length, max_length: in residues with Cα; chains outside are left out and counted.
        strict: stop at the first record that cannot be used instead of skipping it.
    """

    path: Path
    min_length: int = attrs.field(default=20, validator=attrs.validators.ge(3))
    max_length: int = attrs.field(default=1022, validator=attrs.validators.ge(3))
    strict: bool = False

    def __attrs_post_init__(self) -> None:
        if self.min_length > self.max_length:
            raise ValueError(f"min_length = {self.min_length} is above max_length = {self.max_length}")
