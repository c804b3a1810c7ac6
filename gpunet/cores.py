"""How many cores there are, and how many threads shall use them."""

import os


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def wanted_threads(operation: str) -> int:
    """What the environment variable ``GPUNET_NUM_THREADS`` says, or else the number of cores.

    Raises:
        ValueError: it is no integer; the message begins with `operation`.
    """
    given = os.environ.get("GPUNET_NUM_THREADS")
    try:
        return cores() if given is None else int(given)
    except ValueError:
        raise ValueError(f"{operation}: GPUNET_NUM_THREADS is {given!r} but takes an integer") from None
