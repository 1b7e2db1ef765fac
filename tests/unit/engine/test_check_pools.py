"""Pools that resemble the pairs, and pools that do not."""

from __future__ import annotations

import copy
import json
from types import SimpleNamespace

import attrs
import numpy as np
import pytest
import torch

from gentle_core.batch import ItemIndex
from gentle_core.engine import check_pools as module
from gentle_core.engine import session as session_module
from gentle_core.engine.check_pools import PoolReport, check_pool, check_pools
from gentle_core.engine.progress import Display
from gentle_core.errors import DataError
from gentle_core.recipe import load_recipe

from .conftest import RECIPE


def rows(n: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, 10)) + shift).float()


@pytest.mark.parametrize(("shift", "verdict"), [(0.0, "alike"), (0.35, "different"), (1.5, "foreign")])
def test_verdicts(shift, verdict):
    found = check_pool("a", rows(300, 0), rows(900, 1, shift))
    assert found.verdict == verdict and "'a'" in found.sentence
    assert (found.density > 2 * found.floor) == (verdict == "foreign") or verdict == "different"
    report = PoolReport([found], 300)
    words = {"alike": "gain can be expected", "different": "not to be counted on", "foreign": "Expect harm"}
    assert words[verdict] in report.expectation
    json.dumps(report.as_json())
    assert "Expect little" in PoolReport([check_pool("a", rows(50, 0), rows(50, 1))], 5000).expectation
    assert "no unmatched pool" in PoolReport([], 10).expectation


def test_a_pool_that_shares_the_pairs_means_alone_is_foreign():
    pairs = rows(50, 0)
    one = torch.from_numpy(np.random.default_rng(1).normal(size=(900, 1)))
    pool = 0.95 * one + 0.3 * rows(900, 2)  # one factor behind all columns
    pool = ((pool - pool.mean(0)) / pool.std(0) * pairs.std(0) + pairs.mean(0)).float()
    assert check_pool("a", pairs, pool).verdict == "foreign"


def test_captions_of_one_image_do_not_make_a_pool_foreign():
    means = rows(340, 0)
    samples = np.repeat(np.arange(340), 5)
    features = means[torch.from_numpy(samples)] + 0.01 * rows(1700, 1)
    split = SimpleNamespace(index={"text": ItemIndex(tuple(map(str, range(1700))), tuple(map(str, samples)))})
    groups = tuple(np.arange(5 * s, 5 * s + 5) for s in range(40))
    pools = SimpleNamespace(matched={"text": groups}, unmatched={"text": np.arange(200, 1700)})
    pairs, pool = module._drawn_sets(SimpleNamespace(of=lambda *_: features), split, pools, "text", 0)
    assert (len(pairs), len(pool)) == (40, 300)
    assert check_pool("text", pairs, pool).verdict == "alike"
    assert check_pool("text", features[:200], features[200:]).verdict != "alike"


def test_a_recipe_whose_pools_are_dealt_from_one_source(toy_catalog, tmp_path, monkeypatch):
    monkeypatch.setenv("GENTLE_CACHE", str(tmp_path))
    resolved = load_recipe(copy.deepcopy(RECIPE), {}, toy_catalog)
    report = check_pools(resolved, Display(quiet=True))
    assert [check.tower for check in report.towers] == ["a", "b"] and not report.foreign
    assert report.towers[0].pool == 48 and report.pairs == 48
    with pytest.raises(DataError, match=r"10 pairs: .*raise dataset\.paired"):
        check_pools(load_recipe(copy.deepcopy(RECIPE), {"dataset.paired": 10}, toy_catalog), Display(quiet=True))
    alone = load_recipe(copy.deepcopy(RECIPE), {"dataset.paired": 1.0}, toy_catalog)
    assert check_pools(alone, Display(quiet=True)).towers == []


def test_the_mates_of_the_pool_are_never_used(toy_catalog, tmp_path, monkeypatch):
    monkeypatch.setenv("GENTLE_CACHE", str(tmp_path))
    resolved = load_recipe(copy.deepcopy(RECIPE), {}, toy_catalog)
    before = check_pools(resolved, Display(quiet=True))
    whole = module.pools_of

    def strangers(*args):
        pools = whole(*args)
        mixed = {name: np.random.default_rng(0).permutation(d) for name, d in pools.described.items()}
        return attrs.evolve(pools, described=mixed)

    monkeypatch.setattr(module, "pools_of", strangers)
    assert check_pools(resolved, Display(quiet=True)) == before


def test_a_run_warns_of_a_foreign_pool_and_of_no_other(toy_run, toy_catalog, monkeypatch):
    sets = {"dataset.count": 300, "train.steps": 2}

    def notices(name, more=None):
        out = toy_run(name, {**sets, **(more or {})}).out
        return json.loads((out / "manifest.json").read_text())["notices"]

    assert not any("foreign" in notice for notice in notices("alike"))
    recipe = load_recipe(copy.deepcopy(RECIPE), sets, toy_catalog).recipe
    dataset = session_module.Builder(recipe=recipe, catalog=toy_catalog, notify=print).dataset()
    values = np.stack(dataset.load("toy-b", dataset.index("train")["toy-b"].items))
    order = np.argsort(values @ np.linalg.svd(values - values.mean(0))[2][0])  # along their largest spread
    whole = session_module.pools_of

    def lopsided(*args):
        """Pairs from one end of the data and pools from the other."""
        pools = whole(*args)
        ends = {tower: tuple(order[: len(groups), None]) for tower, groups in pools.matched.items()}
        return attrs.evolve(pools, matched=ends, unmatched={t: np.sort(order[150:]) for t in pools.unmatched})

    monkeypatch.setattr(session_module, "pools_of", lopsided)
    found = [notice for notice in notices("foreign") if "pool of 'b' looks foreign" in notice]
    assert len(found) == 1 and "gentle check-pools" in found[0]
    assert not any("foreign" in notice for notice in notices("clip", {"objective.use": "core/clip"}))
