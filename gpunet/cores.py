"""How many cores there are, how many threads shall use them, and which of the ranks here this one is."""

import os
import re

RANKS_HERE = ("MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE", "SLURM_STEP_TASKS_PER_NODE")
"""The environment variables in which launchers tell how many ranks of a run are on this machine: MPICH,
Open MPI, Slurm."""


LOCAL_RANK = ("MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID")
"""The environment variables in which the same launchers tell the number of a rank among those on its machine."""


def local_rank() -> int:
    """The number of this rank among those of its run on this machine, from 0; 0 where nothing has launched it."""
    given = next((os.environ[name] for name in LOCAL_RANK if name in os.environ), "")
    return int(given) if given.isdecimal() else 0


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def own_cores() -> int:
    """The number of cores that are this process's share, where several ranks of a run are here."""
    given = next((os.environ[name] for name in RANKS_HERE if name in os.environ), "")
    ranks = re.match("[1-9][0-9]*", given)
    if ranks is None or _has_cores_of_its_own():
        return cores()
    return max(1, cores() // int(ranks[0]))


def _has_cores_of_its_own() -> bool:
    """Whether the launcher, which is this process's parent, has bound it to some of the cores."""
    try:
        return os.sched_getaffinity(0) != os.sched_getaffinity(os.getppid())
    except (AttributeError, OSError):
        return False


def wanted_threads(operation: str) -> int:
    """What the environment variable ``GPUNET_NUM_THREADS`` says, or else the number of own cores.

    Raises:
        ValueError: it is no integer; the message begins with `operation`.
    """
    given = os.environ.get("GPUNET_NUM_THREADS")
    try:
        return own_cores() if given is None else int(given)
    except ValueError:
        raise ValueError(f"{operation}: GPUNET_NUM_THREADS is {given!r} but takes an integer") from None
