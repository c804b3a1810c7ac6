"""The kinds of arrays that `gpunet.arrays` takes: NumPy's, and CuPy's on each GPU that the suite tests."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from helpers.backends import GPUS, skip_unavailable

from gpunet.backends import get_backend


@dataclass(frozen=True)
class Kind:
    """How arrays of a kind are made and read."""

    backend: Any
    dtype: np.dtype
    """The widest float dtype."""

    def made(self, array, strides="kept"):
        """The array with the same strides, or C-contiguous."""
        if isinstance(array, np.ndarray) and self.backend.name == "numpy":
            return array if strides == "kept" else np.array(array, order="C")
        order = (
            sorted(range(array.ndim), key=lambda i: -abs(array.strides[i])) if strides == "kept" else range(array.ndim)
        )
        placed = self.backend.asarray(np.array(array.transpose(tuple(order)), order="C"))
        return placed.transpose(tuple(np.argsort(tuple(order)).tolist())) if array.ndim else placed

    def host(self, array):
        return self.backend.to_numpy(array)


@pytest.fixture(params=("numpy", *GPUS))
def kind(request):
    backend = get_backend(skip_unavailable(request.param))
    return Kind(backend, np.dtype("float64" if request.param == "numpy" else "float32"))
