"""Ranks whose arrays are on CUDA devices, one device for each rank, joined by NCCL.

NCCL is called through NVIDIA's nccl4py, whose release 0.6.0 the docstrings below cite by file and
function. It takes CuPy's arrays as they are: address, count and dtype, bfloat16 among them
(``nccl/core/interop/cupy.py: resolve_array``, ``nccl/core/typing.py: NcclDataType``). NCCL itself is
cited from its ``src/init.cc``. Not run on a GPU yet: the tests know both by a stand-in.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from gpunet.distributed.ranks import Ranks
from gpunet.errors import BackendError

INSTALL = "pip install 'gpunet[nccl13]' (or 'gpunet[nccl12]' for a driver older than CUDA 13)"


class NcclRanks:
    """Adds up and copies arrays over the ranks, on their devices.

    Every call is collective: all ranks make the same ones, with arrays of the same sizes and dtypes,
    in one order. NCCL does not check that; ranks that differ wait for each other for ever. All of
    them run on one stream of this object's own, behind what CuPy's current stream has to do; the
    host waits for none, so that they can be captured in a graph, with the order between the two
    streams. The first one imports PyTorch where that is installed (``buffer.py: NcclBuffer``).

    The communicator lives as long as the process. Neither ``Communicator.destroy`` nor ``abort`` is
    called at the end, for both wait until no captured graph uses it any more (``commDestroySync``:
    "keep polling until all graphs referencing us die"), and a Trainer keeps its graphs as long as
    it lives. What ends all ranks early, such as an error, ends their processes.

    Args:
        ranks: which share the identifier of the new communicator.
        device: the number of this rank's device.
    Raises:
        ImportError: nccl4py is missing; `why_unavailable` tells that to all ranks alike.
        BackendError: NCCL does not join the ranks.
    """

    def __init__(self, ranks: Ranks, device: int) -> None:
        try:
            import nccl.core
        except ImportError as error:
            raise ImportError(f"several GPUs take nccl4py: {INSTALL} ({error})") from error
        import cupy

        self._ranks, self._nccl, self._cupy = ranks, nccl.core, cupy
        self._device = cupy.cuda.Device(device)
        with self._calling("join the ranks"):
            # ncclCommInitRank takes the current device (communicator.py: Communicator.initialize)
            made = bytes(nccl.core.get_unique_id()) if ranks.leads else b""
            unique = nccl.core.UniqueId.from_bytes(ranks.from_first(made))
            self._communicator = nccl.core.Communicator.init(ranks.size, ranks.rank, unique)
            self._stream = cupy.cuda.Stream(non_blocking=True)
        ranks.watch(self._failure)

    def add(self, *arrays: Any) -> None:
        """Add up each array over the ranks, in place: every rank has the sum, with the same bits.

        Args:
            arrays: C-contiguous arrays of CuPy on this rank's device. Several are sent together.
        Raises:
            ValueError: an array that is not C-contiguous.
            BackendError: NCCL refuses, for instance arrays of another device.
        """
        self.begin_add(*arrays)()

    def begin_add(self, *arrays: Any) -> Callable[[], None]:
        """Begin to `add`, and go on -> what lets the current stream wait until the arrays hold the sums.

        Nothing may touch or free the arrays meanwhile. In a capture, that wait must be a part of the
        graph.
        ``communicator.py: Communicator.reduce`` takes equal addresses as a sum in place.
        """
        return self._begin(
            "add", arrays, lambda a, stream: self._communicator.allreduce(a, a, self._nccl.SUM, stream=stream)
        )

    def copy_from_first(self, *arrays: Any) -> None:
        """Write each of rank 0's arrays into that of every other rank.

        Args:
            arrays: as for `add`.
        Raises:
            ValueError, BackendError: as for `add`.
        ``communicator.py: Communicator.broadcast`` reads the first argument on the root alone.
        """
        self._begin("copy_from_first", arrays, lambda a, stream: self._communicator.broadcast(a, a, 0, stream=stream))()

    def _failure(self) -> str:
        """What has gone wrong on the way between the GPUs, such as a link that is down; "" if nothing has.

        NCCL tells it through ``Communicator.get_async_error`` alone, and what waits for a sum would
        wait for ever.
        """
        state = self._communicator.get_async_error()
        return "" if state.name in ("Success", "InProgress") else f"NCCL reports: {state.name}"

    def _begin(self, operation: str, arrays: tuple[Any, ...], call: Callable[[Any, int], None]) -> Callable[[], None]:
        """Call NCCL for each array that has elements, in one group -> what lets the current stream wait."""
        for array in arrays:
            if not array.flags.c_contiguous:  # resolve_array looks at address and size alone
                raise ValueError(f"NCCL: {operation} takes C-contiguous arrays, got strides {array.strides}")
        cuda, own = self._cupy.cuda, self._stream
        with self._calling(operation):
            own.wait_event(cuda.get_current_stream().record(cuda.Event(disable_timing=True)))
            with self._nccl.group():
                for array in arrays:
                    if array.size:
                        call(array, int(own.ptr))
            done = own.record(cuda.Event(disable_timing=True))

        def wait() -> None:
            with self._device:
                cuda.get_current_stream().wait_event(done)

        return wait

    @contextmanager
    def _calling(self, operation: str) -> Iterator[None]:
        """A context on this rank's device, whose errors name the operation and the rank."""
        try:
            with self._ranks.waiting(), self._device:
                yield
        except Exception as error:
            who = f"rank {self._ranks.rank} of {self._ranks.size}, {self._device}"
            raise BackendError(f"NCCL: {operation} failed on {who}: {type(error).__name__}: {error}") from error


def why_unavailable(ranks: Ranks, device: int | None) -> str | None:
    """Say why NCCL cannot join the ranks, and what to do; empty where it can.

    All ranks must ask, and all get the same answer.

    Args:
        device: the number of this rank's CUDA device; None where it computes on none.
    Returns:
        None where no rank has a CUDA device, so that there is nothing to join.
    """
    found = ranks.gather("GPUs", (device, _why_missing() if device is not None else "", _place_of(device)))
    if all(device is None for device, _, _ in found):
        return None
    first: dict[str, int] = {}
    for rank, (device, missing, place) in enumerate(found):
        if device is None:
            return f"rank {rank} computes on no GPU"
        if missing:
            return f"rank {rank} cannot use NCCL: {missing}"
        if place in first:  # initTransportsRank: "Duplicate GPU detected", ncclInvalidUsage
            return f"ranks {first[place]} and {rank} share the GPU {place}, which NCCL refuses: start one rank for each GPU"
        first[place] = rank
    return ""


@cache
def _why_missing() -> str:
    try:
        import nccl.core
    except ImportError as error:
        return f"nccl4py cannot be imported ({error}): {INSTALL}"
    # utils.py: get_version gives None for a library that is not found, and raises nothing
    return "" if nccl.core.get_version().libnccl else f"the library libnccl.so.2 is not found: {INSTALL}"


def _place_of(device: int | None) -> str:
    """The device's place among those of all machines, by which NCCL tells two apart."""
    if device is None:
        return ""
    import cupy

    return f"{cupy.cuda.runtime.deviceGetPCIBusId(device)} of {socket.gethostname()}"
