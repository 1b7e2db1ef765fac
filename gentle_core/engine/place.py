"""Which rank of how many a process is: what torchrun, deepspeed, Slurm and `gentle launch` put in the environment."""

from __future__ import annotations

import re
from collections.abc import Mapping

import attrs

from gentle_core.errors import GentleError

SLURM_PORTS = (20000, 20000)
"""First port and number of ports from which a Slurm job takes one by its id, where MASTER_PORT is not set."""


@attrs.frozen
class Place:
    """A process among those of a run.

    Attributes:
        rank, size: number of this process, of how many.
        local_rank: number of this process on its machine.
        address, port: where rank 0 listens.
        hosted: whether the launcher listens there already.
    """

    rank: int
    size: int
    local_rank: int
    address: str
    port: int
    hosted: bool = False


def find_place(environment: Mapping[str, str]) -> Place | None:
    """This process's place, or None where it runs alone.

    RANK and WORLD_SIZE (torchrun, deepspeed, gentle launch) count before Slurm's SLURM_PROCID and SLURM_NTASKS.

    Raises:
        GentleError: the variables are incomplete or contradict each other.
    """
    env = environment
    if "RANK" in env or "WORLD_SIZE" in env:
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        if _number(env, "WORLD_SIZE") == 1:
            return None
        rank, size, local = (_number(env, name) for name in names)
        address, port = env.get("MASTER_ADDR", ""), env.get("MASTER_PORT", "")
        if not address or not port:
            raise GentleError("RANK and WORLD_SIZE are set, MASTER_ADDR or MASTER_PORT is not: start with a launcher")
        hosted = env.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        return _sound(Place(rank, size, local, address, _number(env, "MASTER_PORT"), hosted))
    if "SLURM_PROCID" in env:
        size = _number(env, "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in env else "SLURM_NTASKS", "1")
        if size == 1:
            return None
        address = env.get("MASTER_ADDR") or first_host(env.get("SLURM_STEP_NODELIST") or env.get("SLURM_NODELIST", ""))
        base, count = SLURM_PORTS
        port = str(base + _number(env, "SLURM_JOB_ID", "0") % count)
        rank, local = _number(env, "SLURM_PROCID"), _number(env, "SLURM_LOCALID", "0")
        return _sound(Place(rank, size, local, address, _number(env, "MASTER_PORT", port)))
    return None


def first_host(nodes: str) -> str:
    """The first machine of a Slurm node list: "gpu[003-006,9],login1" gives "gpu003"."""
    match = re.match(r"([^,\[\]]+)(?:\[([^\],-]+)[^\]]*\])?([^,\[\]]*)", nodes.strip())
    if not match:
        raise GentleError("SLURM_PROCID is set, SLURM_NODELIST and MASTER_ADDR are not: which machine has rank 0?")
    return "".join(part or "" for part in match.groups())


def _number(env: Mapping[str, str], name: str, default: str | None = None) -> int:
    value = env.get(name, default)
    if value is None:
        raise GentleError(f"this looks like one of several processes, but {name} is not set: start with a launcher")
    try:
        return int(value)
    except ValueError:
        raise GentleError(f"{name} must be a whole number, not {value!r}") from None


def _sound(place: Place) -> Place:
    if not (0 <= place.rank < place.size and place.local_rank >= 0 and 0 < place.port < 65536):
        raise GentleError(f"rank {place.rank} of {place.size} at port {place.port} is no place for a process")
    return place
