"""Further sources of unmatched items: everything of theirs is in a pool, and nothing of it is ever a pair."""

from __future__ import annotations

import json

import numpy as np
import pytest

from gentle_core.batch import ItemIndex
from gentle_core.data.pools import pools_of
from gentle_core.data.sources import Source, WithSources
from gentle_core.recipe.model import Component, DatasetTable

TOWERS = {"picture": "image", "words": "text"}


class Plain:
    """Items by modality, whose raw form is "<name>:<modality>:<id>"."""

    def __init__(self, name, **items):
        self.name, self.items, self.calls = name, items, []

    def index(self, split):
        if split == "train":
            return {m: i if isinstance(i, ItemIndex) else ItemIndex(i) for m, i in self.items.items()}
        return {"image": ItemIndex(["held"])}

    def load(self, modality, items):
        self.calls.append(len(items))
        return [f"{self.name}:{modality}:{item}" for item in items]

    def facts(self):
        return {"source": self.name}


@pytest.fixture
def joined():
    main = Plain(
        "main",
        image=ItemIndex(["p0", "p1", "p2", "p3"], attributes={"size": np.array([1.0, 2.0, 3.0, 4.0])}),
        text=ItemIndex(["p0#0", "p0#1", "p1#0", "p2#0", "p3#0"], ["p0", "p0", "p1", "p2", "p3"]),
    )
    captions = Plain("captions", text=ItemIndex(["p0", "z"], attributes={"label": np.array(["dog", "cat"])}))
    both = Plain("both", image=["p0", "q"], text=["p0", "q"], scene=["s"])
    feeds = {"image": ("image", "scene"), "text": ("text",)}
    sources = [Source("x/captions", captions, {"image": (), "text": ("text",)}), Source("x/both", both, feeds)]
    return WithSources(main, sources)


def test_index_and_load(joined):
    index = joined.index("train")
    assert index["text"].items[5:] == (
        "unpaired[0]/text/p0", "unpaired[0]/text/z", "unpaired[1]/text/p0", "unpaired[1]/text/q",
    )  # fmt: skip
    assert index["image"].items[4:] == ("unpaired[1]/image/p0", "unpaired[1]/image/q", "unpaired[1]/scene/s")
    assert index["image"].samples[4] == index["text"].samples[7] == "unpaired[1]/p0"
    assert index["text"].attributes["label"].tolist() == ["", "", "", "", "", "dog", "cat", "", ""]
    assert np.isnan(index["image"].attributes["size"][4:]).all()
    loaded = joined.load("image", ["unpaired[1]/scene/s", "p2", "unpaired[1]/image/q", "p0"])
    assert loaded == ["both:scene:s", "main:image:p2", "both:image:q", "main:image:p0"]
    assert joined._main.calls == [2]
    assert joined.index("val")["image"].items == ("held",)
    assert json.loads(json.dumps(joined.facts()))["unpaired"][1] == {"use": "x/both", "source": "both"}


@pytest.mark.parametrize("pool", ["shuffled", "disjoint"])
def test_their_items_are_pool_items_only(joined, pool):
    sources = (Component(use="x/captions"), Component(use="x/both"))
    table = DatasetTable(use="x/main", paired=1.0, pool=pool, unpaired=sources)
    pools = pools_of(table, joined.index("train"), TOWERS, seed=0)
    assert sorted(pools.samples) == ["p0", "p1", "p2", "p3"]
    further = {t: [joined.index("train")[m].items[p] for p in pools.unmatched[t]] for t, m in TOWERS.items()}
    assert all(item.startswith("unpaired[") for items in further.values() for item in items)
    if pool == "shuffled":
        assert {tower: len(items) for tower, items in further.items()} == {"picture": 3, "words": 4}
    else:  # of the two samples with both, each serves one tower
        assert sum(map(len, further.values())) == 5


def test_the_share_is_of_the_datasets_own_samples(joined):
    table = DatasetTable(use="x/main", paired=1, unpaired=(0.0, Component(use="x/captions")))
    pools = pools_of(table, joined.index("train"), TOWERS, seed=0)
    assert pools.pool_sizes == {"picture": 3, "words": 4}
    whole = DatasetTable(use="x/main", paired=1, unpaired=(Component(use="x/captions"),))
    assert whole.remaining == 1.0 and table.remaining == 0.0 and len(table.sources) == 1
    assert pools_of(whole, joined.index("train"), TOWERS, seed=0).pool_sizes["picture"] == 6


def test_the_pairs_do_not_depend_on_the_sources(joined):
    table = DatasetTable(use="x/main", paired=2)
    alone = pools_of(table, joined._main.index("train"), TOWERS, seed=5)
    assert pools_of(table, joined.index("train"), TOWERS, seed=5).samples == alone.samples


def test_mates_of_a_source_are_known_to_be_mates(joined):
    """So that the sampler keeps them out of matching rows."""
    pools = pools_of(DatasetTable(use="x/main"), joined.index("train"), TOWERS, seed=0)
    index = joined.index("train")
    for tower, modality in TOWERS.items():
        for position, number in zip(pools.unmatched[tower], pools.described[tower], strict=True):
            for other, held in TOWERS.items():
                mates = [p for p, n in zip(pools.unmatched[other], pools.described[other], strict=True) if n == number]
                for p in mates:
                    assert index[held].samples[p] == index[modality].samples[position]
