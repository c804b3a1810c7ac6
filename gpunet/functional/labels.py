"""Integer labels as vectors of 0 and 1, made on the backend that holds the labels."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpunet.autograd import Tensor
from gpunet.backends import get_backend
from gpunet.backends.contract import COUNTS, Backend, real_array

__all__ = ["one_hot"]


def one_hot(labels: Any, num_classes: int, *, backend: str | Backend = "numpy", dtype: Any = np.float32) -> Tensor:
    """1 at each label's class, 0 elsewhere: (…) -> (…, K), without a gradient.

    Args:
        labels: integers from 0 to K - 1. Host arrays and lists are checked. An int32 array on a
            device is not read: there a label that is no class makes its row NaN, so that a loss of
            it is not finite.
        num_classes: K.
        backend, dtype: those of the result.
    """
    target = get_backend(backend)
    counted = isinstance(labels, Tensor) and labels.dtype.name in COUNTS
    given = real_array("one_hot: labels", labels.data if counted else labels)
    on_host = isinstance(given, np.ndarray)
    if np.dtype(given.dtype).kind not in "iub":
        raise TypeError(f"one_hot: labels are {given.dtype} but take integers")
    if on_host and given.size and not 0 <= given.min() <= given.max() < num_classes:
        raise ValueError(f"one_hot: labels must be from 0 to {num_classes - 1}, got {given.min()} to {given.max()}")
    rows = target.asarray(given.reshape(-1), np.int32)
    ones = target.full((given.size,), 1, dtype)
    made = target.max_backward(ones, rows, shape=(given.size, num_classes), axes=(1,))  # 1 at the label
    if not on_host:  # a row without a 1 becomes 0 / 0
        made = target.binary("divide", made, target.sum(made, (1,)).reshape(-1, 1))
    return Tensor(made.reshape(*given.shape, num_classes), target)
