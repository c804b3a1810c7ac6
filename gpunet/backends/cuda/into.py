"""Where the kernels of weight gradients write."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpunet.backends.contract import Array, Into
from gpunet.backends.cuda.device import CudaDevice


def place_gradients(
    device: CudaDevice, operation: str, into: Into, w_shape: Sequence[int], b_shape: Sequence[int]
) -> tuple[Array, Array | None, bool]:
    """(dw, db or None, add): the arrays that a kernel writes or, if `add`, adds to.

    A kernel adds to both or to neither. Where only one of them was given, a new array of zeros
    stands for the other.

    Raises:
        ValueError, TypeError: an array of another shape, dtype or device.
    """
    device._expect(operation, weight=(into.weight, w_shape), bias=(into.bias, b_shape))
    add = into.add and (into.weight is not None or (into.needs_bias and into.bias is not None))

    def place(given: Array | None, shape: Sequence[int]) -> Array:
        if given is not None:
            return given
        return device.full(shape, 0.0, np.float32) if add else device.arrays.empty(shape, np.float32)

    return place(into.weight, w_shape), place(into.bias, b_shape) if into.needs_bias else None, add
