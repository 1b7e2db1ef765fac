from __future__ import annotations

import numpy as np
import pytest

from gentle_core.data.shares import EXCHANGED, cut


@pytest.mark.parametrize(("rows", "chunks"), [(0, 2), (1, 3), (7, 3), (96, 2), (97, 4), (64, 64)])
@pytest.mark.parametrize("known", [False, True])
def test_every_row_is_in_one_chunk_and_chunks_are_as_large(rows, chunks, known):
    rng = np.random.default_rng(0)
    found = cut(rng.permutation(rows), rng.lognormal(4, 1, rows) if known else None, chunks)
    assert sorted(row for chunk in found for row in chunk) == list(range(rows))
    assert len(found) == chunks
    assert max(map(len, found)) - min(map(len, found)) <= 1
    assert all(chunk == sorted(chunk) for chunk in found)


@pytest.mark.parametrize("chunks", [2, 4])
def test_sizes_are_evened_out_near_the_cuts_alone(chunks):
    rng = np.random.default_rng(0)
    worst = {False: [], True: []}
    for _ in range(20):
        places, sizes = rng.permutation(5000)[:128], rng.uniform(30, 164, 128)
        plain = cut(places, None, chunks)
        for evened in (False, True):
            found = cut(places, sizes if evened else None, chunks)
            worst[evened].append(max(sizes[rows].sum() for rows in found) * chunks / sizes.sum() - 1)
            moved = sum(len(set(a) - set(b)) for a, b in zip(found, plain, strict=True))
            assert moved <= 2 * EXCHANGED * (chunks - 1)
    assert 4 * np.mean(worst[True]) < np.mean(worst[False])
    assert np.median(worst[True]) < 0.001


def test_a_row_of_the_same_place_mostly_comes_to_the_same_chunk():
    rng = np.random.default_rng(0)
    sizes, chunk_of, differ = rng.uniform(30, 164, 2000), {}, 0
    for _ in range(50):
        items = rng.choice(2000, 192, replace=False)
        for number, rows in enumerate(cut(items, sizes[items], 2)):
            for item in items[rows].tolist():
                differ += chunk_of.setdefault(item, number) != number
    assert differ < 0.12 * 50 * 192  # half of them without an order


def test_equal_sizes_change_nothing():
    places = np.random.default_rng(0).permutation(50)
    assert cut(places, np.full(50, 3.0), 4) == cut(places, None, 4)
