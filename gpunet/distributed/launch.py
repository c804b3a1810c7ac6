"""Finds the ranks of this run: those that ``mpirun`` or ``srun`` has launched, or one alone."""

from __future__ import annotations

import os
import sys
from functools import cache
from typing import NamedTuple

from gpunet.distributed.ranks import SWITCH, Alone, Ranks
from gpunet.errors import BackendError


class Launched(NamedTuple):
    """What its launcher tells a process, before it joins the others.

    Attributes:
        command: that of the launcher, "" where none has launched several processes.
        size: how many it has launched.
        rank: the number of this process among them.
    """

    command: str = ""
    size: int = 1
    rank: int = 0


LAUNCHERS = {
    "PMI_SIZE": ("PMI_RANK", "mpirun"),
    "OMPI_COMM_WORLD_SIZE": ("OMPI_COMM_WORLD_RANK", "mpirun"),
    "SLURM_STEP_NUM_TASKS": ("SLURM_PROCID", "srun"),
}
"""The environment variables in which launchers tell the number of ranks (MPICH and those that descend
from it, Open MPI, Slurm): for each, the one with the rank, and the command."""


def launched() -> Launched:
    """What the launcher has told this process, also where `GPUNET_RANKS` says that it trains alone."""
    found = [
        Launched(command, size, _number(rank))
        for name, (rank, command) in LAUNCHERS.items()
        if (size := _number(name)) > 1
    ]
    if not found:
        return Launched()
    # An mpirun inside of srun launches other numbers of ranks. With the same number, srun has spoken MPICH's language.
    command = next(each.command for each in reversed(found) if each.size == found[0].size)
    return found[0]._replace(command=command)


def follows() -> bool:
    """Whether this process was launched as one of several ranks, and is not rank 0; nobody is waited for."""
    return launched().rank > 0 and os.environ.get(SWITCH) != "0"


@cache
def world() -> Ranks:
    """All ranks of this run; the first call joins them, and waits until all have made it.

    Returns:
        `Alone` where no launcher has started several processes. MPI is not even imported then.
    Raises:
        ImportError: mpi4py is missing.
        BackendError: a launcher has started several processes, and they do not find each other.
    """
    command, count, _ = launched()
    if count == 1 or os.environ.get(SWITCH) == "0":
        return Alone()
    from gpunet.distributed.mpi import mpi_world

    try:
        ranks = mpi_world()
    except ImportError as error:
        raise ImportError(
            f"{command} has launched {count} ranks, which take mpi4py: pip install 'gpunet[distributed]' ({error})"
        ) from error
    except RuntimeError as error:  # of mpi4py, where it finds no library
        raise BackendError(f"{command} has launched {count} ranks, but MPI does not start: {error}") from error
    if ranks.size != count:
        raise BackendError(
            f"{command} has launched {count} ranks, but MPI finds {ranks.size}: the launcher is not that of the MPI "
            "library that mpi4py uses; run its own mpirun, or try srun --mpi=pmi2"
        )
    return ranks


def end_world(reason: str, status: int) -> int:
    """End a program that an error ends: with all ranks, if they have been joined.

    Args:
        reason: printed on stderr.
    Returns:
        The exit status, where this process is the only one.
    """
    if world.cache_info().currsize and world().size > 1:
        world().abort(reason, status)
    print(reason, file=sys.stderr)
    return status


def _number(name: str) -> int:
    given = os.environ.get(name, "")
    return int(given) if given.isdigit() else 0
