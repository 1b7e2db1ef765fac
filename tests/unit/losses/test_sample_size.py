from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from gentle_core.cli.sample_size import sample_size
from gentle_core.errors import DataError
from gentle_core.losses import sdd
from gentle_core.losses.sample_size import SamplePoint, density_gap, enough, sample_size_curve

DOUBLE = torch.float64


def test_gap_equals_the_loop(unit, reference):
    t, r = unit(5, 3, 1).tolist(), unit(5, 3, 2).tolist()

    def density(x, rows):  # Eq. 11 is Eq. 5 with b = 1, without the 2
        return 2 * reference.density(x, rows, 1.0)

    expected = sum((density(x, t) - density(x, r)) ** 2 for x in t) / 5
    expected += sum((density(x, r) - density(x, t)) ** 2 for x in r) / 5
    assert density_gap(torch.tensor(t, dtype=DOUBLE), torch.tensor(r, dtype=DOUBLE)).item() == pytest.approx(expected)


def test_gap_of_a_set_with_itself_is_zero_and_batches_go_together(unit):
    t, r = torch.stack([unit(4, 3, k) for k in range(3)]), torch.stack([unit(4, 3, k + 9) for k in range(3)])
    assert density_gap(t, t).abs().max() < 1e-25
    together = density_gap(t, r)
    assert together.tolist() == pytest.approx([density_gap(a, b).item() for a, b in zip(t, r, strict=True)])


def test_two_rows_by_hand():
    """Two points at distance a: σ = a²/2, so κ at either is (1 + e⁻²)/(2π); the others are far away and see nothing."""
    t = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    r = t + 1e4
    assert density_gap(t, r).item() == pytest.approx(2 * ((1 + math.exp(-2)) / (2 * math.pi)) ** 2, rel=1e-9)


def test_curve_falls_and_floor_is_that_of_sdd(unit):
    z = unit(600, 16)
    curve = sample_size_curve(z, rows=1024)
    assert [point.size for point in curve] == [2, 4, 8, 16, 32, 64, 128, 256]
    assert curve[0].percent == 100
    assert all(a.percent > b.percent for a, b in itertools.pairwise(curve))
    of_256 = curve[-1]
    orders = [torch.randperm(600, generator=torch.Generator().manual_seed(seed)) for seed in range(8)]
    values = [sdd(z[order[:256]], z[order[256:512]]).item() for order in orders]
    assert of_256.floor == pytest.approx(sum(values) / 8, rel=0.2)
    assert sample_size_curve(z, [64], rows=1024)[0].size == 64


def test_draws_depend_on_the_seed_alone(unit):
    z = unit(100, 4)
    once, again, other = (sample_size_curve(z, rows=64, seed=seed) for seed in (1, 1, 2))
    assert once == again != other


def test_enough():
    points = [SamplePoint(2**k, 0.0, percent, 0.0, 1) for k, percent in enumerate((100, 0.9, 1.2, 0.8, 0.5), start=1)]
    assert enough(points) == 16
    assert enough(points, 0.1) is None
    assert enough(points, 100) == 2


def test_bad_calls(unit):
    with pytest.raises(ValueError, match="need four"):
        sample_size_curve(unit(3, 4))
    with pytest.raises(ValueError, match="variance"):
        sample_size_curve(unit(9, 4), [1, 2])


def test_command(tmp_path, unit):
    (tmp_path / "run" / "embeddings").mkdir(parents=True)
    arrays = {"a.z": unit(300, 8).numpy(), "b.z": unit(40, 8, 1).float().numpy(), "a.items": np.array(["x"])}
    np.savez(tmp_path / "run" / "embeddings" / "val.npz", **arrays)
    result = CliRunner().invoke(sample_size, [str(tmp_path / "run"), "--percent", "5"], catch_exceptions=False)
    assert "a: 300 rows of 8 numbers" in result.output and "b: 40 rows" in result.output
    assert "From " in result.output
    plot = tmp_path / "curve.svg"
    result = CliRunner().invoke(sample_size, [str(tmp_path / "run"), "--plot", str(plot)], catch_exceptions=False)
    assert str(plot) in result.output and "<svg" in plot.read_text()
    np.save(tmp_path / "rows.npy", arrays["a.z"])
    result = CliRunner().invoke(sample_size, [str(tmp_path / "rows.npy"), "--percent", "1e-9"])
    assert "No size up to 128" in result.output


@pytest.mark.parametrize(
    ("name", "message"), [("none.npy", "no such file"), ("text.npz", "cannot be read"), ("empty.npz", "no embeddings"),
                          ("flat.npy", "no table"), ("words.npy", "no table"), ("holes.npy", "2 of 9 rows")]
)  # fmt: skip
def test_command_errors(tmp_path, name, message):
    (tmp_path / "text.npz").write_text("hello")
    np.savez(tmp_path / "empty.npz", x=np.zeros(3))
    np.save(tmp_path / "flat.npy", np.zeros(9))
    np.save(tmp_path / "words.npy", np.full((9, 2), "x"))
    np.save(tmp_path / "holes.npy", np.where(np.arange(18).reshape(9, 2) < 3, np.nan, 1.0))
    with pytest.raises(DataError, match=message):
        CliRunner().invoke(sample_size, [str(tmp_path / name)], catch_exceptions=False)


@pytest.mark.parametrize(("name", "message"), [("curve.txt", "must end in"), ("nowhere/curve.svg", "no directory")])
def test_a_plot_that_cannot_be_is_said_before_any_work(tmp_path, name, message):
    result = CliRunner().invoke(sample_size, [str(tmp_path / "none.npy"), "--plot", str(tmp_path / name)])
    assert result.exit_code == 2 and message in result.output
