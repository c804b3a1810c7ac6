"""Sums over the ranks of arrays that lie anywhere: on the host, or on devices that NCCL joins or does not."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import cache
from typing import Any, Protocol

import numpy as np

from gpunet.distributed.nccl import NcclRanks, why_unavailable
from gpunet.distributed.ranks import Ranks
from gpunet.errors import warn


class ArraysOfRank(Hashable, Protocol):
    """What is asked here of a `Backend`, whose module stands above this one."""

    cuda_device: int | None

    def to_numpy(self, array: Any) -> np.ndarray:
        """See `ArrayPrimitives`."""

    def asarray(self, data: Any, dtype: Any = None) -> Any:
        """See `ArrayPrimitives`."""

    def copy(self, a: Any, *, out: Any = None) -> Any:
        """See `ArrayPrimitives`."""


@cache
def on_devices(ranks: Ranks, backend: ArraysOfRank) -> NcclRanks | None:
    """The same ranks, for arrays of a CUDA backend; None where arrays must go by way of the host's memory.

    All ranks must ask. Rank 0 warns, once, where GPUs go by way of the host, and says why.
    """
    why = None if ranks.size == 1 else why_unavailable(ranks, device := backend.cuda_device)
    if why is None:
        return None
    if why or device is None:
        if ranks.leads:
            warn(f"sums go by way of the host's memory, not from GPU to GPU, since {why}", RuntimeWarning)
        return None
    return NcclRanks(ranks, device)


def add(ranks: Ranks, backend: ArraysOfRank, array: Any) -> None:
    """Add up an array of the backend over the ranks, in place: on the devices if NCCL joins them."""
    if isinstance(array, np.ndarray):
        ranks.add(array)
    else:
        begin_add(ranks, backend, array)()


def begin_add(ranks: Ranks, backend: ArraysOfRank, array: Any) -> Callable[[], None]:
    """Begin to `add`, and go on -> what waits, on the device if it is added up there."""
    if isinstance(array, np.ndarray):
        return ranks.begin_add(array)
    if (devices := on_devices(ranks, backend)) is not None:
        return devices.begin_add(array)
    if ranks.size > 1:
        host = backend.to_numpy(array)
        ranks.add(host)
        backend.copy(backend.asarray(host), out=array)
    return lambda: None
