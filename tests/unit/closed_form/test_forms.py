"""All forms on one set of features: twins, choices, and what is never looked at."""

from __future__ import annotations

import itertools

import attrs
import numpy as np
import pytest
import torch

from gentle_core.closed_form import fit as module
from gentle_core.closed_form.choice import CLEAR, choose
from gentle_core.closed_form.features import Features
from gentle_core.closed_form.fit import corrected, fit_forms
from gentle_core.closed_form.forms import LABELS, TRAINED, Ensemble, Fitted
from gentle_core.closed_form.graph import propagate_both
from gentle_core.closed_form.storage import from_arrays, to_arrays
from gentle_core.closed_form.transport import OtEm, OtEmData, ot_em, ot_em_rounds
from gentle_core.errors import DataError
from gentle_core.evaluate.retrieval import describe_all, ranks_both


def features(pairs: int = 20, pool: int = 80, val: int = 40, seed: int = 0, noise: float = 0.3) -> Features:
    rng = np.random.default_rng(seed)
    factors = rng.gamma(1.0, size=(pairs + pool + val, 5)) * np.linspace(2, 0.8, 5)
    x, y = (torch.from_numpy(factors @ rng.normal(size=(5, 10)) + noise * rng.normal(size=(len(factors), 10)))
            for _ in range(2))  # fmt: skip
    return Features(
        x[:pairs], y[:pairs], np.arange(pairs), np.arange(pairs), x[pairs : pairs + pool], y[pairs : pairs + pool],
        x[pairs + pool :], y[pairs + pool :], range(val), range(val),
    )  # fmt: skip


@pytest.fixture(scope="module")
def fitted():
    data = features()
    return data, fit_forms(data)


def test_every_form_is_there_with_its_twin(fitted):
    _, forms = fitted
    labels = {form.label: form.pools for form in forms}
    assert {label for name, label in LABELS.items() if name != "ensemble"} <= set(labels)
    assert labels["Label propagation on CCA (pairs only)"] is False and labels["Label propagation on CCA"] is True
    assert labels["OT-EM CCA"] is True and labels["CCA, closed form"] is False
    assert all(pools or "(unpaired)" not in label for label, pools in labels.items())


def test_embeddings_are_unit_and_give_the_recorded_ranks(fitted):
    data, forms = fitted
    for form in forms:
        u, v = form.embed(data.x_val, "x"), form.embed(data.y_val, "y")
        torch.testing.assert_close(u.norm(dim=1), torch.ones(len(u), dtype=torch.float64), rtol=0, atol=1e-9)
        rank = (u @ v.T >= (u * v).sum(1, keepdim=True) - 1e-12).sum(1)
        assert rank.tolist() == form.ranks["x->y"].rank.tolist(), form.label


@pytest.mark.parametrize("entries", [1 << 22, 300])
def test_a_propagation_is_the_best_of_all_its_settings(entries, monkeypatch):
    """Each setting by its own, from the rows that the graph gives: what the search shares changes nothing."""
    monkeypatch.setattr("gentle_core.evaluate.arrays.BLOCK_ENTRIES", entries)
    monkeypatch.setattr("gentle_core.closed_form.graph.WIDEST", 15)
    data = features(noise=1.0)
    cca, found, pooled = fit_forms(data, ("cca", "propagation"), hubness=False)
    for form, n in ((found, 0), (pooled, 80)):
        pairs, pools = ((cca.plain(a, "x"), cca.plain(b, "y"))
                        for a, b in ((data.x, data.y), (data.pool_x[:n], data.pool_y[:n])))  # fmt: skip
        tried = []
        for start, root, share in itertools.product(module.GRAPHS, (False, True), module.PROFILE_SHARES):
            settings = attrs.evolve(start, root=root, share=share)
            a, b = propagate_both(settings, pairs, (np.arange(20), np.arange(20)), pools)
            rows = a.embed(cca.plain(data.x_val, "x")), b.embed(cca.plain(data.y_val, "y"))
            tried.append(describe_all(ranks_both(*rows, range(40), range(40)))["retrieval/mean/recall"])
        assert form.recall == pytest.approx(max(tried)) and min(tried) < max(tried)


def test_more_turns_go_on_from_fewer(monkeypatch):
    """No turn of OT-EM with the same settings is computed twice, and all are those of an alternation of its own."""
    asked = []

    def counted(prepared, settings):
        asked.append(settings)
        return ot_em_rounds(prepared, settings)

    monkeypatch.setattr(module, "ot_em_rounds", counted)
    data = features()
    form = next(form for form in fit_forms(data, ("ot-em",), hubness=False) if form.name == "ot-em")
    assert len(asked) == len(set(asked)) and isinstance(form, Fitted)
    said = form.settings
    settings = OtEm(
        said["l"], said["epsilon"], said["rounds"], said["a"], said["ridge"], said["power"], said["dimension"]
    )
    prepared = OtEmData.of(data.x, data.y, data.pool_x, data.pool_y)
    np.testing.assert_allclose(ot_em(prepared, settings).embed_x(data.x_val), form.map.embed_x(data.x_val), atol=1e-12)


def test_forms_survive_being_written_down(fitted):
    data, forms = fitted
    for form in forms:
        again = from_arrays(*to_arrays(form))
        torch.testing.assert_close(again.embed(data.x_val, "x"), form.embed(data.x_val, "x"), rtol=0, atol=0)
        torch.testing.assert_close(again.embed(data.y_val, "y"), form.embed(data.y_val, "y"), rtol=0, atol=0)


def test_an_average_is_the_mean_of_its_members_cosines(fitted):
    data, forms = fitted
    members = [next(form for form in forms if form.name == name) for name in ("ridge", "propagation", "ot-em")]
    average = Ensemble(name="ensemble", label="all", pools=True, settings={}, members=tuple(members))
    expected = sum(m.plain(data.x_val, "x") @ m.plain(data.y_val, "y").T for m in members) / 3
    found = average.embed(data.x_val, "x") @ average.embed(data.y_val, "y").T
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    for again in (from_arrays(*to_arrays(form)) for form in (average, *corrected(data, average))):
        assert isinstance(again, Ensemble) and [m.label for m in again.members] == [m.label for m in members]
        torch.testing.assert_close(again.plain(data.y_val, "y"), average.plain(data.y_val, "y"), rtol=0, atol=0)


def test_forms_are_averaged_where_that_helps_on_validation():
    found = {}
    for seed in range(6):
        data = features(seed=seed, noise=2.0)
        forms = fit_forms(data, ("ridge", "cca", "procrustes", "propagation", "ot-em", "ensemble"), hubness=False)
        single = {False: 0.0, True: 0.0}
        for form in forms:
            if form.name != "ensemble":
                single |= {pools: max(single[pools], form.recall) for pools in (form.pools, True)}
        for form in forms:
            if form.name == "ensemble":
                assert isinstance(form, Ensemble) and form.recall > single[form.pools]
                assert any(member.pools for member in form.members) == form.pools
                found[form.pools] = form
    assert set(found) == {False, True}


def test_trained_heads_are_a_form_and_no_features():
    data = features()
    rng = np.random.default_rng(1)
    joint = torch.from_numpy(rng.normal(size=(140, 6)))

    def beside(x: torch.Tensor, start: int) -> torch.Tensor:
        return torch.cat([x, joint[start : start + len(x)]], dim=1)

    starts = {"items_x": 0, "items_y": 0, "pool_x": 20, "pool_y": 20, "x_val": 100, "y_val": 100}
    more = {name: beside(getattr(data, name), start) for name, start in starts.items()}
    wide = attrs.evolve(data, joint=(6, 6), joint_saw_pools=False, **more)
    plain = {form.label: form for form in fit_forms(data, ("cca", "propagation"), hubness=False)}
    found = {form.label: form for form in fit_forms(wide, ("cca", "propagation", "ensemble"), hubness=False)}
    for label, form in plain.items():
        torch.testing.assert_close(found[label].embed(wide.x_val, "x"), form.embed(data.x_val, "x"), rtol=0, atol=0)
    heads = found[TRAINED]
    assert heads.recall == 100 and not heads.pools  # the same rows on both sides
    expected = torch.nn.functional.normalize(joint[100:], dim=1)
    torch.testing.assert_close(heads.embed(wide.y_val, "y"), expected)
    again = from_arrays(*to_arrays(heads))
    torch.testing.assert_close(again.embed(wide.y_val, "y"), expected)


def test_whose_mates_the_pool_items_are_changes_nothing(fitted):
    data, forms = fitted
    order = torch.from_numpy(np.random.default_rng(3).permutation(len(data.pool_y)))
    again = fit_forms(attrs.evolve(data, pool_y=data.pool_y[order]))
    assert [form.label for form in again] == [form.label for form in forms]
    for a, b in zip(forms, again, strict=True):
        assert a.recall == pytest.approx(b.recall, abs=1e-6), a.label


def test_forms_on_the_pairs_alone_do_not_see_the_pools(fitted):
    data, forms = fitted
    other = attrs.evolve(data, pool_x=data.pool_x[:5] * 3 + 7, pool_y=data.pool_y[:9] - 50)
    again = {form.label: form for form in fit_forms(other, ("cca", "ridge", "procrustes", "propagation"))}
    alone = [form for form in forms if not form.pools]
    assert len(alone) >= 4
    for form in alone:
        torch.testing.assert_close(again[form.label].embed(data.x_val, "x"), form.embed(data.x_val, "x"))


def test_the_choice_takes_pools_only_where_validation_favours_them_clearly(fitted):
    _, forms = fitted
    found = choose(forms)
    assert found.form in (found.pairs_only, found.with_pools) and found.gain is not None
    assert (found.form is found.with_pools) == (found.gain.low > 0)
    assert found.form.label in found.reason
    worst = min(forms, key=lambda form: form.recall)
    fallen = choose([found.pairs_only, attrs.evolve(worst, pools=True)])
    assert fallen.form is found.pairs_only and "alone" in fallen.reason
    assert choose([found.pairs_only]).gain is None
    with pytest.raises(ValueError, match="pairs alone"):
        choose([attrs.evolve(worst, pools=True)])


def test_several_items_of_a_sample_pair_in_every_combination():
    data = features()
    several = attrs.evolve(
        data, items_y=torch.cat([data.items_y, data.items_y + 0.1]), labels_y=np.tile(np.arange(20), 2)
    )
    assert len(several.x) == len(several.y) == 40
    assert all(np.isfinite(form.recall) for form in fit_forms(several, ("cca", "propagation")))


def test_without_pools_only_forms_on_pairs_remain():
    data = features()
    forms = fit_forms(attrs.evolve(data, pool_x=data.pool_x[:0], pool_y=data.pool_y[:0]))
    assert forms and not any(form.pools for form in forms)


def test_errors_say_what_is_wrong():
    data = features()
    with pytest.raises(DataError, match="ot-me"):
        fit_forms(data, ("ot-me",))
    one = attrs.evolve(data, items_x=data.items_x[:1], labels_x=np.zeros(1, int))
    with pytest.raises(DataError, match="1 training pair"):
        fit_forms(one)
    with pytest.raises(DataError, match="no pair among the validation"):
        fit_forms(attrs.evolve(data, samples_x_val=range(100, 140)))
    assert CLEAR < 0.95
