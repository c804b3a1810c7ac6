"""Reads files in several threads: decoders release the interpreter's lock."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

from gpunet.cores import wanted_threads

S = TypeVar("S")
T = TypeVar("T")
MOST = 8
"""Threads at most: more would wait for the disk or for the interpreter."""


def in_threads(read: Callable[[S], T], items: Sequence[S]) -> Iterator[T]:
    """read(item) of each, in their order; the first error ends what has not begun."""
    threads = min(MOST, wanted_threads("in_threads"))
    if min(threads, len(items)) < 2:
        return map(read, items)
    return _pool(os.getpid(), threads).map(read, items)


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """The threads of this process; a forked child has none of its parent's."""
    return ThreadPoolExecutor(threads, thread_name_prefix="gpunet-read")
