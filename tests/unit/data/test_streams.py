from __future__ import annotations

import torch

from gentle_core.data.streams import seed_torch, torch_seed


def test_seeding_one_device_is_seeding_all_of_them():
    torch.manual_seed(torch_seed(3, "dropout", "a", 7))
    expected, start = torch.rand(5), torch.initial_seed()
    torch.manual_seed(0)
    seed_torch(torch.device("cpu"), 3, "dropout", "a", 7)
    assert torch.equal(torch.rand(5), expected) and torch.initial_seed() == start
