"""Finds the ranks of this run: those that ``mpirun`` or ``srun`` has launched, or one alone."""

from __future__ import annotations

import os
import sys
from functools import cache

from gpunet.distributed.ranks import SWITCH, Alone, Ranks
from gpunet.errors import BackendError

LAUNCHERS = {"PMI_SIZE": "mpirun", "OMPI_COMM_WORLD_SIZE": "mpirun", "SLURM_STEP_NUM_TASKS": "srun"}
"""The environment variables in which launchers tell the number of ranks (MPICH and those that descend
from it, Open MPI, Slurm), and the commands."""


@cache
def world() -> Ranks:
    """All ranks of this run; the first call joins them, and waits until all have made it.

    Returns:
        `Alone` where no launcher has started several processes. MPI is not even imported then.
    Raises:
        ImportError: mpi4py is missing.
        BackendError: a launcher has started several processes, and they do not find each other.
    """
    command, count = next(((LAUNCHERS[name], n) for name in LAUNCHERS if (n := _number(name)) > 1), ("", 1))
    if count == 1 or os.environ.get(SWITCH) == "0":
        return Alone()
    from gpunet.distributed.mpi import mpi_world

    try:
        ranks = mpi_world()
    except ImportError as error:
        raise ImportError(
            f"{command} has launched {count} ranks, which take mpi4py: pip install 'gpunet[distributed]' ({error})"
        ) from error
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
