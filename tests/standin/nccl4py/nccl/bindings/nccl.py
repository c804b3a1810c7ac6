"""The errors of NCCL itself, as nccl4py 0.6.0's compiled module of this name has them."""

from enum import IntEnum


class Result(IntEnum):
    Success = 0
    UnhandledCudaError = 1
    SystemError = 2
    InternalError = 3
    InvalidArgument = 4
    InvalidUsage = 5
    RemoteError = 6
    InProgress = 7
    Timeout = 8


TEXTS = {
    Result.UnhandledCudaError: "unhandled cuda error (run with NCCL_DEBUG=INFO for details)",
    Result.SystemError: "unhandled system error (run with NCCL_DEBUG=INFO for details)",
    Result.InternalError: "internal error - please report this issue to the NCCL developers",
    Result.InvalidArgument: "invalid argument (run with NCCL_DEBUG=WARN for details)",
    Result.InvalidUsage: "invalid usage (run with NCCL_DEBUG=WARN for details)",
}
"""What NCCL's src/init.cc: ncclGetErrorString returns."""


class NCCLError(Exception):
    def __init__(self, status):
        self.status = status
        super().__init__(f"{Result(status).name}: {TEXTS[status]}")
