"""Ranks that MPI joins."""

from __future__ import annotations

import os
import socket
import sys
import traceback
from collections.abc import Callable
from functools import cache
from time import sleep
from types import TracebackType
from typing import NoReturn, TypeVar

import numpy as np
from mpi4py import MPI

GRACE = 2.0
"""Seconds that rank 0 has to report an error that all ranks meet, before the others report it."""
T = TypeVar("T")


class MpiRanks:
    """The processes of MPI's world.

    An error that nothing catches ends all ranks: the others would wait for this one for ever.

    Attributes:
        rank, size: see `Ranks`.
    """

    def __init__(self) -> None:
        # a communicator of gpunet's own, so that no message of the program is taken for one of these
        self._world = MPI.COMM_WORLD.Dup()
        self.rank, self.size = self._world.Get_rank(), self._world.Get_size()
        sys.excepthook = self._end_by_error

    def __reduce__(self) -> tuple[Callable[[], MpiRanks], tuple[()]]:
        return mpi_world, ()  # a copy is the same world

    @property
    def leads(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def gather(self, value: T) -> list[T]:
        """See `Ranks`."""
        found: list[T] = self._world.allgather(value)
        return found

    def from_first(self, value: T) -> T:
        """See `Ranks`."""
        found: T = self._world.bcast(value)
        return found

    def copy_from_first(self, array: np.ndarray) -> None:
        """See `Ranks`."""
        self._world.Bcast(array)

    def add(self, array: np.ndarray) -> None:
        """See `Ranks`; MPI adds in an order that the size of the message and of the world decide."""
        self._world.Allreduce(MPI.IN_PLACE, array)

    def abort(self, reason: str, status: int = 1) -> NoReturn:
        """See `Ranks`."""
        if not self.leads:
            sleep(GRACE)
        sys.stdout.flush()
        print(f"gpunet: {self._who()}: {reason}", file=sys.stderr, flush=True)
        self._world.Abort(status)
        os._exit(status)  # where MPI returns from it

    def _who(self) -> str:
        return f"rank {self.rank} of {self.size} on {socket.gethostname()}"

    def _end_by_error(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        self.abort("".join(traceback.format_exception(kind, error, trace)).rstrip())


@cache
def mpi_world() -> MpiRanks:
    """The ranks of MPI's world, which this process joins at the first call."""
    return MpiRanks()
