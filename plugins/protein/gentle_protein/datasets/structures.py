"""`protein/structures`: a folder of structure files, and optionally sequences or structures without the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from gentle_core.api import SPLITS, BuildContext, DataError, deal_splits, files_below, read_splits
from gentle_protein.datasets import fasta, files
from gentle_protein.datasets.chains import Chain, ChainDataset, Skips, duplicate
from gentle_protein.datasets.config import StructuresConfig
from gentle_protein.datasets.groups import components
from gentle_protein.datasets.parsed import parse_cached

_LEFT_OUT = (
    "not_selected",
    "in_no_split",
    "names_without_chain",
    "structures_held_out",
    "fasta_held_out",
    "fasta_named_a_chain",
    "fasta_repeated",
)


def build(config: StructuresConfig, context: BuildContext) -> ChainDataset:
    """The dataset of a folder.

    Raises DataError where the folder is missing or gives no chain, where two chains have one id, where the split file
    names none of the chains, and under `strict` for anything that would be skipped.
    """
    skips, counts = Skips(config.strict), Counter[str]()
    chains = _unique_ids(_chains(config.path, config, context, skips, counts))
    if not chains:
        outside = counts["shorter"] + counts["longer"]
        why = f"{outside} outside {config.min_length}-{config.max_length} residues" if outside else ""
        raise DataError("; ".join(filter(None, (f"{config.path}: no usable protein chain", why, skips.notice()))))

    splits = _split_by_list(chains, config, counts) if config.splits else _split_by_hash(chains, config)
    held_out = {chain.sequence for split in ("val", "test") for chain in splits[split] if chain.sequence}
    extra: list[Chain] = []
    if config.fasta:
        extra += _sequences_only(config.fasta, config, chains, held_out, skips, counts)
    if config.structures_only:
        others = _unique_ids(_chains(config.structures_only, config, context, skips, counts))
        free = [chain for chain in others if chain.sequence not in held_out]
        counts["structures_held_out"] = len(others) - len(free)
        extra += [attrs.evolve(chain, sequence=None) for chain in free]
    splits["train"] = [*splits["train"], *extra]

    if notice := skips.notice():
        context.notify(notice)
    return ChainDataset(splits, _facts(config, splits, skips, counts))


def find_files(folder: Path) -> list[Path]:
    """The structure files in a folder and its subfolders, linked ones too, in name order; hidden ones are left out.

    Raises DataError where the folder is missing or holds none.
    """
    found = files_below(folder, files.SUFFIX, "structure file (.pdb, .ent, .cif, .mmcif, plain or with .gz)")
    return sorted(map(Path, found))


def _chains(
    folder: Path, config: StructuresConfig, context: BuildContext, skips: Skips, counts: Counter[str]
) -> Iterator[Chain]:
    """Usable chains of all files in a folder, named `<stem>_<chain>`."""
    paths = find_files(folder)
    counts["files"] += len(paths)
    for path, parsed in zip(paths, parse_cached(folder, paths, files.parse, _cache(context)), strict=True):
        for problem in parsed.problems:
            skips.add(str(path), problem)
        stem = files.SUFFIX.sub("", path.name)
        for trace in _select(parsed.traces, config.chains, counts):
            if len(trace.ca) < config.min_length or len(trace.ca) > config.max_length:
                counts["shorter" if len(trace.ca) < config.min_length else "longer"] += 1
                continue
            # A chain of unknown residues alone has a structure, but no sequence to speak of.
            sequence = trace.sequence if set(trace.sequence) != {"X"} else None
            entry = stem.removesuffix(f"_{trace.chain}") if trace.chain else stem
            yield Chain(chain_id(stem, trace.chain), sequence, trace.ca, source=str(path), entry=entry.lower())


def _cache(context: BuildContext) -> Path:
    return Path(context.cache_dir) / "protein-structures"


def chain_id(stem: str, chain: str) -> str:
    """`<stem>_<chain>`, but not twice where a file of one chain already carries its name (1ABC_A.pdb)."""
    return stem if not chain or stem.endswith(f"_{chain}") else f"{stem}_{chain}"


def _select(traces: Sequence[files.Trace], rule: str, counts: Counter[str]) -> Sequence[files.Trace]:
    if rule == "all" or not traces:
        return traces
    if rule == "first":
        chosen: Sequence[files.Trace] = traces[:1]
    elif rule == "longest":
        chosen = [max(traces, key=lambda trace: len(trace.ca))]
    else:
        chosen = list({trace.sequence: trace for trace in reversed(traces)}.values())[::-1]
    counts["not_selected"] += len(traces) - len(chosen)
    return chosen


def _unique_ids(chains: Iterator[Chain]) -> list[Chain]:
    known: dict[str, Chain] = {}
    twice = [(chain, known[chain.id]) for chain in chains if known.setdefault(chain.id, chain) is not chain]
    if twice:
        second, first = twice[0]
        raise duplicate(first.id, first.source, second.source, more=len(twice) - 1)
    return list(known.values())


def _split_by_hash(chains: Sequence[Chain], config: StructuresConfig) -> dict[str, list[Chain]]:
    """Entries that share a sequence stay together: else the same chain would be in training and in test."""
    sequences: dict[str, set[str]] = {}
    for chain in chains:
        sequences.setdefault(chain.entry, set()).update({chain.sequence} if chain.sequence else ())
    group = components(sequences)
    split = deal_splits(group.values(), config.val_fraction, config.test_fraction, config.split_seed)
    splits: dict[str, list[Chain]] = {name: [] for name in SPLITS}
    for chain in chains:
        splits[split[group[chain.entry]]].append(chain)
    return splits


def _split_by_list(chains: Sequence[Chain], config: StructuresConfig, counts: Counter[str]) -> dict[str, list[Chain]]:
    """A list may name chains (1ABC_A or 1abc.A, whatever the case) or whole entries (1ABC); a chain's own name wins."""
    assert config.splits is not None
    split_of = {_normal(name): split for name, split in read_splits(config.splits).items()}
    splits: dict[str, list[Chain]] = {name: [] for name in SPLITS}
    used = set()
    for chain in chains:
        name = next((n for n in (_normal(chain.id), _normal(chain.entry)) if n in split_of), None)
        if name is None:
            counts["in_no_split"] += 1
        else:
            used.add(name)
            splits[split_of[name]].append(chain)
    if not used:
        raise DataError(f"{config.splits}: names no chain in {config.path}; they are called like {chains[0].id}")
    counts["names_without_chain"] += len(split_of) - len(used)
    return splits


def _normal(name: str) -> str:
    return name.lower().replace(".", "_").replace("-", "_")


def _sequences_only(
    path: Path,
    config: StructuresConfig,
    known: Sequence[Chain],
    held_out: Collection[str],
    skips: Skips,
    counts: Counter[str],
) -> list[Chain]:
    """Records of FASTA files that are no chain of the folder: training items without a structure.

    A record that names a chain must agree with it; it may be longer where the structure has gaps. A record with the
    sequence of a held-out chain is left out, or evaluation would meet it again.
    """
    chains = {chain.id: chain for chain in known}
    found: dict[str, Chain] = {}
    for file in _fasta_files(path):
        try:
            records = list(fasta.read_fasta(file))
        except ValueError as error:
            raise DataError(f"{file}: {error}") from None
        for name, sequence in records:
            counts["fasta_records"] += 1
            if problem := fasta.problem(name, sequence):
                skips.add(str(file), problem)
            elif name in chains:
                counts["fasta_named_a_chain"] += 1
                if not agrees(chains[name].sequence or "", sequence):
                    skips.add(str(file), f"record {name} has another sequence than the chain in {chains[name].source}")
            elif name in found:
                if found[name].sequence != sequence:
                    raise DataError(f"{file}: record {name!r} occurs twice with different sequences; rename one")
                counts["fasta_repeated"] += 1
            elif not config.min_length <= len(sequence) <= config.max_length:
                counts["shorter" if len(sequence) < config.min_length else "longer"] += 1
            elif sequence in held_out:
                counts["fasta_held_out"] += 1
            else:
                found[name] = Chain(name, sequence, None, source=str(file))
    return list(found.values())


def _fasta_files(path: Path) -> list[Path]:
    if path.is_dir():
        found = files_below(path, fasta.SUFFIX, "FASTA file (.fasta, .fa, .faa, .seq, plain or with .gz)")
        return sorted(map(Path, found))
    if not path.exists():
        raise DataError(f"{path}: no such FASTA file")
    return [path]


def agrees(observed: str, record: str) -> bool:
    """Whether the residues seen in a structure are, in order, among those of a record; X stands for any residue."""
    rest = iter(record)
    return all(any(letter in (r, "X") or r == "X" for r in rest) for letter in observed)


def _facts(
    config: StructuresConfig, splits: Mapping[str, Sequence[Chain]], skips: Skips, counts: Counter[str]
) -> dict[str, Any]:
    chains = [chain for group in splits.values() for chain in group]
    return {
        "source": str(config.path),
        "licence": "as the files",
        "files": counts["files"],
        "skipped": skips.facts(),
        "outside_length": {"shorter": counts["shorter"], "longer": counts["longer"]},
        "left_out": {key: counts[key] for key in _LEFT_OUT if counts[key]},
        "sequence_only": sum(chain.ca is None for chain in chains),
        "structure_only": sum(chain.sequence is None for chain in chains),
        "splits": f"from {config.splits}" if config.splits else "by a hash of the entry; relatives are not kept apart",
    }
