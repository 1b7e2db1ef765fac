from __future__ import annotations

import pytest
import torch

from gentle_core.losses.distances import median, median_bandwidth


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("shape", [(7,), (8,), (5, 6), (4, 1)])
def test_the_median_is_that_of_torch_bit_by_bit(shape, dtype):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert torch.equal(median(x), x.median(dim=-1).values)
    if x.ndim == 2:
        assert torch.equal(median(x.T), x.T.median(dim=-1).values)


def test_the_median_of_what_holds_no_number_is_none():
    x = torch.tensor([[1.0, float("nan"), 0.0], [1.0, float("inf"), 0.0]])
    assert median(x).isnan().tolist() == [True, False]
    assert median(x)[1] == 1.0


def test_the_bandwidth_is_the_median_of_all_distances():
    u, v = (torch.randn(n, 5, generator=torch.Generator().manual_seed(n), dtype=torch.float64) for n in (9, 6))
    pooled = torch.cat([u, v])
    plain = sorted(float((x - y).norm()) for i, x in enumerate(pooled) for y in pooled[i + 1 :])
    assert median_bandwidth(u, v).item() == pytest.approx(plain[(len(plain) - 1) // 2], rel=1e-12)
