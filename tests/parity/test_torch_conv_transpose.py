"""Transposed convolution beside PyTorch's, its output size with it."""

import numpy as np
import pytest
import tolerances
from helpers import gradients, relative_error

from gpunet import functional as F

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity

CASES = [
    ((3, 9, 11, 16), (2, 2), 8, {"stride": 2}),
    ((2, 7, 8, 6), (3, 3), 10, {"stride": 2, "padding": 1, "output_padding": 1}),
    ((2, 6, 5, 8), (4, 3), 6, {"stride": (3, 2), "padding": (1, 2), "groups": 2, "output_padding": (2, 0)}),
    ((2, 6, 5, 4), (3, 3), 5, {"dilation": (2, 1), "padding": (2, 1)}),
]


def theirs(arrays, dy, options, dtype):
    x, w, b = (torch.tensor(a, dtype=dtype, requires_grad=True) for a in arrays)
    y = torch.nn.functional.conv_transpose2d(x.permute(0, 3, 1, 2), w.permute(3, 2, 0, 1), b, **options)
    y = y.permute(0, 2, 3, 1)
    y.backward(torch.tensor(dy, dtype=dtype))
    return [y.detach().numpy(), x.grad.numpy(), w.grad.numpy(), b.grad.numpy()]


@pytest.mark.parametrize(("x_shape", "window", "filters", "options"), CASES)
def test_conv_transpose2d(backend, rng, x_shape, window, filters, options):
    shapes = x_shape, (*window, filters // options.get("groups", 1), x_shape[3]), (filters,)
    arrays = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    drawn = []

    def upstream(shape):
        drawn.append(rng.normal(size=shape).astype(np.float32))
        return drawn[0]

    def ours(x, w, b):
        return F.conv_transpose2d(x, w, b, **options)

    y, grads = gradients(ours, arrays, upstream, backend=backend, dtype="float32")
    single, exact = (theirs(arrays, drawn[0], options, dtype) for dtype in (torch.float32, torch.float64))
    for mine, torch32, torch64 in zip([y, *grads], single, exact, strict=True):
        allowed = max(tolerances.TORCH, tolerances.TORCH_FACTOR * relative_error(torch32, torch64))
        assert relative_error(mine, torch64) <= allowed
