"""The fast form computes what the description says: value and gradient, in float64."""

from __future__ import annotations

import itertools

import pytest
import torch
from scatter_cdconv import ScatterCDConv, displacements, frames, prepare, random_chain

from gentle_core.api import BuildContext
from gentle_protein.cdconv import geometry
from gentle_protein.cdconv.config import CDConvConfig
from gentle_protein.cdconv.encoder import build
from gentle_protein.cdconv.geometry import Chains
from gentle_protein.chain import Structure

CHAINS = [
    random_chain(3, 0),
    random_chain(33, 1),
    random_chain(40, 2, breaks=(0, 11, 12, 30)),
    random_chain(4, 3, breaks=(1,)),
    random_chain(5, 4),
    random_chain(61, 5),
    random_chain(8, 6),
]
TINY = {"channels": (8, 12, 16, 16), "radii": (8, 12, 16, 20), "kernel_channels": 5, "base_width": 48, "dropout": 0.0}


def structures(chains=CHAINS):
    return [Structure(f"chain{k}", c) for k, c in enumerate(chains)]


def make(**options):
    encoder = build(CDConvConfig(**{**TINY, **options}), BuildContext(cache_dir=None)).double()
    with torch.no_grad():  # off the initialisation, where offsets and biases are zero
        for k, parameter in enumerate(encoder.parameters()):
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(k))
    return encoder


def assert_close(a, b, tolerance=1e-10):
    assert (a - b).abs().max() <= tolerance * max(1.0, b.abs().max().item())


@pytest.mark.parametrize(
    ("neighborhood", "frame", "norm", "blocks", "taps"),
    [
        *itertools.product(("ball", "window"), ("local", "global"), ("batch", "layer"), (1,), (11,)),
        ("ball", "local", "batch", 2, 5),
        ("ball", "global", "layer", 2, 21),
    ],
)
def test_value_and_gradient_equal_the_scatter_form(neighborhood, frame, norm, blocks, taps):
    encoder = make(neighborhood=neighborhood, frame=frame, norm=norm, blocks=blocks, kernel_size=taps)
    reference = ScatterCDConv(encoder)
    weights = torch.randn(len(CHAINS), encoder.width, dtype=torch.float64)
    expected = reference(prepare(CHAINS, frame))
    wanted = torch.autograd.grad((expected * weights).sum(), list(encoder.parameters()))

    out = encoder(encoder.collate(structures()))
    gradients = torch.autograd.grad((out * weights).sum(), list(encoder.parameters()))

    assert_close(out, expected)
    for (name, _), got, want in zip(encoder.named_parameters(), gradients, wanted, strict=True):
        assert_close(got, want)
        assert want.abs().max() > 0, f"no gradient reaches {name}"


def test_evaluation_equals_the_scatter_form():
    encoder = make(norm="batch")
    encoder(encoder.collate(structures()))  # moves the running statistics
    encoder.eval()
    reference = ScatterCDConv(encoder).eval()
    assert_close(encoder(encoder.collate(structures())), reference(prepare(CHAINS, "local")))


def test_ball_and_window_are_different_models():
    encoder = make()
    window = make(neighborhood="window")
    window.load_state_dict(encoder.state_dict())
    items = structures([random_chain(61, 5)])
    assert (encoder(encoder.collate(items)) - window(window.collate(items))).abs().max() > 1e-3


def test_first_stage_gradient_reaches_the_input():
    """Gradients with respect to what enters a convolution agree too, not only those of parameters."""
    encoder = make(channels=(8,), radii=(8,))
    reference = ScatterCDConv(encoder)
    batch = prepare(CHAINS, "local")
    inputs = encoder.collate(structures())
    assert_close(inputs["geometry"]["displacement"], batch["displacement"])

    batch["displacement"].requires_grad_()
    inputs["geometry"]["displacement"].requires_grad_()
    reference(batch).square().sum().backward()
    encoder(inputs).square().sum().backward()
    assert_close(inputs["geometry"]["displacement"].grad, batch["displacement"].grad)


@pytest.mark.parametrize("breaks", [(), (0,), (5,), (5, 6), (5, 7), (1, 3, 5, 7, 9, 11), tuple(range(11))])
def test_frames_and_displacements_at_breaks(breaks):
    chain = random_chain(13, 7, breaks)
    chains = Chains([13, 3])
    positions = torch.from_numpy(chain).double()
    both = torch.cat([positions, torch.tensor(random_chain(3, 8)).double()]).T.contiguous()
    got = geometry.local_frames(both, chains)[:, :, :13].permute(2, 0, 1)
    assert_close(got, torch.from_numpy(frames(chain)))
    bonded = geometry.bonds(both, chains.ranks(both.device)[0])
    for name, own in (("local", geometry.local_frames(both, chains)), ("global", None)):
        values = geometry.displacements(both, bonded, own)[:13]
        assert_close(values, torch.from_numpy(displacements(chain, name)))
        assert values.view(13, 2, 3).norm(dim=2).max() < 3.81  # no vector reaches across a gap


def test_straight_chain_has_no_frames_and_no_nan():
    line = torch.arange(9.0)[:, None] * torch.tensor([0.0, 3.8, 0.0]) + 1.0
    encoder = make()
    out = encoder(encoder.collate([Structure("line", line.numpy())]))
    assert torch.isfinite(out).all()
    assert geometry.local_frames(line.T.contiguous(), Chains([9])).abs().max() == 0
