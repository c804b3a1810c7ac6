"""What a call of `gpunet.arrays.conv2d` on NumPy's arrays takes more than the backend's own primitive.

    python tests/arrays/overhead.py

Both are called in turn, thousands of times, and the medians are compared: a mean would count what else
the machine does. The promise is 10 microseconds.
"""

from statistics import median
from time import perf_counter_ns

import numpy as np

import gpunet as gp
from gpunet.backends.contract import Conv
from gpunet.geometry import Geometry

CALLS, WARM = 6000, 500
CASES = (
    ((1, 8, 8, 1), (3, 3, 1, 2), {}),
    ((1, 8, 8, 1), (3, 3, 1, 2), {"stride": (1, 2), "padding": ((1, 1), (0, 2)), "dilation": (1, 1)}),
    ((4, 16, 16, 8), (3, 3, 8, 8), {"padding": "same"}),
)


def measured(x_shape, w_shape, options):
    """(microseconds of the primitive, of conv2d, of conv2d with an out), medians."""
    backend, rng = gp.get_backend("numpy"), np.random.default_rng(0)
    x, w, b = (rng.normal(size=shape).astype(np.float32) for shape in (x_shape, w_shape, w_shape[3:]))
    conv = Conv(Geometry.conv(x_shape, w_shape, **options))
    out = np.empty(conv.y_shape, np.float32)
    calls = (
        lambda: backend.conv2d_forward(x, w, b, conv),
        lambda: gp.arrays.conv2d(x, w, b, **options),
        lambda: gp.arrays.conv2d(x, w, b, out=out, **options),
    )
    times = [[], [], []]
    for _ in range(CALLS):
        for call, taken in zip(calls, times, strict=True):
            start = perf_counter_ns()
            call()
            taken.append(perf_counter_ns() - start)
    return [median(taken[WARM:]) / 1e3 for taken in times]


def main():
    for case in CASES:
        primitive, plain, with_out = measured(*case)
        print(
            *case,
            f"primitive {primitive:.1f} us; conv2d + {plain - primitive:.1f}, with out + {with_out - primitive:.1f}",
        )


if __name__ == "__main__":
    main()
