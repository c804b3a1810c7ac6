"""Ranks that MPI joins."""

from __future__ import annotations

import atexit
import faulthandler
import os
import socket
import sys
import traceback
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cache
from time import monotonic, sleep
from types import TracebackType
from typing import Any, NoReturn, TypeVar

import numpy as np

from gpunet.cores import local_rank
from gpunet.distributed.peers import Place
from gpunet.distributed.ranks import SWITCH
from gpunet.distributed.watch import PATIENCE, Centre, Spoke, Watch, patience

START = "GPUNET_RANK_START"
"""The environment variable with the seconds that a rank waits for the others to start; 25 if it is not set."""
OPEN_MPI = "libmpi.so.40"
"""The library of Open MPI 4 and 5, whose launchers know only the ranks that use it."""
GRACE = 2.0
"""Seconds that rank 0 has to report an error that all ranks meet, before the others report it."""
ENDING = 5.0
"""Seconds that MPI may take to end this process, which ends itself then, with status 1."""
HEAD = 128
"""Numbers of the message with which all named calls begin."""
STDOUT, STDERR = 1, 2
"""The numbers of these files."""
T = TypeVar("T")


class MpiRanks:
    """The processes of MPI's world.

    From then on rank 0 alone prints: what other ranks print on stdout is dropped, so that a program
    that prints its results prints them once. stderr stays, but warnings are those of the first rank of
    each machine, unless Python was told which to show.

    An error that nothing catches ends all ranks: the others would wait for this one for ever. `watch`
    tells what else does.

    Attributes:
        rank, size: see `Ranks`.
    """

    def __init__(self) -> None:
        self._nowhere = os.open(os.devnull, os.O_WRONLY)  # now, since an error may be that no more files can be opened
        # by a thread that needs no Python: MPI waits for the others without letting other threads run
        faulthandler.dump_traceback_later(float(os.environ.get(START, 25)), exit=True, file=STDERR)
        try:
            self._wait_until_all_ranks_have_started()
        finally:
            faulthandler.cancel_dump_traceback_later()
        sys.excepthook = self._end_by_error
        os.environ[SWITCH] = "0"  # what this process starts is no rank
        if not self.leads:
            sys.stdout.flush()
            os.dup2(self._nowhere, STDOUT)  # for this process and what it starts
        if local_rank() and not sys.warnoptions:  # what concerns a machine, its first rank says
            warnings.simplefilter("ignore", append=True)  # behind the filters of the program

    def _wait_until_all_ranks_have_started(self) -> None:
        """Join the others; it is the name of this function that a rank shows whose wait is too long."""
        if "OMPI_COMM_WORLD_SIZE" in os.environ:  # else mpi4py would take MPICH where that is installed too
            os.environ.setdefault("MPI4PY_LIBMPI", OPEN_MPI)
        from mpi4py import MPI  # which calls MPI_Init

        self._sum, self._in_place = MPI.SUM, MPI.IN_PLACE
        self._under_way: list[Any] = []
        # a communicator of gpunet's own, so that no message of the program is taken for one of these
        self._world = MPI.COMM_WORLD.Dup()
        self.rank, self.size = self._world.Get_rank(), self._world.Get_size()
        self._place, self._watch = Place(socket.gethostname()), None
        if self.size > 1 and patience() > 0:
            self._watch = self._watched()
            atexit.register(self.leave)
        self._world.Barrier()

    def __reduce__(self) -> tuple[Callable[[], MpiRanks], tuple[()]]:
        return mpi_world, ()  # a copy is the same world

    @property
    def leads(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def gather(self, what: str, value: T) -> list[T]:
        """See `Ranks`."""
        with self._waiting(what):
            self._total(what, np.empty(0))
            found: list[T] = self._world.allgather(value)
        return found

    def total(self, what: str, numbers: Sequence[float] | np.ndarray) -> np.ndarray:
        """See `Ranks`."""
        with self._waiting(what):
            return self._total(what, np.asarray(numbers, np.float64))

    def _total(self, what: str, numbers: np.ndarray) -> np.ndarray:
        """The sums. The first message has one length whatever is added up, and says what that is."""
        name = np.array([zlib.crc32(what.encode()) & 0xFFFF, numbers.size], np.float64)
        call = np.concatenate([name, name**2])  # with the squares, no rank takes others' mean for its own
        head, rest = numbers[: HEAD - call.size], numbers[HEAD - call.size :].copy()
        message = np.concatenate([call, head, np.zeros(HEAD - call.size - head.size)])
        self._world.Allreduce(self._in_place, message, self._sum)
        if (message[: call.size] != self.size * call).any():
            self._refuse_other_calls(what, numbers.size)
        if rest.size:
            self._world.Allreduce(self._in_place, rest, self._sum)
        return np.concatenate([message[call.size : call.size + head.size], rest])

    def _refuse_other_calls(self, what: str, count: int) -> NoReturn:
        """Raise RuntimeError, since another rank has made another call."""
        found = self._world.allgather((what, count))
        rank = next(rank for rank, theirs in enumerate(found) if theirs != (what, count))
        raise RuntimeError(
            f"rank {self.rank} gathers {what} ({count} numbers) but rank {rank} gathers {found[rank][0]} "
            f"({found[rank][1]}): all ranks must train, evaluate, predict and load alike; has a hook stopped one of them alone?"
        )

    def from_first(self, value: T) -> T:
        """See `Ranks`."""
        with self._waiting("a value of rank 0"):
            found: T = self._world.bcast(value)
        return found

    def copy_from_first(self, array: np.ndarray) -> None:
        """See `Ranks`."""
        with self._waiting("arrays of rank 0"):
            self._world.Bcast(array)

    def add(self, array: np.ndarray) -> None:
        """See `Ranks`; MPI adds in an order that the size of the message and of the world decide."""
        with self._waiting("a sum"):
            self._world.Allreduce(self._in_place, array, self._sum)

    def begin_add(self, array: np.ndarray) -> Callable[[], None]:
        """See `Ranks`. MPI gets on with earlier ones only inside of its calls, such as this one."""
        self._under_way = [request for request in self._under_way if not request.Test()]
        request = self._world.Iallreduce(self._in_place, array, self._sum)
        self._under_way.append(request)

        def wait() -> None:
            with self._waiting("sums of gradients"):
                request.Wait()

        return wait

    def note(self, place: str) -> None:
        """See `Ranks`."""
        self._place.at = place

    def abort(self, reason: str, status: int = 1) -> NoReturn:
        """See `Ranks`."""
        if not self.leads:
            sleep(GRACE)
        sys.stdout.flush()
        self._abort_now(f"gpunet: {self._who()}: {reason}", status)

    def waiting(self) -> AbstractContextManager[None]:
        """See `Ranks`."""
        return self._waiting("the GPU")

    def watch(self, check: Callable[[], str]) -> None:
        """See `Ranks`; nothing is checked where nobody watches."""
        if self._watch is not None:
            self._watch.checks.append(check)

    def leave(self) -> None:
        """See `Ranks`."""
        if self._watch is not None:
            self._watch.leave()

    @contextmanager
    def _waiting(self, what: str) -> Iterator[None]:
        before = self._place.waiting
        self._place.what, self._place.waiting = what, monotonic() if before is None else before
        self._place.calls += 1
        try:
            yield
        finally:
            self._place.waiting = before

    def _watched(self) -> Watch:
        """The thread that watches."""
        if self.leads:
            centre = Centre(self._place, self._end, self.size)
            self._world.bcast(centre.address)
            return centre
        address = self._world.bcast(None)
        try:
            return Spoke(self._place, self._end, self.rank, address)
        except OSError as error:
            self.abort(f"rank 0 does not answer at port {address[1]}: {error}; {PATIENCE}=0 does without its watch")

    def _end(self, reason: str) -> NoReturn:
        """End all ranks at once, from any thread."""
        self._abort_now(f"gpunet: {reason} (reported by {self._who()})", 1)

    def _abort_now(self, reason: str, status: int) -> NoReturn:
        # where the launcher cannot be reached, MPI waits for it for ever, and so does a full pipe of stderr
        faulthandler.dump_traceback_later(ENDING, exit=True, file=self._nowhere)
        with suppress(OSError, ValueError):  # stderr may be closed
            print(reason, file=sys.stderr, flush=True)
        self.leave()  # so that nobody reports this end as a death
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
