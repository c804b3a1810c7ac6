"""Zeros where a mask says so, though the values there may be NaN."""

from __future__ import annotations

import numpy as np

from gpunet.backends.contract import Array
from gpunet.backends.host import memory

_INTEGERS = {size: np.dtype(f"i{size}") for size in (2, 4, 8)}


def keep_where(values: Array, kept: Array, out: Array | None = None) -> Array:
    """`values` where the booleans `kept` are true, else 0.

    The bits of the floats are multiplied as integers, since 0 times NaN is NaN.

    Args:
        out: where to write the result, of the shape to which both broadcast; a new array of the
            values' shape if None.
    """
    bits = _INTEGERS[values.dtype.itemsize]
    if out is None:
        return np.multiply(values.view(bits), kept, out=memory.empty(values.shape, bits)).view(values.dtype)
    np.multiply(values.view(bits), kept, out=out.view(bits))
    return out
