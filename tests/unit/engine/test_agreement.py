"""What two processes agree on in one exchange."""

from __future__ import annotations

import multiprocessing

import pytest
import torch

from gentle_core.engine.backend import sum_gradients
from gentle_core.engine.place import Place
from gentle_core.engine.ranks import ALONE, Ranks

from .test_ranks import free_port


def talk(rank, port, answers):
    ranks = Ranks(Place(rank, 2, rank, "127.0.0.1", port), timeout=60)
    with ranks.together(lambda: 2 * rank) as agreed:
        pass
    found = {"number": agreed.number}
    for name, verdicts in {"both": (True, True), "one": (True, False)}.items():
        own = [torch.tensor([1.0 + rank, 2.0]), torch.tensor(float("nan") if name == "one" else 3.0 + rank)]
        found[name] = ranks.settle_(own, verdicts[rank]), [x.tolist() for x in own]
    found["nothing"] = ranks.settle_([], rank == 0), []
    # Used on both ranks, on one, on none; and of another type.
    parameters = [torch.ones(2), torch.ones(3), torch.ones(1), torch.ones(1, dtype=torch.float64)]
    parameters[0].grad = torch.full((2,), 1.0 + rank)
    parameters[3].grad = torch.tensor([0.1], dtype=torch.float64)
    if rank:
        parameters[1].grad = torch.tensor([1.0, 2.0, 0.0])
    sum_gradients(parameters, ranks)
    found["gradients"] = [None if p.grad is None else p.grad.tolist() for p in parameters]
    answers.put(found)
    ranks.close()


@pytest.mark.timeout(120)
def test_two_ranks_agree_on_a_signal_a_verdict_and_a_gradient():
    context, port = multiprocessing.get_context("spawn"), free_port()
    answers = context.Queue()
    processes = [context.Process(target=talk, args=(rank, port, answers)) for rank in range(2)]
    for process in processes:
        process.start()
    found = [answers.get(timeout=100) for _ in processes]
    for process in processes:
        process.join(20)
    assert str(found[0]) == str(found[1])  # as text, in which nan is nan
    assert found[0]["number"] == 2
    assert found[0]["both"] == (True, [[1.0, 2.0], 3.0])
    assert found[0]["one"][0] is False and found[0]["one"][1][0] == [1.0, 2.0]
    assert found[0]["nothing"] == (False, [])
    assert found[0]["gradients"] == [[3.0, 3.0], [1.0, 2.0, 0.0], None, [0.2]]


def test_a_process_alone_agrees_with_itself():
    with ALONE.together(lambda: 15) as agreed:
        pass
    assert agreed.number == 15
    assert ALONE.settle_([torch.ones(1)], True) and not ALONE.settle_([], False)
    with pytest.raises(ZeroDivisionError), ALONE.together():
        1 / 0  # noqa: B018
