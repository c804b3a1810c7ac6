"""Batch norm of a batch of which several ranks have a part each, on the CPU."""

import numpy as np
import pytest
from helpers import batch_parts, same

from gpunet.backends import get_backend
from gpunet.backends.contract import BatchNorm
from gpunet.backends.numpy.backend import NumpyBackend
from gpunet.backends.numpy.norm import NumpyNorm

KINDS = [
    *(("reference", dtype) for dtype in ("float64", "float32", "bfloat16", "float16")),
    *((name, dtype) for name in ("loops", "NumPy") for dtype in ("float64", "float32")),
]
TOLERANCES = {"float64": 1e-12, "float32": 4e-6, "bfloat16": 2.0**-8, "float16": 2.0**-10}


class WithoutLoops(NumpyBackend):
    """The NumPy backend, whose batch norm takes no compiled loops."""

    batch_norm_forward = NumpyNorm.batch_norm_forward
    batch_norm_backward = NumpyNorm.batch_norm_backward


@pytest.mark.parametrize(("name", "dtype"), KINDS)
@pytest.mark.parametrize("split", batch_parts.SPLITS, ids=str)
@pytest.mark.parametrize(
    ("shape", "activation", "added"), [((5, 4, 8), "relu", False), ((3, 7), "tanh", True), ((6,), None, False)]
)
def test_parts_give_what_the_whole_gives(rng, name, dtype, split, shape, activation, added):
    backend = {"loops": get_backend("numpy"), "NumPy": WithoutLoops(), "reference": get_backend("reference")}[name]

    def agrees(what, got, expected):
        rounded = 2 * TOLERANCES[dtype]  # the reference gives all gradients in the dtype of x, on each rank
        same(got, expected, dict.fromkeys(TOLERANCES, rounded) if what in ("dw", "db") else TOLERANCES)

    batch_parts.check(backend, np.dtype(dtype), rng, (sum(split), *shape), split, activation, added, agrees)


@pytest.mark.parametrize("name", ["numpy", "reference"])
@pytest.mark.parametrize(("dtype", "mean", "tolerance"), [("float64", 1e6, 1e-9), ("float32", 1e4, 1e-6)])
def test_variances_far_from_0_keep_their_digits(rng, name, dtype, mean, tolerance):
    x = rng.normal(size=(4, 9, 3)) + mean * np.arange(1, 4)
    x[-1] += 2  # so that parts have other means
    x = x.astype(dtype)
    given = x, *(np.array([value] * 3, dtype) for value in (1, 0, 0, 1)), x, x
    found, _ = batch_parts.of_parts(get_backend(name), np.dtype(dtype), (3, 1), given, BatchNorm(True), into=False)
    np.testing.assert_allclose(found[1][2], x.astype(float).reshape(-1, 3).var(axis=0), rtol=tolerance)
