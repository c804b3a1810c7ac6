"""Input gradients in compiled loops: one convolution for each parity of the pixels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpunet.backends.contract import Conv
from gpunet.backends.numpy.backend import NumpyBackend
from gpunet.backends.numpy.compiled import library as compiled
from gpunet.backends.numpy.compiled.parities import parities
from gpunet.backends.reference.backend import ReferenceBackend
from gpunet.geometry import Geometry

pytestmark = pytest.mark.skipif(bool(compiled.why_unavailable()), reason=compiled.why_unavailable())
sides = st.tuples(st.integers(1, 6), st.integers(1, 4), st.integers(1, 9), st.integers(0, 5), st.integers(0, 5))


@given(
    n=st.integers(1, 3), rows=sides, columns=sides, channels=st.sampled_from([(1, 1), (3, 5), (8, 17), (33, 16)]),
    depthwise=st.booleans(), dtype=st.sampled_from([np.float32, np.float64]), seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
@settings(max_examples=200)
def test_input_gradients_of_all_strides_and_paddings(n, rows, columns, channels, depthwise, dtype, seed):
    (kh, sh, h, *up), (kw, sw, w, *across) = rows, columns
    h, w = max(h, kh - sum(up)), max(w, kw - sum(across))
    c, o = channels if not depthwise else (channels[1], channels[1])
    groups = c if depthwise else 1
    g = Geometry.conv(
        (n, h, w, c), (kh, kw, c // groups, o), stride=(sh, sw), padding=(tuple(up), tuple(across)), groups=groups
    )
    rng = np.random.default_rng(seed)
    dy, filters = rng.normal(size=g.y_shape).astype(dtype), rng.normal(size=g.w_shape).astype(dtype)
    expected = ReferenceBackend().conv2d_input_grad(dy.astype(np.float64), filters.astype(np.float64), Conv(g))
    tolerance = 1e-5 if dtype == np.float32 else 1e-12
    for threads in (1, 3):
        got = NumpyBackend(threads=threads, compiled=True).conv2d_input_grad(dy, filters, Conv(g))
        np.testing.assert_allclose(got, expected, rtol=tolerance, atol=10 * tolerance)


def test_no_product_is_computed_that_is_not_needed():
    g = Geometry.conv((1, 32, 32, 8), (3, 3, 8, 16), stride=2, padding=1)
    found = parities(g)
    assert [part.filters for part in found.convolutions] == [slice(0, 4), slice(4, 6), slice(6, 8), slice(8, 9)]
    assert found.whole
    assert not parities(Geometry.conv((1, 32, 32, 8), (1, 1, 8, 16), stride=2)).whole
    assert parities(Geometry.conv((1, 32, 32, 8), (3, 3, 8, 16), stride=2, dilation=2)) is None
