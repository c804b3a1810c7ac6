"""A stand-in for nccl4py 0.6.0's `nccl.core`: what gpunet calls of it, on the stand-in for CUDA.

Each function has the signature, the checks in their order, and the errors of the file of nccl4py
that its docstring names. Data goes between the processes through the host's memory and mpi4py, when
the stream comes to the call. What NCCL would answer with a wait for ever, such as ranks that call
with different sizes, raises here. As in nccl4py, an array need not be contiguous: its address and
its size are all that is looked at.
"""

import ctypes
import os
import socket
from contextlib import contextmanager
from enum import IntEnum
from types import SimpleNamespace

import numpy as np
from mpi4py import MPI
from nccl.bindings.nccl import NCCLError, Result
from standin.install import switch

MISSING = "GPUNET_TEST_NCCL_MISSING"
"""If this environment variable is set, the library libnccl.so.2 is not found."""


class NcclInvalid(Exception):  # noqa: N818 - nccl4py's name
    """typing.py: an argument that the Python layer refuses."""

    def __init__(self, msg):
        self.msg = msg
        super().__init__(msg)


class NcclRedOp(IntEnum):
    """typing.py."""

    SUM = 0
    PROD = 1
    MAX = 2
    MIN = 3
    AVG = 4


SUM = NcclRedOp.SUM
NAMES = {"bfloat16", "float8_e4m3fn", "float8_e5m2"}
KINDS = {("f", 2), ("f", 4), ("f", 8), *((kind, size) for kind in "iu" for size in (1, 4, 8))}
"""typing.py: NcclDataType.from_numpy_dtype, the dtypes that NCCL knows by name, or by kind and bytes."""


def get_version():
    """utils.py: `libnccl` is None where the library is not found."""
    return SimpleNamespace(nccl4py="0.6.0", libnccl=None if os.environ.get(MISSING) else "2.32.3")


class UniqueId:
    """utils.py: the 128 bytes by which the ranks of one communicator find each other."""

    def __init__(self, _internal=None):
        self._internal = bytes(128) if _internal is None else _internal

    def __bytes__(self):
        return self._internal

    @staticmethod
    def from_bytes(b):
        if len(b) != 128:
            raise ValueError(f"from_buffer: 128 bytes are wanted, got {len(b)}")
        return UniqueId(bytes(b))


def get_unique_id(empty=False):
    """utils.py."""
    return UniqueId() if empty else UniqueId(os.urandom(128))


# ---- group.py


_groups = SimpleNamespace(depth=0, calls=[])


def group_start():
    _groups.depth += 1


def group_end(*, simulate=False):
    if not _groups.depth:
        raise NCCLError(Result.InvalidUsage)
    _groups.depth -= 1
    if not _groups.depth:
        calls, _groups.calls = _groups.calls, []
        for call in calls:
            call()


@contextmanager
def group():
    group_start()
    try:
        yield
    finally:
        group_end()


# ---- buffer.py


class NcclBuffer:
    """buffer.py, with interop/cupy.py: resolve_array; other arrays than CuPy's go by DLPack there."""

    def __init__(self, buffer, stream=None):
        import cupy

        if not isinstance(buffer, cupy.ndarray):
            raise TypeError(f"the stand-in takes CuPy's arrays, got {type(buffer).__name__}")
        dtype = np.dtype(buffer.dtype)
        if dtype.kind == "b":
            dtype = np.dtype(np.uint8)
        if dtype.name not in NAMES and (dtype.kind, dtype.itemsize) not in KINDS:
            raise NcclInvalid(f"Unsupported data type: numpy dtype {dtype}")
        self.ptr, self.count, self.dtype, self.device_id = buffer.data.ptr, buffer.size, dtype, buffer.device.id


# ---- communicator.py


class Communicator:
    """communicator.py: Communicator.

    Attributes:
        state: what asynchronous work has come to; a test may write another one.
    """

    state = Result.Success

    def __init__(self, ptr=None):
        self._comm, self.nranks, self.rank, self.device = None, None, None, None

    @classmethod
    def init(cls, nranks, rank, unique_id, config=None):
        comm = cls()
        comm.initialize(nranks, rank, unique_id, config)
        return comm

    def initialize(self, nranks, rank, unique_id, config=None):
        """Join the ranks; each takes its current device, and no two the same (init.cc)."""
        if self._comm:
            raise NcclInvalid("Communicator is already initialized")
        if not isinstance(unique_id, UniqueId):
            raise NcclInvalid("unique_id must be a UniqueId or a sequence of UniqueIds")
        machine = switch().machine
        if machine.device.queue.capturing():
            raise NCCLError(Result.UnhandledCudaError)  # it allocates and waits
        joined = MPI.COMM_WORLD.Dup()
        given = joined.allgather((nranks, rank, bytes(unique_id), socket.gethostname(), machine.current))
        if [place[:2] for place in given] != [(joined.size, i) for i in range(joined.size)]:
            raise NCCLError(Result.InvalidArgument)
        if len({place[2] for place in given}) > 1:
            raise AssertionError("the ranks have different unique ids, and NCCL would wait for ever")
        if len({place[3:] for place in given}) < len(given):
            raise NCCLError(Result.InvalidUsage)  # "Duplicate GPU detected"
        self._comm, self.nranks, self.rank = joined, nranks, rank
        self.device = SimpleNamespace(device_id=machine.current)

    def _check_valid(self, operation):
        if not self._comm:
            raise NcclInvalid(f"Cannot {operation}: Communicator not initialized")

    def get_async_error(self):
        self._check_valid("get async error")
        return self.state

    def _validate_buffer_device(self, buffer, buffer_name="buffer"):
        if buffer.device_id != self.device.device_id:
            raise NcclInvalid(
                f"{buffer_name} is on device {buffer.device_id}, but communicator is on device "
                f"{self.device.device_id}. Buffers must be on the same device as the communicator."
            )

    def allreduce(self, sendbuf, recvbuf, op, *, stream=None, config=None):
        self._check_valid("allreduce")
        self.reduce(sendbuf, recvbuf, op, stream=stream, config=config)

    def reduce(self, sendbuf, recvbuf, op, root=None, *, stream=None, config=None):
        """With a root of None alone, which is an all-reduce."""
        self._check_valid("reduce")
        if root is not None or op != SUM or config is not None:
            raise NotImplementedError("the stand-in adds up on all ranks, without a configuration")
        send = NcclBuffer(sendbuf)
        self._validate_buffer_device(send, "sendbuf")
        receive = NcclBuffer(recvbuf)
        self._validate_buffer_device(receive, "recvbuf")
        if send.dtype != receive.dtype:
            raise NcclInvalid(f"Dtype mismatch: sendbuf has dtype {send.dtype}, recvbuf has dtype {receive.dtype}")
        if receive.count < send.count:
            raise NcclInvalid(
                f"Buffer count mismatch: recvbuf must have at least {send.count} elements, got {receive.count}"
            )

        def run():
            parts = self._exchanged("all_reduce", send.dtype, send.count, bytes(memory(send.ptr, send)))
            total = parts[0]
            for part in parts[1:]:
                total = (total + part).astype(send.dtype)
            ctypes.memmove(receive.ptr, total.tobytes(), total.nbytes)

        self._enqueue(run, stream, send, receive)

    def broadcast(self, sendbuf, recvbuf, root, *, stream=None, config=None):
        self._check_valid("broadcast")
        send = None
        if root == self.rank:
            send = NcclBuffer(sendbuf)
            self._validate_buffer_device(send, "sendbuf")
        receive = NcclBuffer(recvbuf)
        self._validate_buffer_device(receive, "recvbuf")
        if send is not None and send.dtype != receive.dtype:
            raise NcclInvalid(f"Dtype mismatch: sendbuf has dtype {send.dtype}, recvbuf has dtype {receive.dtype}")
        if send is not None and receive.count != send.count:
            raise NcclInvalid(
                f"Buffer count mismatch: recvbuf must have exactly {send.count} elements, got {receive.count}"
            )

        def run():
            own = b"" if send is None else bytes(memory(send.ptr, send))
            part = self._exchanged(f"broadcast from {root}", receive.dtype, receive.count, own)[root]
            ctypes.memmove(receive.ptr, part.tobytes(), part.nbytes)

        self._enqueue(run, stream, receive)

    def _exchanged(self, operation, dtype, count, data):
        """The arrays of all ranks, each as long as it has data."""
        called = self._comm.allgather((operation, dtype.name, count))
        if len(set(called)) > 1:
            raise AssertionError(f"the ranks call NCCL with {called}, and would wait for ever")
        return [np.frombuffer(part, dtype) for part in self._comm.allgather(data)]

    def _enqueue(self, run, stream, *buffers):
        """Put work on a stream at the end of the group, or of this call if there is none.

        A device works while its host waits for another process. So does this one: what is not
        captured is done here and now, lest a rank waits for one that never looks at its own stream.
        """

        def submit():
            machine = switch().machine
            with machine.lock:
                machine.check()
                queue, to = machine.stream(stream or 0)
                task = queue.submit(to, run)
                if task is not None:
                    task.finish()

        for buffer in buffers:
            if not switch().machine.room(buffer.ptr):
                raise NCCLError(Result.InvalidArgument)  # NCCL_CHECK_POINTERS
        if _groups.depth:
            _groups.calls.append(submit)
        else:
            submit()


def memory(address, buffer):
    """The bytes of a buffer, from its address on, as a device would read them."""
    return (ctypes.c_char * (buffer.count * buffer.dtype.itemsize)).from_address(address)
