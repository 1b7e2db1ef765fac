"""Batch normalisation in training: running statistics by steps, and weights in half precision."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from gentle_core.engine.norms import normalise_in_float32
from gentle_core.engine.progress import Display
from gentle_core.engine.ranks import ALONE
from gentle_core.engine.recompute import checkpoint_activations
from gentle_core.engine.session import Session
from gentle_core.engine.statistics import RunningStatistics
from gentle_core.losses.chunks import batch_statistics_held
from gentle_core.recipe import load_recipe

from .conftest import RECIPE


def layer(momentum=0.1):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6, momentum=momentum))


def buffers_equal(one, two, **close):
    for (name, a), b in zip(one.named_buffers(), two.buffers(), strict=True):
        torch.testing.assert_close(a, b, msg=lambda m, n=name: f"{n}: {m}", **close)


@pytest.mark.parametrize("momentum", [0.1, 1.0, None])
def test_one_pass_a_step_is_what_torch_does(momentum):
    plain, ours = layer(momentum), layer(momentum)
    statistics = RunningStatistics(ours, ALONE, 1)
    for x in torch.randn(5, 16, 4):
        plain(x)
        with statistics.followed():
            ours(x)
        statistics.update()
    buffers_equal(plain, ours, rtol=1e-6, atol=1e-6)
    assert ours[1].momentum == momentum


def test_chunks_weigh_alike_in_any_order_and_move_as_far_as_whole_groups_would():
    """Two views of two groups, each in three chunks: twelve passes that move like four."""
    x = torch.randn(12, 8, 4)
    found = []
    for order in (range(12), reversed(range(12))):
        model = layer()
        statistics = RunningStatistics(model, ALONE, 3)
        with statistics.followed():
            for i in order:
                model(x[i])
        statistics.update()
        found.append(model)
    buffers_equal(*found, rtol=1e-6, atol=1e-6)
    hidden = found[0][0](x)
    keep = (1 - 0.1) ** 4
    expected = (1 - keep) * hidden.mean(1).mean(0)
    torch.testing.assert_close(found[0][1].running_mean, expected, rtol=1e-5, atol=1e-6)
    expected = keep * torch.ones(6) + (1 - keep) * hidden.var(1).mean(0)
    torch.testing.assert_close(found[0][1].running_var, expected, rtol=1e-5, atol=1e-6)
    assert int(found[0][1].num_batches_tracked) == 12


def test_passes_that_are_repeated_or_for_company_and_layers_at_rest_do_not_count():
    one, two, rest = layer(), layer(), layer().eval()
    checkpoint_activations(two)
    x = torch.randn(2, 8, 4)
    for model in (one, two):
        statistics = RunningStatistics(nn.ModuleList([model, rest]), ALONE, 1)
        with statistics.followed():
            model(x[0]).square().sum().backward()
            with batch_statistics_held(model):
                model(x[1])
            rest(x[1])
        statistics.update()
    buffers_equal(one, two)
    alone = layer()
    alone(x[0])
    buffers_equal(one, alone, rtol=1e-6, atol=1e-6)
    buffers_equal(rest, layer())


@pytest.mark.parametrize(
    "norm", [nn.BatchNorm1d(8), nn.LayerNorm(8), nn.GroupNorm(2, 8)], ids=lambda n: type(n).__name__
)
@pytest.mark.parametrize("half_input", [True, False])
def test_weights_in_half_precision_are_lifted(norm, half_input):
    torch.manual_seed(0)
    norm = copy.deepcopy(norm)
    nn.init.uniform_(norm.weight)
    norm.to(torch.bfloat16)
    for name, buffer in norm.named_buffers():
        if buffer.is_floating_point():
            setattr(norm, name, buffer.float())
    exact = copy.deepcopy(norm).float()
    x = torch.randn(16, 8).to(torch.bfloat16)
    with pytest.raises(RuntimeError, match="type"):
        norm(x if isinstance(norm, nn.BatchNorm1d) else x.float()), norm(x.float())
    normalise_in_float32(norm)
    out = norm(x if half_input else x.float())
    torch.testing.assert_close(out.float(), exact(x.float()), rtol=1e-2, atol=1e-2)
    out.float().square().sum().backward()
    exact(x.float()).square().sum().backward()
    assert norm.weight.dtype == norm.weight.grad.dtype == torch.bfloat16
    torch.testing.assert_close(norm.weight.grad.float(), exact.weight.grad, rtol=3e-2, atol=3e-2)


@pytest.mark.parametrize(
    ("ranks", "accumulate", "norm", "said"),
    [(2, 1, True, True), (2, 3, True, True), (2, 4, True, False), (1, 1, True, False), (2, 1, False, False)],
)
def test_a_run_says_where_ranks_make_other_chunks(toy_catalog, tmp_path, ranks, accumulate, norm, said):
    sets = {"towers.a.encoder.norm": norm, "train.accumulate": accumulate}
    session = Session(load_recipe(RECIPE, sets, toy_catalog), tmp_path / "run", "never", Display(quiet=True))
    session.build()
    session.ranks = SimpleNamespace(size=ranks)
    session._note_batch_norms()
    session.run.close()
    assert any("batch normalisation in a sees chunks" in note for note in session.run.manifest["notices"]) == said
