"""Which rank a process is, by what launchers say."""

from __future__ import annotations

import pytest

from gentle_core.engine.place import Place, find_place, first_host
from gentle_core.errors import GentleError

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "host", "MASTER_PORT": "29500"}


def test_alone_without_a_launcher_or_with_one_rank():
    assert find_place({}) is None
    assert find_place(TORCHRUN | {"RANK": "0", "WORLD_SIZE": "1"}) is None
    assert find_place({"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}) is None
    # a step of one task in a job that was given four
    assert find_place({"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "1"}) is None


def test_torchrun_and_its_like():
    assert find_place(TORCHRUN) == Place(3, 4, 1, "host", 29500)
    assert find_place(TORCHRUN | {"TORCHELASTIC_USE_AGENT_STORE": "True"}).hosted
    # srun torchrun: the innermost launcher counts
    assert find_place(TORCHRUN | {"SLURM_PROCID": "0", "SLURM_NTASKS": "2"}).rank == 3


def test_slurm():
    env = {"SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1", "SLURM_NODELIST": "gpu[003-006]",
           "SLURM_JOB_ID": "41234"}  # fmt: skip
    assert find_place(env) == Place(5, 8, 1, "gpu003", 21234)
    given = env | {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "1234"}
    assert find_place(given) == Place(5, 8, 1, "10.0.0.1", 1234)


@pytest.mark.parametrize(
    "nodes, host",
    [("a1", "a1"), ("a1,b2", "a1"), ("n[07,09-12]", "n07"), ("n[1-3]-ib,m4", "n1-ib"), ("x[001-002],y3", "x001")],
)
def test_the_first_machine_of_a_node_list(nodes, host):
    assert first_host(nodes) == host


@pytest.mark.parametrize(
    "env, message",
    [
        ({"RANK": "0"}, "WORLD_SIZE is not set"),
        ({"WORLD_SIZE": "2"}, "RANK is not set"),
        ({k: v for k, v in TORCHRUN.items() if k != "MASTER_PORT"}, "MASTER_PORT"),
        (TORCHRUN | {"RANK": "4"}, "rank 4 of 4"),
        (TORCHRUN | {"RANK": "one"}, "RANK must be a whole number, not 'one'"),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, "which machine has rank 0"),
    ],
)
def test_what_is_incomplete_says_so(env, message):
    with pytest.raises(GentleError, match=message):
        find_place(env)
