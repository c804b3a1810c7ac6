"""What a program asks of its ranks, and the answers where there is one rank alone."""

from __future__ import annotations

import socket
import sys
import zlib
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NoReturn, Protocol, TypeVar

import numpy as np

SWITCH = "GPUNET_RANKS"
"""The environment variable that, with "0", lets a process train alone, whatever has launched it."""
T = TypeVar("T")


class Ranks(Hashable, Protocol):
    """The processes of one run.

    All but `note`, `waiting`, `watch`, `leave` and `abort` are collective: each rank must make the same calls
    in the same order, and waits for the others in each.
    """

    rank: int
    """The number of this process, from 0."""
    size: int
    """How many there are."""

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, which alone prints and writes files."""

    def gather(self, what: str, value: T) -> list[T]:
        """The values of all ranks, in their order.

        Args:
            what: a name for what is gathered, the same on all ranks.
            value: what pickle takes.
        Raises:
            RuntimeError: a rank gathers something else, since it has made other calls before.
        """

    def total(self, what: str, numbers: Sequence[float] | np.ndarray) -> np.ndarray:
        """The sums over all ranks of a few numbers, float64; it takes log2(size) messages, and `gather` takes size.

        Args:
            what: a name for them, the same on all ranks.
            numbers: as many on all ranks.
        Raises:
            RuntimeError: as for `gather`.
        """

    def from_first(self, value: T) -> T:
        """Rank 0's value."""

    def copy_from_first(self, array: np.ndarray) -> None:
        """Write rank 0's array into the arrays of the others, which are C-contiguous and alike."""

    def add(self, array: np.ndarray) -> None:
        """Add up the arrays of all ranks, in place: every rank has the sum, with the same bits.

        Args:
            array: C-contiguous, of one shape and of one dtype of numbers on all ranks.
        """

    def begin_add(self, array: np.ndarray) -> Callable[[], None]:
        """Begin to `add`, and go on -> what waits until the array holds the sum.

        Nothing may touch the array meanwhile. Several may be under way, begun in the same order on
        all ranks.
        """

    def note(self, place: str) -> None:
        """Remember where this rank is, for the message if it is lost there; not collective."""

    def waiting(self) -> AbstractContextManager[None]:
        """A context in which this rank may wait for the others by other means than these; not collective."""

    def watch(self, check: Callable[[], str]) -> None:
        """Have a thread call `check` each second from now on; not collective.

        Args:
            check: says what has gone wrong on this rank, which ends all ranks; nothing if it says "".
        """

    def leave(self) -> None:
        """Say that this process ends now, so that nobody takes its end for a death; not collective."""

    def abort(self, reason: str, status: int = 1) -> NoReturn:
        """End all ranks at once, wherever they are.

        Where all ranks call it, as for an error that all of them meet, rank 0 does it.

        Args:
            reason: printed on stderr.
            status: the exit status.
        """


def expect_alike(ranks: Ranks, what: str, value: Any, why: str) -> None:
    """Raise RuntimeError, on all ranks, unless the value is the same on all of them.

    Args:
        what: names the value.
        why: what the user should look for.
    """
    found = ranks.gather(what, (value, socket.gethostname()))
    for rank, (theirs, host) in enumerate(found):
        if theirs != found[0][0]:
            raise RuntimeError(f"{what}: {theirs} on rank {rank} ({host}), but {found[0][0]} on rank 0: {why}")


def checksum(*arrays: np.ndarray) -> int:
    """The CRC-32 of arrays on the host, with their dtypes and shapes: what ranks compare in place of them."""
    found = 0
    for array in arrays:
        found = zlib.crc32(f"{array.dtype} {array.shape}".encode(), found)
        if not array.dtype.hasobject:  # whose elements lie anywhere
            found = zlib.crc32(np.ascontiguousarray(array).view(np.uint8).data, found)
    return found


def excerpt(array: np.ndarray) -> np.ndarray:
    """At most 127 numbers of each row of an array, which lie apart."""
    if array.ndim < 2 or not array.size:
        return array
    rows = array.reshape(len(array), -1)
    return rows[:, :: max(1, rows.shape[1] // 64)]


class Alone:
    """The one rank of a program that nothing has launched as several."""

    rank, size, leads = 0, 1, True

    def __reduce__(self) -> tuple[type[Alone], tuple[()]]:
        return Alone, ()

    def gather(self, what: str, value: T) -> list[T]:
        """See `Ranks`."""
        return [value]

    def total(self, what: str, numbers: Sequence[float] | np.ndarray) -> np.ndarray:
        """See `Ranks`."""
        return np.array(numbers, np.float64)

    def from_first(self, value: T) -> T:
        """See `Ranks`."""
        return value

    def copy_from_first(self, array: np.ndarray) -> None:
        """See `Ranks`."""

    def add(self, array: np.ndarray) -> None:
        """See `Ranks`."""

    def begin_add(self, array: np.ndarray) -> Callable[[], None]:
        """See `Ranks`."""
        return lambda: None

    def note(self, place: str) -> None:
        """See `Ranks`."""

    def waiting(self) -> AbstractContextManager[None]:
        """See `Ranks`."""
        return nullcontext()

    def watch(self, check: Callable[[], str]) -> None:
        """See `Ranks`."""

    def leave(self) -> None:
        """See `Ranks`."""

    def abort(self, reason: str, status: int = 1) -> NoReturn:
        """See `Ranks`."""
        print(reason, file=sys.stderr)
        raise SystemExit(status)
