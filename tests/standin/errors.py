"""CUDA's errors by name, as CuPy raises them."""

from __future__ import annotations

from typing import Any

RUNTIME = {
    "InvalidValue": 1, "MemoryAllocation": 2, "InvalidDevice": 101, "InvalidResourceHandle": 400, "IllegalState": 401,
    "NotReady": 600, "IllegalAddress": 700, "LaunchFailure": 719, "StreamCaptureUnsupported": 900,
    "StreamCaptureInvalidated": 901, "StreamCaptureMerge": 902, "StreamCaptureUnmatched": 903, "StreamCaptureUnjoined": 904,
    "StreamCaptureIsolation": 905, "StreamCaptureImplicit": 906, "CapturedEvent": 907,
}  # fmt: skip
"""The numbers of cudaError…, from the CUDA runtime's driver_types.h."""
DRIVER = {"INVALID_VALUE": 1, "INVALID_IMAGE": 200, "INVALID_HANDLE": 400, "NOT_FOUND": 500}


def runtime_error(name: str) -> Exception:
    """Return CuPy's CUDARuntimeError; its text comes from the runtime in CuPy and needs no
    driver."""
    from cupy_backends.cuda.api.runtime import CUDARuntimeError

    return CUDARuntimeError(RUNTIME[name])


def driver_error(name: str, what: str) -> Exception:
    """Return CuPy's CUDADriverError, without its constructor, which asks the driver for the text.

    Args:
        name: the name of the error.
        what: the text.
    """
    from cupy_backends.cuda.api.driver import CUDADriverError

    error: Any = CUDADriverError.__new__(CUDADriverError)
    error.status = DRIVER[name]
    RuntimeError.__init__(error, f"CUDA_ERROR_{name}: {what}")
    return error
