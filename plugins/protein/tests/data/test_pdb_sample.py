from __future__ import annotations

import pickle

import numpy as np
import pytest

from gentle_core.api import BuildContext, DataError, Dataset
from gentle_protein.chain import SEQUENCE, STRUCTURE
from gentle_protein.datasets.config import PdbSampleConfig
from gentle_protein.datasets.pdb_sample import build

SIZES = {"train": 5000, "val": 600, "test": 800}


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    return build(PdbSampleConfig(), BuildContext(cache_dir=tmp_path_factory.mktemp("cache")))


def test_all_chains_are_pairs_of_equal_length(sample):
    assert isinstance(sample, Dataset)
    for split, size in SIZES.items():
        index = sample.index(split)
        assert index[SEQUENCE].items == index[STRUCTURE].items
        assert len(index[SEQUENCE]) == size
        lengths = index[STRUCTURE].attributes["length"]
        assert lengths.min() >= 40
        assert lengths.max() <= 164
        for modality in (SEQUENCE, STRUCTURE):
            assert [len(item) for item in sample.load(modality, index[modality].items)] == lengths.tolist()
    assert sample.facts()["chains"] == SIZES
    assert sample.facts()["licence"] == "CC0-1.0"


def test_the_chains_are_proteins(sample):
    items = sample.index("test")[STRUCTURE].items
    for structure, sequence in zip(sample.load(STRUCTURE, items), sample.load(SEQUENCE, items), strict=True):
        assert set(sequence) <= set("ACDEFGHIKLMNPQRSTVWYX")
        steps = np.linalg.norm(np.diff(structure.ca, axis=0), axis=1)
        assert 3.6 < np.median(steps) < 3.95
        assert steps.max() < 4.5, "the stretches are contiguous"


def test_a_known_chain(sample):
    """Sperm-whale myoglobin, 1A6M: the file decodes to the right residues at the right places."""
    assert sample.load(SEQUENCE, ["1A6M_A"])[0].startswith("VLSEGEWQLVLHVWAKVEADVAGHGQDILIRLFKSHPETLEKFDRFKHLKTEAEMK")


def test_no_entry_is_in_two_splits(sample):
    entries = {split: {item[:4] for item in sample.index(split)[SEQUENCE].items} for split in SIZES}
    assert not entries["train"] & (entries["val"] | entries["test"])
    assert not entries["val"] & entries["test"]


def test_limits_are_nested(context):
    few = build(PdbSampleConfig(train=50, val=20), context)
    more = build(PdbSampleConfig(train=200), context)
    assert few.facts()["chains"] == {"train": 50, "val": 20, "test": 800}
    assert set(few.index("train")[SEQUENCE].items) < set(more.index("train")[SEQUENCE].items)
    assert build(PdbSampleConfig(train=50), context).index("train")[SEQUENCE].items == (
        few.index("train")[SEQUENCE].items
    )
    assert build(PdbSampleConfig(train=9999), context).facts()["chains"]["train"] == 5000
    with pytest.raises(ValueError, match="train"):
        PdbSampleConfig(train=-1)


def test_loader_workers_can_have_it(context):
    made = pickle.loads(pickle.dumps(build(PdbSampleConfig(train=3, val=1, test=1), context)))
    assert len(made.load(STRUCTURE, made.index("train")[STRUCTURE].items)) == 3


def test_wrong_requests_are_named(sample):
    with pytest.raises(DataError, match="no chain has the id '9ZZZ_A'"):
        sample.load(SEQUENCE, ["9ZZZ_A"])
    with pytest.raises(DataError, match="no modality 'image'"):
        sample.load("image", ["1A6M_A"])
