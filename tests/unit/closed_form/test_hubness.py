"""Hubness corrections against plain loops in float64, and what they must not depend on."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gentle_core.closed_form.hubness import GRID, Corrected, Hubness, choose_hubness
from gentle_core.errors import DataError
from gentle_core.evaluate.retrieval import describe_all, ranks_both


def unit(n: int, d: int = 6, seed: int = 0, lean: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, d)) + lean * np.eye(d)[0]
    return z / np.linalg.norm(z, axis=1, keepdims=True)


U, V, BANK_U, BANK_V = unit(5, seed=1), unit(7, seed=2), unit(31, seed=3), unit(29, seed=4)


def plain_scores(settings: Hubness, queries, candidates, bank_of_queries, bank_of_candidates):
    """Scores up to what is constant in a query's row."""
    scores = np.zeros((len(queries), len(candidates)))
    for j, v in enumerate(candidates):
        near = sorted((float(b @ v) for b in bank_of_queries), reverse=True)
        if settings.method == "csls":
            bias = sum(near[: settings.neighbours]) / settings.neighbours
        else:
            t = settings.temperature
            bias = t * math.log(sum(math.exp(s / t) for s in near) / len(near))
        for i, u in enumerate(queries):
            scores[i, j] = float(u @ v) - settings.weight * bias
    if settings.method == "qb-norm":
        active = {int(np.argmax([b @ v for v in candidates])) for b in bank_of_queries}
        for i, u in enumerate(queries):
            raw = np.array([u @ v for v in candidates])
            if int(raw.argmax()) not in active:
                scores[i] = raw
    return scores


@pytest.mark.parametrize("settings", GRID[1:], ids=lambda s: s.label)
def test_scores_are_those_of_a_plain_loop(settings):
    corrected = Corrected.of(settings, BANK_U, BANK_V)
    forward = corrected.scores(U, V, "u").numpy()
    backward = corrected.scores(V, U, "v").numpy()
    np.testing.assert_allclose(forward, plain_scores(settings, U, V, BANK_U, BANK_V), atol=1e-12)
    np.testing.assert_allclose(backward, plain_scores(settings, V, U, BANK_V, BANK_U), atol=1e-12)


@pytest.mark.parametrize("settings", [s for s in GRID if s.method not in ("none", "qb-norm")], ids=lambda s: s.label)
def test_lifted_rows_are_unit_and_rank_as_the_correction_does(settings):
    corrected = Corrected.of(settings, BANK_U, BANK_V)
    u, v = corrected.lift(U, "u"), corrected.lift(V, "v")
    for z in (u, v):
        torch.testing.assert_close(z.norm(dim=1), torch.ones(len(z), dtype=torch.float64), rtol=0, atol=1e-12)
    both = torch.from_numpy(U @ V.T) - corrected.bias(U, "u")[:, None] - corrected.bias(V, "v")
    torch.testing.assert_close(u @ v.T * (1 + 2 * settings.weight), both, rtol=0, atol=1e-12)
    ids = (range(5), range(7))
    lifted = ranks_both(u, v, *ids)
    for name, found in corrected.ranks_both(U, V, *ids).items():
        assert found.rank.tolist() == lifted[name].rank.tolist()


def test_no_correction_changes_nothing():
    corrected = Corrected.of(Hubness("none"), U[:0], V[:0])
    assert torch.equal(corrected.lift(U, "u"), torch.from_numpy(U))
    np.testing.assert_allclose(corrected.scores(U, V).numpy(), U @ V.T)
    with pytest.raises(ValueError, match="QB-norm"):
        Corrected.of(Hubness("qb-norm"), BANK_U, BANK_V).lift(U, "u")


def test_the_order_of_a_bank_carries_no_pairing():
    settings = Hubness("csls", neighbours=3)
    order = np.random.default_rng(0).permutation(len(BANK_V))
    once, again = (Corrected.of(settings, BANK_U, bank).scores(V, U, "v") for bank in (BANK_V, BANK_V[order]))
    torch.testing.assert_close(once, again, rtol=0, atol=1e-12)


def hubs(n: int, seed: int):
    """Pairs in which some candidates lean towards what all queries share."""
    rng = np.random.default_rng(seed)
    u = rng.normal(size=(n, 20)) + 0.6
    v = u + 1.2 * rng.normal(size=u.shape) + np.where(rng.random(n) < 0.1, 3.0, 0.0)[:, None]
    return (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (u, v))


def test_hubs_are_found_on_validation_and_the_correction_helps_elsewhere():
    u, v = hubs(300, 0)
    bank = hubs(300, 1)
    chosen = choose_hubness({"pairs": tuple(bank)}, u, v, range(300), range(300))
    assert chosen.corrected.settings.method != "none" and chosen.bank == "pairs"
    assert chosen.facts["bank_rows"] == [300, 300]
    u, v = hubs(300, 2)
    plain = ranks_both(u, v, range(300), range(300))["a->b"].recall(1)
    assert chosen.corrected.ranks_both(u, v, range(300), range(300))["a->b"].recall(1) > plain + 3


def test_what_settings_share_is_found_once_and_changes_nothing(monkeypatch):
    """Every setting's figure is that of its own correction, in one block or several."""
    u, v = (z[:60] for z in hubs(300, 0))
    bank, ids = tuple(hubs(300, 1)), (range(60), range(60))
    for entries in (1 << 22, 700):
        monkeypatch.setattr("gentle_core.evaluate.arrays.BLOCK_ENTRIES", entries)
        chosen = choose_hubness({"pairs": bank, "one side": (bank[0], bank[1][:0])}, u, v, *ids)
        assert len(chosen.tried) == 1 + 2 * (len(GRID) - 1)
        for tried in chosen.tried:
            sides = bank if tried["bank"] != "one side" else (bank[0], bank[1][:0])
            alone = Corrected.of(GRID[tried["number"]], *sides).ranks_both(u, v, *ids)
            assert describe_all(alone)["retrieval/mean/recall"] == tried["recall"], tried
        again = chosen.corrected.ranks_both(u, v, *ids, ("x", "y"))
        assert {name: r.rank.tolist() for name, r in again.items()} == {
            name: r.rank.tolist() for name, r in chosen.ranks.items()
        }


def test_without_hubs_none_stays_among_the_choices():
    found = choose_hubness({"pairs": (BANK_U, BANK_V)}, U, V, range(5), range(7), grid=(Hubness("none"),))
    assert found.facts == {"hubness": "none"} and found.tried[0]["recall"] >= 0


def test_errors_say_what_is_missing():
    with pytest.raises(DataError, match="needs a bank"):
        Corrected.of(Hubness("csls"), U[:0], V[:0])
    with pytest.raises(DataError, match="no pair among the validation"):
        choose_hubness({}, U, V, range(5), range(20, 27), grid=(Hubness("none"),))
    with pytest.raises(ValueError):
        Hubness("csls", weight=1.5)
