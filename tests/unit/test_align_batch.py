from __future__ import annotations

import torch

from gentle_core.batch import AlignBatch, Rows


def test_pairs_are_all_combinations_of_equal_ids_in_row_order():
    generator = torch.Generator().manual_seed(0)
    for sizes in ((6, 9), (9, 6), (1, 5), (0, 4), (4, 0)):
        left, right = (torch.randint(0, 7, (n,), generator=generator) for n in sizes)
        batch = AlignBatch({"a": Rows(torch.zeros(sizes[0], 2), left), "b": Rows(torch.zeros(sizes[1], 2), right)})
        expected = [(i, j) for i in range(sizes[0]) for j in range(sizes[1]) if left[i] == right[j]]
        rows = batch.pairs("a", "b")
        assert list(zip(*(x.tolist() for x in rows), strict=True)) == expected
