"""Choosing by pairs held out in turn, against fits that are held out one by one."""

from __future__ import annotations

import itertools
import threading

import attrs
import numpy as np
import pytest
import torch

from gentle_core.closed_form import fit as fit_module
from gentle_core.closed_form.crossfit import DISTRACTORS, fit_forms_crossed, folds_of, together
from gentle_core.closed_form.fit import fit_forms
from gentle_core.closed_form.forms import Fitted
from gentle_core.closed_form.linear import cca
from gentle_core.closed_form.moments import Moments
from gentle_core.closed_form.select import POWERS, RIDGES
from gentle_core.errors import DataError
from gentle_core.evaluate.retrieval import mean_recall, ranks_both

from .test_forms import features


def captioned():
    """Two items of y a sample, in an order of their own."""
    data = features(pairs=23)
    order = np.random.default_rng(1).permutation(46)
    items, labels = torch.cat([data.items_y, data.items_y + 0.1])[torch.from_numpy(order)], np.tile(np.arange(23), 2)
    return attrs.evolve(data, items_y=items, labels_y=labels[order])


@pytest.mark.parametrize("data", [features(pairs=23), captioned()], ids=["single", "captions"])
def test_every_pair_is_held_out_once_and_known_to_the_other_folds(data):
    folds = folds_of(data)
    assert len(folds) == 5
    held = []
    for fold in folds:
        assert len(fold.labels_x) + sum(isinstance(s, int) for s in fold.samples_x_val) == len(data.labels_x)
        assert sorted(set(fold.labels_x.tolist())) == list(range(len(set(fold.labels_x.tolist()))))
        held += sorted({s for s in fold.samples_x_val if isinstance(s, int)})
        for side in "xy":
            items, labels = getattr(data, f"items_{side}"), getattr(data, f"labels_{side}")
            val, samples = getattr(fold, f"{side}_val"), getattr(fold, f"samples_{side}_val")
            train = {tuple(row) for row in getattr(fold, f"items_{side}").tolist()}
            pool = {tuple(row) for row in getattr(data, f"pool_{side}").tolist()}
            seen = {tuple(row) for row in getattr(fold, f"pool_{side}").tolist()}
            assert len(samples) == len(val) and len(pool) <= DISTRACTORS and len(seen) == len(pool) - len(pool) // 4
            for row, sample in zip(val.tolist(), samples, strict=True):
                assert tuple(row) not in train
                if isinstance(sample, int):
                    assert tuple(row) in {tuple(r) for r in items[torch.from_numpy(labels == sample)].tolist()}
                else:
                    assert tuple(row) in pool - seen  # else a form with pools knows which candidates are none
        # Pairs stay pairs under their new numbers.
        x, y = data.x.tolist(), data.y.tolist()
        assert all(
            (a, b) in list(zip(x, y, strict=True)) for a, b in zip(fold.x.tolist(), fold.y.tolist(), strict=True)
        )
    assert sorted(held) == list(range(23))


def test_a_form_is_that_of_all_pairs_with_what_is_best_over_the_folds():
    """CCA: each setting by fits that are held out one by one."""
    data = features(pairs=40, noise=1.0)
    folds, best = folds_of(data), {}
    for ridge, power in itertools.product(RIDGES, POWERS):
        parts = []
        for fold in folds:
            fitted = cca(Moments.of(fold.x, fold.y), ridge).weighted(power)
            rows = fitted.embed_x(fold.x_val), fitted.embed_y(fold.y_val)
            parts.append(ranks_both(*rows, fold.samples_x_val, fold.samples_y_val, ("x", "y")))
        best[ridge, power] = mean_recall({name: together([part[name] for part in parts]) for name in parts[0]})
    (form,) = fit_forms_crossed(data, ["cca"], hubness=False)
    said = form.settings
    assert isinstance(form, Fitted) and form.recall == pytest.approx(best[said["ridge"], said["power"]])
    # Not all powers are tried with all ridges: no setting with the power that is tried with all of them does better.
    assert form.recall >= max(best[ridge, 1.0] for ridge in RIDGES) > min(best.values())
    expected = cca(Moments.of(data.x, data.y), said["ridge"]).weighted(said["power"])
    np.testing.assert_allclose(form.map.embed_x(data.x_val), expected.embed_x(data.x_val), atol=1e-12)


def test_all_forms_come_out_and_are_worth_those_of_validation_data():
    data = features(pairs=40, noise=1.0)
    blind = attrs.evolve(data, x_val=data.x_val[:0], y_val=data.y_val[:0], samples_x_val=(), samples_y_val=())
    names = ("ridge", "cca", "procrustes", "propagation", "ot-em", "ensemble")
    forms, with_val = fit_forms_crossed(blind, names), fit_forms(data, names)
    single = {form.label for form in with_val if form.hubness is None and form.name != "ensemble"}
    assert single <= {form.label for form in forms}

    def tested(form):
        rows = form.embed(data.x_val, "x"), form.embed(data.y_val, "y")
        return mean_recall(ranks_both(*rows, range(40), range(40)))

    chosen = max(forms, key=lambda form: form.recall)
    assert tested(chosen) > 0.8 * max(map(tested, with_val))
    for form in forms:
        assert sorted(form.ranks["x->y"].samples) == list(range(40)), form.label
    again = fit_forms_crossed(blind, names)
    assert [(f.label, f.recall, dict(f.settings)) for f in again] == [
        (f.label, f.recall, dict(f.settings)) for f in forms
    ]


def test_few_pairs_and_no_pools_are_enough():
    data = features(pairs=3)
    alone = attrs.evolve(data, pool_x=data.pool_x[:0], pool_y=data.pool_y[:0])
    assert fit_forms_crossed(alone, ("cca", "propagation", "ensemble"))
    with pytest.raises(DataError, match="2 training pairs"):
        folds_of(features(pairs=2))


def test_what_goes_wrong_in_a_fold_is_raised_and_nobody_waits_for_ever(monkeypatch):
    with pytest.raises(DataError, match="no closed form is called ot-me"):
        fit_forms_crossed(features(), ["ot-me"])
    whole = fit_module.choose_hubness

    def broken(*args, **options):
        if threading.current_thread().name == "fold 3":
            raise DataError("fold 3 is broken")
        return whole(*args, **options)

    monkeypatch.setattr(fit_module, "choose_hubness", broken)
    with pytest.raises(DataError, match="fold 3 is broken"):
        fit_forms_crossed(features(), ["cca"])
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("fold")]


def test_trained_heads_cannot_be_judged_by_pairs_that_they_know():
    with pytest.raises(DataError, match="trained heads have seen all pairs"):
        fit_forms_crossed(attrs.evolve(features(), joint=(2, 2)), ["cca"])
