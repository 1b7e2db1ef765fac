from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from gentle_core import builtin
from gentle_core.batch import AlignBatch, BuildContext, LossContext, LossOut, ParamGroups, Rows
from gentle_core.builtin import GentleConfig, OnlyRowsConfig, SumConfig, hints, needs
from gentle_core.errors import ComponentError, RecipeError
from gentle_core.losses import clip_loss, mk_mmd, sdd, ssl_loss
from gentle_core.losses.compose import build_gentle, build_only_rows, build_sum
from gentle_core.modules import LossModule
from gentle_core.schedule import Schedule, always_zero, as_weight, weight_at
from gentle_core.specs import LossSpec

SPECS = {f"core/{spec.name}": spec for spec in builtin.gentle_losses()}


class Raw(LossModule):
    """A foreign loss: no named terms, a scorer, an `own` parameter, a true objective."""

    def __init__(self):
        super().__init__()
        self.queue = torch.nn.Parameter(torch.ones(2))
        self.steps = 0

    def forward(self, batch, ctx):
        z = next(iter(batch.towers.values())).z
        return LossOut(z.sum() * self.queue[0], objective=z.sum() * 2)

    def param_groups(self):
        return ParamGroups(own=[self.queue])

    def post_step(self, ctx):
        self.steps += 1

    def scorer(self):
        return max


def make(name, options):
    import importlib

    if name == "other/raw":
        return Raw()
    module, factory = SPECS[name].target.split(":")
    return getattr(importlib.import_module(module), factory)(SPECS[name].config(**options), context)


context = BuildContext(cache_dir=None, loss=make)


def rows_of(unit, sizes, views=True):
    towers = {}
    for i, (name, size) in enumerate(sizes.items()):
        ids = torch.arange(size)
        ids[3:] += 100 * (i + 1)  # three matched rows, the others on their own
        towers[name] = Rows(unit(size, 4, i), ids, views=unit(size, 4, i + 10) if views else None)
    return AlignBatch(towers)


@pytest.mark.parametrize("names", ["ab", "abc"])
def test_gentle_is_the_sum_of_its_four_terms(unit, names):
    batch = rows_of(unit, {name: 6 + i for i, name in enumerate(names)})
    loss = build_gentle(GentleConfig(alpha=2, mu=0.3, delta=0.5, eta=7, mmd={"beta": "fixed"}), context)
    out = loss(batch, LossContext())
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    z = {name: rows.z for name, rows in batch.towers.items()}
    clip = sum(clip_loss(z[a][:3], z[b][:3], 1 / 0.07).item() for a, b in pairs) / len(pairs)
    ssl = {name: ssl_loss(rows.z, rows.views).item() for name, rows in batch.towers.items()}
    mmd = sum(mk_mmd(z[a], z[b]).item() for a, b in pairs) / len(pairs)
    density = sum(sdd(z[a], z[b]).item() for a, b in pairs) / len(pairs)
    assert out.loss.item() == pytest.approx(2 * (clip + 0.3 * sum(ssl.values())) + 0.5 * mmd + 7 * density, rel=1e-6)
    expected = {"clip": clip, "mmd": mmd, "sdd": density, **{f"ssl/{name}": value for name, value in ssl.items()}}
    assert {name: term.item() for name, term in out.terms.items()} == pytest.approx(expected, rel=1e-6)
    assert out.weights == pytest.approx({"clip": 2, "mmd": 0.5, "sdd": 7, **{f"ssl/{name}": 0.6 for name in names}})
    total = sum(out.weights[name] * term for name, term in out.terms.items())
    assert out.loss.item() == pytest.approx(total.item(), rel=1e-12)
    assert out.counts["clip"] == 3 * len(pairs)
    assert ("sdd/a-b" in out.logs) == (len(names) == 3)
    assert {"logit_scale", "tau", "bandwidth", "beta/gaussian", "sigma/a", "sdd_floor"} <= set(out.logs)


def test_named_pairs_only(unit):
    batch = rows_of(unit, {"a": 6, "b": 7, "c": 8})
    loss = build_gentle(GentleConfig(mu=0, eta=0), context)
    out = loss(batch, LossContext(pairs=(("a", "c"),)))
    alone = AlignBatch({name: batch.towers[name] for name in "ac"})
    assert out.loss.item() == pytest.approx(loss(alone, LossContext()).loss.item(), rel=1e-12)


def test_weights_of_zero_are_not_computed(unit):
    batch = rows_of(unit, {"a": 6, "b": 7}, views=False)
    loss = build_gentle(GentleConfig(mu=0, delta={"start": 0, "end": 0}, eta=0), context)
    assert set(loss(batch, LossContext()).terms) == {"clip"}
    assert loss.param_groups().max == []
    nothing = build_gentle(GentleConfig(alpha=0, delta=0, eta=0), context)
    assert nothing(batch, LossContext()).loss.item() == 0


def test_schedules_follow_the_step(unit):
    batch = rows_of(unit, {"a": 6, "b": 7})
    config = GentleConfig(alpha=2, mu={"start": 0, "end": 1, "steps": 10}, eta={"start": 1, "end": 3, "steps": 0.5})
    loss = build_gentle(config, context)
    out = loss(batch, LossContext(step=5, steps=20))
    assert out.weights["ssl/a"] == pytest.approx(1.0)
    assert out.weights["sdd"] == pytest.approx(2.0)
    assert loss(batch, LossContext(step=19, steps=20)).weights["sdd"] == 3.0


def test_schedule_shapes():
    assert Schedule(start=1, end=0, steps=4, shape="cosine").at(2, 100) == pytest.approx(0.5)
    assert Schedule(start=1, end=0, steps=4, shape="cosine").at(1, 100) > 0.8
    step = Schedule(end=2, steps=0.5, shape="step")
    assert [step.at(i, 10) for i in (0, 4, 5, 9)] == [0, 0, 2, 2]
    assert weight_at(3.0, 1, 2) == 3.0
    assert as_weight({"end": 2}) == Schedule(end=2)
    assert not always_zero(Schedule(end=1)) and always_zero(0.0)
    for wrong in (True, "1", None):
        with pytest.raises(TypeError):
            as_weight(wrong)
    with pytest.raises(ValueError, match="finite"):
        as_weight(float("nan"))


def test_parameters_scorer_and_post_step_travel_through(unit):
    loss = build_gentle(GentleConfig(sdd={"use": "other/raw"}), context)
    groups = loss.param_groups()
    assert [len(groups.min), len(groups.max), len(groups.own)] == [1, 1, 1]
    assert loss.scorer() is max
    loss.post_step(LossContext())
    assert loss.parts[-1].steps == 1
    out = loss(rows_of(unit, {"a": 6, "b": 7}), LossContext())
    assert "raw" in out.terms
    assert out.objective.item() != pytest.approx(out.loss.item())


def test_gradients_of_every_parameter_and_row(unit):
    batch = rows_of(unit, {"a": 6, "b": 7})
    for rows in batch.towers.values():
        rows.z.requires_grad_()
        rows.views.requires_grad_()
    loss = build_gentle(GentleConfig(), context)
    loss(batch, LossContext()).loss.backward()
    leaves = [x for rows in batch.towers.values() for x in (rows.z, rows.views)] + list(loss.parameters())
    assert all(x.grad is not None and x.grad.isfinite().all() and x.grad.norm() > 0 for x in leaves)


def test_sum_of_losses(unit):
    batch = rows_of(unit, {"a": 6, "b": 7})
    terms = [
        {"use": "core/sdd", "weight": 2},
        {"use": "core/sdd", "weight": {"start": 0, "end": 4, "steps": 8}, "bandwidth": 0.5},
        {"use": "core/mmd", "weight": 0},
    ]
    loss = build_sum(SumConfig(terms=terms), context)
    out = loss(batch, LossContext(step=4, steps=9))
    u, v = (rows.z for rows in batch.towers.values())
    assert out.loss.item() == pytest.approx(2 * sdd(u, v).item() + 2 * sdd(u, v, 0.5).item())
    assert out.weights == {"sdd": 2, "sdd.1": 2.0}
    assert set(out.counts) == {"sdd", "sdd.1"}


def test_a_composition_inside_a_composition(unit):
    inner = {"use": "core/gentle", "mu": 0, "weight": 3.0}
    loss = build_sum(SumConfig(terms=[inner]), context)
    out = loss(rows_of(unit, {"a": 6, "b": 7}), LossContext())
    assert out.weights["mmd"] == pytest.approx(0.9)
    assert sum(out.weights[k] * t for k, t in out.terms.items()).item() == pytest.approx(out.loss.item(), rel=1e-6)


def test_needs_follow_from_the_options():
    lookup = SPECS.__getitem__
    gentle = SPECS["core/gentle"]
    assert needs(gentle, GentleConfig(), lookup) == {"views", "unpaired"}
    assert needs(gentle, GentleConfig(mu=0), lookup) == {"unpaired"}
    assert needs(gentle, GentleConfig(alpha=0, delta=0, eta=1), lookup) == {"unpaired"}
    assert needs(gentle, GentleConfig(mu=0, delta=0, eta=0), lookup) == set()
    assert needs(gentle, GentleConfig(mu=0, delta=0, eta=0, clip={"negatives": "all"}), lookup) == {"unpaired"}
    assert needs(gentle, GentleConfig(alpha={"start": 0, "end": 1}), lookup) == {"views", "unpaired"}
    foreign = LossSpec(name="raw", target="a:b", summary="", needs={"labels"})
    both = {**SPECS, "other/raw": foreign}.__getitem__
    assert needs(gentle, GentleConfig(mmd={"use": "other/raw"}), both) == {"views", "unpaired", "labels"}
    assert needs(SPECS["core/sum"], SumConfig(terms=[{"use": "core/clip"}, {"use": "core/ssl"}]), lookup) == {
        "pairs",
        "unpaired",
        "views",
    }
    assert needs(foreign, None, lookup) == {"labels"}


@pytest.mark.parametrize("options", [{}, {"mu": 0}, {"mu": 0, "delta": 0, "eta": 0}, {"clip": {"negatives": "all"}}])
def test_a_built_loss_needs_what_its_options_do(options):
    expected = needs(SPECS["core/gentle"], GentleConfig(**options), SPECS.__getitem__)
    assert make("core/gentle", options).needs == expected


def test_half_precision_embeddings_share_one_plan(unit):
    batch = rows_of(unit, {"a": 6, "b": 7})
    loss = build_gentle(GentleConfig(), context)
    expected = loss(batch, LossContext()).loss.item()
    for rows in batch.towers.values():
        rows.z, rows.views = rows.z.bfloat16().requires_grad_(), rows.views.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = loss(batch, LossContext())
    out.loss.backward()
    assert out.loss.dtype == torch.float32
    assert out.loss.item() == pytest.approx(expected, rel=0.02)
    assert all(rows.z.grad.dtype == torch.bfloat16 for rows in batch.towers.values())


def test_hints():
    def said(config, **known):
        return " ".join(hints(SPECS["core/gentle"], config, SPECS.__getitem__, **known))

    assert said(GentleConfig(), paired_rows=64, rows=192) == ""
    assert "delta = 0 and no pairs" in said(GentleConfig(delta=0), paired_rows=0)
    assert "delta = 0" not in said(GentleConfig(delta=0), paired_rows=8)
    assert "mu = 0" in said(GentleConfig(mu=0))
    assert "mu = 0" not in said(GentleConfig(mu=0, eta=0))
    assert "only 64 rows" in said(GentleConfig(), rows=64)
    assert "only 64 rows" not in said(GentleConfig(eta=0), rows=64)
    assert "no pairs: the contrastive loss" in said(GentleConfig(), paired_rows=0)


def test_wrong_tables():
    with pytest.raises(ValueError, match=r"terms\[0\]"):
        SumConfig(terms=[{"weight": 1.0}]).children()
    with pytest.raises(ComponentError, match="BuildContext"):
        build_gentle(GentleConfig(), BuildContext(cache_dir=None))


def test_options_are_read_without_torch():
    code = "import sys, gentle_core.builtin, gentle_core.losses; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(("keep", "sizes"), [({"a": "unmatched", "b": "matched"}, (4, 3)), ({"b": "all"}, (7, 6))])
def test_only_rows_shows_a_loss_a_part_of_the_batch(unit, keep, sizes):
    batch = rows_of(unit, {"a": 7, "b": 6})
    batch.towers["a"].z.requires_grad_()
    loss = build_only_rows(OnlyRowsConfig(keep=keep, loss={"use": "core/sdd"}), context)
    out = loss(batch, LossContext())
    a, b = batch.towers["a"].z, batch.towers["b"].z
    parts = {"matched": slice(0, 3), "unmatched": slice(3, None), "all": slice(None)}
    expected = sdd(a[parts[keep.get("a", "all")]], b[parts[keep.get("b", "all")]])
    assert out.terms["sdd"].item() == pytest.approx(expected.item(), rel=1e-9)
    assert out.counts["sdd"] == sum(sizes)
    out.loss.backward()
    seen = a.grad.abs().sum(1) > 0
    assert seen.tolist() == [keep.get("a", "all") == "all"] * 3 + [True] * 4


def test_only_rows_names_a_tower_that_is_not_there(unit):
    loss = build_only_rows(OnlyRowsConfig(keep={"image": "matched"}, loss={"use": "core/sdd"}), context)
    with pytest.raises(RecipeError, match="no tower image; there are a, b"):
        loss(rows_of(unit, {"a": 5, "b": 5}), LossContext())
    with pytest.raises(ValueError, match="choose 'matched', 'unmatched' or 'all'"):
        OnlyRowsConfig(keep={"a": "paired"}, loss={"use": "core/sdd"})


def test_only_rows_needs_what_its_loss_needs():
    config = OnlyRowsConfig(keep={"a": "unmatched"}, loss={"use": "core/clip"})
    assert needs(SPECS["core/only-rows"], config, SPECS.__getitem__) == {"pairs", "unpaired"}
