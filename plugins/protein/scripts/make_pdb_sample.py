"""Make `gentle_protein/data/pdb_sample.npz`, the real chains that the package ships.

Input: an npz of PDB chains (the longest contiguous stretch of each) with `ids`, `length`, `seq` (uint8 ASCII) and
`coord` (uint16, 0.01 Å), the chains concatenated. The shipped file was made from the chains of the structure
database in Debian's `promod3-data` 3.2.1; the coordinates are PDB entries, which are in the public domain (CC0 1.0).

Chains of 40–164 residues are clustered by shared 5-mers (single linkage, > 8 % of the shorter chain's 5-mers), so
that no held-out chain has a near relative among the training chains. Whole clusters are dealt to the splits.

    python scripts/make_pdb_sample.py pdb_chains_ca.npz gentle_protein/data/pdb_sample.npz
"""

from __future__ import annotations

import argparse
import itertools

import numpy as np
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components

K = 5
SIZES = {"train": 5000, "val": 600, "test": 800}
SPLITS = tuple(SIZES)


def kmer_clusters(sequences: list[np.ndarray], threshold: float) -> np.ndarray:
    """Cluster label of each sequence (uint8 ASCII): single linkage over the share of common 5-mers."""
    letters = np.zeros(256, dtype=np.int64)
    for index, letter in enumerate(b"ACDEFGHIKLMNPQRSTVWY"):
        letters[letter] = index
    rows, columns = [], []
    for row, sequence in enumerate(sequences):
        x = letters[sequence]
        kmers = np.unique(sum(x[j : len(x) - K + 1 + j] * 20**j for j in range(K)))
        rows.append(np.full(len(kmers), row))
        columns.append(kmers)
    row, column = np.concatenate(rows), np.concatenate(columns)
    table = sp.csr_matrix((np.ones(len(row), np.float32), (row, column)), shape=(len(sequences), 20**K))
    counts = np.bincount(row, minlength=len(sequences))
    shared = (table @ table.T).tocoo()
    close = shared.data > threshold * np.minimum(counts[shared.row], counts[shared.col])
    graph = sp.csr_matrix((np.ones(int(close.sum())), (shared.row[close], shared.col[close])), shape=shared.shape)
    return connected_components(graph)[1]


def deal(clusters: np.ndarray, eligible: np.ndarray, seed: int) -> dict[int, str]:
    """Deal whole clusters, in a seeded order, to test, then val, then train, until each is full."""
    members: dict[int, list[int]] = {}
    for index in eligible:
        members.setdefault(int(clusters[index]), []).append(int(index))
    order = np.random.default_rng(seed).permutation(sorted(members))
    chosen: dict[int, str] = {}
    room = dict(SIZES)
    for cluster in order:
        group = members[int(cluster)]
        split = next((s for s in reversed(SPLITS) if room[s] >= len(group)), None)
        if split is None:
            continue
        room[split] -= len(group)
        chosen.update(dict.fromkeys(group, split))
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threshold", type=float, default=0.08)
    parser.add_argument("--corpus", help="also write the sequences that are no relatives of val or test, as FASTA")
    args = parser.parse_args()

    source = np.load(args.source, allow_pickle=False)
    ids, length = source["ids"], source["length"].astype(np.int64)
    bounds = np.concatenate([[0], np.cumsum(length)])
    spans = [slice(a, b) for a, b in itertools.pairwise(bounds)]
    letters = source["seq"]  # read once: every access to an npz member decompresses it
    sequences = [letters[s] for s in spans]
    coordinates = source["coord"].reshape(-1, 3).astype(np.int32)

    # Chains of one PDB entry belong together as well.
    clusters = kmer_clusters(sequences, args.threshold)
    entries = np.unique([i[:4] for i in ids], return_inverse=True)[1]
    both = sp.coo_matrix((np.ones(len(ids)), (clusters, clusters.max() + 1 + entries)))
    size = clusters.max() + 1 + entries.max() + 1
    joined = connected_components(sp.csr_matrix((both.data, (both.row, both.col)), shape=(size, size)))[1]
    clusters = joined[clusters]

    eligible = np.flatnonzero((length >= 40) & (length <= 164))
    chosen = deal(clusters, eligible, args.seed)
    keep = np.array(sorted(chosen, key=lambda i: (SPLITS.index(chosen[i]), ids[i])))

    first = np.stack([coordinates[spans[i].start] for i in keep]).astype(np.uint16)
    delta = np.concatenate([np.diff(coordinates[spans[i]], axis=0) for i in keep]).astype(np.int16)
    planes = delta.view(np.uint8).reshape(*delta.shape, 2)  # low and high bytes compress better apart
    np.savez_compressed(
        args.target,
        ids=ids[keep].astype("S6"),
        split=np.array([SPLITS.index(chosen[i]) for i in keep], dtype=np.uint8),
        length=length[keep].astype(np.uint16),
        sequence=np.concatenate([sequences[i] for i in keep]),
        first=first,
        delta_low=planes[..., 0],
        delta_high=planes[..., 1],
    )
    print({s: sum(v == s for v in chosen.values()) for s in SPLITS}, "residues:", int(length[keep].sum()))

    if args.corpus:
        held_out = {int(clusters[i]) for i, split in chosen.items() if split != "train"}
        free = [i for i in range(len(ids)) if int(clusters[i]) not in held_out]
        with open(args.corpus, "w") as out:
            for i in free:
                out.write(f">{ids[i]}\n{sequences[i].tobytes().decode()}\n")
        print(f"corpus: {len(free)} sequences, {int(length[free].sum())} residues")


if __name__ == "__main__":
    main()
