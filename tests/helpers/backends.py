"""Which backends the suite tests, and which of a GPU's warnings it lets pass: the one place for both.

A test names no backend where any of them would do. It takes the fixture `backend` to run on each of `BACKENDS`, and `cuda_name` or
`cuda_backend` to run on each of `CUDA`.
"""

import os

import pytest

from gpunet.backends import get_backend, why_unavailable
from gpunet.backends.cuda import CudaBackend
from gpunet.errors import BackendError

VARIABLE = "GPUNET_TEST_BACKENDS"
"""The environment variable that adds devices to the suite: ``cuda``, or ``cuda,cuda:1``."""
ASKED = tuple(dict.fromkeys(os.environ.get(VARIABLE, "").replace(",", " ").split()))
"""The names that it holds."""
HOST = ("reference", "numpy")
CUDA = tuple(dict.fromkeys(("emulated", *ASKED)))
"""The backends that launch kernels: the emulated device, and what was asked for."""
GPUS = tuple(name for name in CUDA if name != "emulated")
BACKENDS = (*HOST, *CUDA)

GPU_WARNINGS = {
    "default::UserWarning:cupy._environment": (
        "while CuPy is imported, it tells of the environment: several CuPy packages, an optional library such as cuTENSOR that does "
        "not load, no CUDA_PATH on Windows. The tests themselves show whether that matters."
    ),
    "default:Using synchronous transfer as pinned memory": (
        "the host has no page-locked memory left, so that a copy to the device is slower but the same"
    ),
    "default:Multiple CUDA environment variables are set but differ": (
        "of cuda-pathfinder, where CUDA_PATH and CUDA_HOME name two toolkits, as on clusters; the wheels' libraries come first"
    ),
}
"""Warnings that only a machine with a GPU raises and that say nothing against gpunet, in the syntax of Python's option -W, and why.
They are shown and fail nothing; every other warning is an error."""


def why_wrong(name: str) -> str:
    """Why a name that `GPUNET_TEST_BACKENDS` holds cannot be tested; empty if it can."""
    try:
        backend = get_backend(name)
    except (ValueError, BackendError) as error:
        return str(error)
    return "" if isinstance(backend, CudaBackend) else "it is tested anyway; the variable adds CUDA backends"


def check_asked() -> None:
    """Stop the session if a backend that was asked for cannot be tested: a skip would look like success."""
    for name in ASKED:
        if why := why_wrong(name):
            raise pytest.UsageError(f"{VARIABLE} names {name!r}, which cannot be tested: {why}")


def skip_unavailable(name: str) -> str:
    """The name of a backend; skips, with the reason, where it cannot run."""
    if why := why_unavailable(name):
        pytest.skip(why)
    return name
