"""Which backends the suite tests, and which of a GPU's warnings it lets pass: the one place for both.

A test names no backend where any of them would do. It takes the fixture `backend` to run on each of `BACKENDS`, and `cuda_name`
or `cuda_backend` to run on each of `CUDA`.
"""

import os

import pytest

from gpunet.backends import get_backend, why_unavailable
from gpunet.backends.cuda.backend import CudaBackend
from gpunet.errors import BackendError

VARIABLE = "GPUNET_TEST_BACKENDS"
"""The environment variable that adds devices to the suite: ``cuda``, or ``cuda,cuda:1``."""


def names_in(text: str) -> tuple[str, ...]:
    """Names that commas or spaces separate, each once."""
    return tuple(dict.fromkeys(text.replace(",", " ").split()))


ASKED = names_in(os.environ.get(VARIABLE, ""))
HOST = ("reference", "numpy")
CUDA = names_in(" ".join(("emulated", *ASKED)))
"""The backends that launch kernels: the emulated device, and what was asked for."""
GPUS = tuple(name for name in CUDA if name != "emulated")
BACKENDS = (*HOST, *CUDA)

GPU_WARNINGS = {
    "default::UserWarning:cupy._environment": (
        "CuPy's import tells of its environment: several CuPy packages, an optional library such as cuTENSOR that does not "
        "load, no CUDA_PATH on Windows. The tests themselves show whether that matters."
    ),
    "default:Using synchronous transfer as pinned memory": (
        "the host has no page-locked memory left for CuPy: a copy to the device is slower, and the same"
    ),
    "default:Multiple CUDA environment variables are set but differ": (
        "cuda-pathfinder found CUDA_PATH and CUDA_HOME of two toolkits, as on clusters; libraries of wheels come first"
    ),
}
"""Warnings that say nothing against gpunet and that only a machine for GPUs raises, as Python's option -W takes them, and why
they may be raised. They are shown and fail nothing; every other warning is an error."""


def why_untestable(name: str) -> str:
    """Why a name does not belong into `GPUNET_TEST_BACKENDS` on this machine; empty if it does."""
    try:
        backend = get_backend(name)
    except (ValueError, BackendError) as error:
        return str(error)
    return "" if isinstance(backend, CudaBackend) else "it is no CUDA backend, and is tested anyway"


def check_asked() -> None:
    """Stop the session if a backend that was asked for cannot be tested: skipped tests would look like a success."""
    for name in ASKED:
        if why := why_untestable(name):
            raise pytest.UsageError(f"{VARIABLE} names {name!r}, which cannot be tested: {why}")


def skip_unavailable(name: str) -> str:
    """The name of a backend that runs here; skips the test, with the reason, if it does not."""
    if why := why_unavailable(name):
        pytest.skip(why)
    return name
