"""Upsampling, padding, adaptive pooling and locally connected layers beside PyTorch's."""

import numpy as np
import pytest
import tolerances
from helpers import gradients, relative_error

import gpunet as gp
from gpunet import functional as F

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity
tf = torch.nn.functional


def run_torch(f, inputs, upstream, dtype):
    tensors = [torch.tensor(x, dtype=dtype, requires_grad=True) for x in inputs]
    y = f(tensors[0].permute(0, 3, 1, 2), *tensors[1:]).permute(0, 2, 3, 1)
    y.backward(torch.tensor(upstream, dtype=dtype))
    return [y.detach().numpy(), *(t.grad.numpy() for t in tensors)]


def check(ours, theirs, inputs, backend, rng):
    """The value and every gradient, as exact as PyTorch's or to 1e-5; `theirs` is on NCHW."""
    inputs, drawn = [np.asarray(x, np.float32) for x in inputs], []

    def upstream(shape):
        drawn.append(np.asarray(rng.normal(size=shape), np.float32))
        return drawn[0]

    y, grads = gradients(ours, inputs, upstream, backend=backend, dtype="float32")
    single, exact = (run_torch(theirs, inputs, drawn[0], dtype) for dtype in (torch.float32, torch.float64))
    for mine, torch32, torch64 in zip([y, *grads], single, exact, strict=True):
        allowed = max(tolerances.TORCH, tolerances.TORCH_FACTOR * relative_error(torch32, torch64))
        assert relative_error(mine, torch64) <= allowed


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bilinear by corners"])
@pytest.mark.parametrize(
    "options",
    [
        {"scale_factor": 2},
        {"scale_factor": (1.5, 3)},
        {"scale_factor": (0.5, 0.7)},
        {"size": (13, 5)},
        {"size": (1, 22)},
    ],
)
def test_upsample2d(backend, rng, mode, options):
    mode, by_corners = mode.split()[0], "corners" in mode
    check(
        lambda x: F.upsample2d(x, **options, mode=mode, align_corners=by_corners),
        lambda x: tf.interpolate(x, **options, mode=mode, align_corners=by_corners or None),
        [rng.normal(size=(2, 9, 11, 5))], backend, rng,
    )  # fmt: skip


def test_nearest_takes_the_pixels_that_pytorch_takes():
    """Its float32 decides where p H / OH is nearly whole: exact fractions would take another pixel in the first five."""
    extents = [(6, 74), (12, 74), (14, 46), (21, 69), (24, 74), (7, 7), (7, 14), (49, 23), (31, 64), (10, 9)]
    cases = [(n, {"size": (m, 1)}) for n, m in extents]
    for n in (2, 5, 7, 10, 11, 20, 33):
        factors = [(factor, 1) for factor in (0.7, 1.1, 1.5, 2.05, 3.3)]
        cases += [(n, {"scale_factor": pair}) for pair in factors]
    for n, options in cases:
        x = np.arange(2 * n, dtype=np.float32).reshape(1, n, 2, 1)
        theirs = tf.interpolate(torch.tensor(x).permute(0, 3, 1, 2), **options, mode="nearest").permute(0, 2, 3, 1)
        np.testing.assert_array_equal(F.upsample2d(gp.tensor(x), **options).numpy(), theirs, err_msg=f"{n}, {options}")


@pytest.mark.parametrize(("mode", "theirs"), [("zero", "constant"), ("reflect", "reflect"), ("edge", "replicate")])
def test_pad2d(backend, rng, mode, theirs):
    x = rng.normal(size=(2, 6, 7, 5))
    check(
        lambda x: F.pad2d(x, ((1, 4), (3, 2)), mode=mode), lambda x: tf.pad(x, (3, 2, 1, 4), mode=theirs),
        [x], backend, rng,
    )  # fmt: skip


@pytest.mark.parametrize("size", [1, (3, 4), (5, 3), (12, 15), (6, 11)])
def test_adaptive_pooling(backend, rng, size):
    x = rng.normal(size=(2, 12, 11, 5))
    check(lambda x: F.adaptive_avg_pool2d(x, size), lambda x: tf.adaptive_avg_pool2d(x, size), [x], backend, rng)
    check(lambda x: F.adaptive_max_pool2d(x, size), lambda x: tf.adaptive_max_pool2d(x, size), [x], backend, rng)


@pytest.mark.parametrize(("window", "stride", "padding"), [((3, 2), 1, 0), ((3, 3), (2, 1), (1, 2))])
def test_locally_connected2d(backend, rng, window, stride, padding):
    n, h, w, c, o = 3, 8, 7, 4, 6

    def theirs(x, w, b):
        columns = tf.unfold(x, window, stride=stride, padding=padding)  # (N, C KH KW, OH OW)
        columns = columns.reshape(n, c, *window, *w.shape[:2])
        return torch.einsum("ncijyx,yxijco->noyx", columns, w) + b.permute(2, 0, 1)

    places = F.conv2d(
        gp.tensor(np.zeros((1, h, w, c))), np.zeros((*window, c, o)), stride=stride, padding=padding
    ).shape[1:3]
    inputs = rng.normal(size=(n, h, w, c)), rng.normal(size=(*places, *window, c, o)), rng.normal(size=(*places, o))
    check(lambda x, w, b: F.locally_connected2d(x, w, b, stride=stride, padding=padding), theirs, inputs, backend, rng)


SMOOTH = [
    {"scale_factor": (0.5, 0.3)}, {"scale_factor": (0.7, 0.45)}, {"scale_factor": 1},
    {"size": (2, 5)}, {"size": (1, 4)}, {"size": (13, 3)},
]  # fmt: skip


@pytest.mark.parametrize("by_corners", [False, True])
@pytest.mark.parametrize("options", SMOOTH)
def test_upsample2d_with_antialiasing(backend, rng, options, by_corners):
    check(
        lambda x: F.upsample2d(x, **options, mode="bilinear", align_corners=by_corners, antialias=True),
        lambda x: tf.interpolate(x, **options, mode="bilinear", align_corners=by_corners, antialias=True),
        [rng.normal(size=(2, 9, 12, 5))], backend, rng,
    )  # fmt: skip


def test_a_scale_that_leaves_the_extents_copies_with_antialiasing_too(rng):
    """PyTorch's forward pass does; its gradient is another operation's there."""
    x = rng.normal(size=(1, 9, 12, 2)).astype(np.float32)
    y = F.upsample2d(gp.tensor(x), 1.05, mode="bilinear", antialias=True).numpy()
    torchs = tf.interpolate(torch.tensor(x).permute(0, 3, 1, 2), scale_factor=1.05, mode="bilinear", antialias=True)
    np.testing.assert_array_equal(y, x)
    np.testing.assert_array_equal(torchs.permute(0, 2, 3, 1), x)


CEIL = [
    ((7, 8), (2, 2), (2, 2), (0, 0)),
    ((7, 9), (3, 2), (2, 3), (1, 0)),
    ((5, 6), (3, 3), (3, 4), (1, 1)),
    ((4, 5), (2, 3), (3, 2), (0, 1)),
    ((2, 3), (3, 4), (2, 3), (0, 0)),
    ((11, 10), (4, 5), (3, 3), (2, 2)),
    ((6, 6), (2, 2), (5, 5), (1, 1)),
]
"""Extents, window, stride and padding with pixels left over, or a window more that would start behind the image."""


@pytest.mark.parametrize(("extents", "window", "stride", "padding"), CEIL)
@pytest.mark.parametrize("kind", ["max", "average", "average inside"])
def test_pools_that_round_up(backend, rng, extents, window, stride, padding, kind):
    options = {"stride": stride, "padding": padding, "ceil_mode": True}
    if kind == "max":
        ours, theirs = F.max_pool2d, tf.max_pool2d
        counted, named = {}, {}
    else:
        ours, theirs = F.avg_pool2d, tf.avg_pool2d
        counted, named = {"count_padding": kind == "average"}, {"count_include_pad": kind == "average"}
    for channels in (3, 8):
        check(
            lambda x: ours(x, window, **options, **counted),
            lambda x: theirs(x, window, **options, **named),
            [rng.normal(size=(2, *extents, channels))], backend, rng,
        )  # fmt: skip
