"""Convolutions whose images are shared by threads, row by row."""

import numpy as np
import pytest

from gpunet.backends.contract import FUSED_POOL, Activation, Conv
from gpunet.backends.numpy.backend import NumpyBackend
from gpunet.backends.numpy.compiled import library as compiled
from gpunet.backends.numpy.compiled.crew import Crew
from gpunet.geometry import Geometry

PLAIN = NumpyBackend(threads=1, compiled=False)
needs_loops = pytest.mark.skipif(bool(compiled.why_unavailable()), reason=compiled.why_unavailable())


@needs_loops
@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize(
    ("c", "o", "groups", "stride"), [(3, 40, 1, 1), (17, 9, 1, 2), (64, 64, 1, 1), (24, 24, 24, 1)]
)
@pytest.mark.parametrize("n", [1, 3])
def test_threads_share_the_rows_of_an_image(monkeypatch, n, c, o, groups, stride, pooled):
    g = Geometry.conv((n, 75, 70, c), (3, 3, c // groups, o), stride=stride, padding=1, groups=groups)
    pool = Geometry.pool(g.y_shape, FUSED_POOL) if pooled else None
    conv, rng = Conv(g, Activation("relu"), pool), np.random.default_rng(7)
    arrays = [rng.normal(size=s).astype(np.float32) for s in (g.x_shape, g.w_shape, (o,), conv.y_shape)]
    monkeypatch.setattr("gpunet.backends.numpy.compiled.loops.LEAST", 1)
    calls, share = [], Crew.share
    monkeypatch.setattr(Crew, "share", lambda self, *given: (calls.append(given[-1]), share(self, *given)))
    expected = convolved(NumpyBackend(threads=1, compiled=True), conv, *arrays)
    for threads in (2, 5):
        results = convolved(NumpyBackend(threads=threads, compiled=True), conv, *arrays)
        for got, want in zip(results, expected, strict=True):
            np.testing.assert_array_equal(got, want)
    assert calls.count(5) >= 3 - stride  # the weights' gradient of few pixels is one part
    for got, want in zip(expected, convolved(PLAIN, conv, *arrays), strict=True):
        assert np.mean(np.abs(got - want) > 1e-2) < 1e-3  # all but ties in a pool that are rounded otherwise


def convolved(backend, conv, x, w, b, dy):
    """Results and gradients of a convolution."""
    y, mask = backend.conv2d_forward(x, w, b, conv)
    gate = conv.gate(y, mask)
    dw, db = backend.conv2d_weight_grad(dy, x, conv, gate)
    return y, dw, db, backend.conv2d_input_grad(dy, w, conv, gate)
