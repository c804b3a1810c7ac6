"""Arrays of `NumpyBackend`: sums that keep their digits, values per channel in long rows, and what the
backend says of itself."""

from functools import partial

import numpy as np

from gpunet.backends.contract import Array
from gpunet.backends.host import memory
from gpunet.backends.numpy.blas import controllers
from gpunet.backends.numpy.rows import ROW, as_rows
from gpunet.backends.numpy.sums import add_axes
from gpunet.backends.numpy.threads import NumpyThreads

LEAST_PIXELS = 1 << 9
"""Pixels from which a value per channel is worth repeating along a row."""


class NumpyArrays(NumpyThreads):
    """Sums by BLAS, and a description that names the threads."""

    def describe(self) -> dict[str, str]:
        """Also the number of threads, and the BLAS with the processor that it is built for."""
        blas = sorted(  # libraries are found in any order
            f"{i['internal_api']} {i['version']} ({i.get('architecture', 'unknown architecture')})"
            for i in (library.info() for library in controllers())
        )
        return {**super().describe(), "threads": str(self.threads), "blas": ", ".join(blas) or "unknown"}

    def sum(self, a: Array, axes: tuple[int, ...]) -> Array:
        if a.dtype.char not in "fd" or not a.flags.c_contiguous:
            return super().sum(a, axes)
        return self._alone(partial(add_axes, a, axes))

    def binary(self, name: str, a: Array, b: Array, *, out: Array | None = None) -> Array:
        if not _is_by_channel(a, b, out):
            return super().binary(name, a, b, out=out)
        y, rows = memory.empty(a.shape, a.dtype) if out is None else out, as_rows(a)
        super().binary(name, rows, np.tile(b, rows.shape[1] // len(b)), out=as_rows(y))
        return y


def _is_by_channel(a: Array, b: Array, out: Array | None) -> bool:
    """Whether b (C,) are values of the few channels of many pixels a (…, C), all as they lie in memory."""
    if b.ndim != 1 or a.ndim < 2 or a.shape[-1] != len(b) or not 1 < len(b) < ROW:
        return False
    if a.dtype != b.dtype or a.dtype.char not in "fd":
        return False
    fits = out is None or (out.shape == a.shape and out.dtype == a.dtype and out.flags.c_contiguous)
    return fits and a.flags.c_contiguous and a.size >= LEAST_PIXELS * len(b)
