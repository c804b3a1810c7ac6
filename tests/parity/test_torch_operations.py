"""Values and gradients in float32 beside PyTorch's, both measured against PyTorch in float64."""

import numpy as np
import pytest
import tolerances
from helpers import gradients, relative_error

from gpunet import functional as F
from gpunet.geometry import Geometry

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity
tf = torch.nn.functional


def nchw(t):
    return t.permute(0, 3, 1, 2)


def nhwc(t):
    return t.permute(0, 2, 3, 1)


def oihw(w):
    return w.permute(3, 2, 0, 1)


def run_torch(f, inputs, upstream, dtype):
    tensors = [torch.tensor(x, dtype=dtype, requires_grad=True) for x in inputs]
    y = f(*tensors)
    y.backward(torch.tensor(upstream, dtype=dtype))
    return [y.detach().numpy(), *(t.grad.numpy() for t in tensors)]


def check(ours, theirs, inputs, backend, rng):
    """The value and every gradient, as exact as PyTorch's or to 1e-5."""
    inputs = [np.asarray(x, np.float32) for x in inputs]
    drawn = []

    def upstream(shape):
        drawn.append(np.asarray(rng.normal(size=shape), np.float32))
        return drawn[0]

    y, grads = gradients(ours, inputs, upstream, backend=backend, dtype="float32")
    exact = run_torch(theirs, inputs, drawn[0], torch.float64)
    single = run_torch(theirs, inputs, drawn[0], torch.float32)
    for i, (a, torch32, torch64) in enumerate(zip([y, *grads], single, exact, strict=True)):
        allowed = max(tolerances.TORCH, tolerances.TORCH_FACTOR * relative_error(torch32, torch64))
        error = relative_error(a, torch64)
        assert error <= allowed, (
            f"{'value' if i == 0 else f'gradient {i - 1}'}: error {error:.3g}, allowed {allowed:.3g}"
        )


CONVS = [
    ((4, 13, 11, 3), (3, 3, 3, 8), {}),
    ((4, 13, 11, 3), (5, 4, 3, 8), {"stride": (2, 3), "padding": (2, 1)}),
    ((2, 14, 15, 6), (3, 2, 3, 10), {"groups": 2, "dilation": (2, 1), "padding": ((1, 2), (0, 3))}),
    ((2, 14, 15, 6), (3, 3, 1, 12), {"groups": 6, "padding": "same"}),
    ((3, 9, 10, 16), (1, 1, 16, 7), {}),
    ((3, 9, 10, 16), (1, 1, 16, 7), {"stride": 2}),
    ((8, 28, 28, 1), (5, 5, 1, 6), {"padding": "same"}),
    ((8, 16, 16, 32), (3, 3, 32, 33), {"padding": 1}),
]


@pytest.mark.parametrize(("x_shape", "w_shape", "options"), CONVS)
@pytest.mark.parametrize("activation", [None, "relu"])
def test_conv2d(backend, rng, x_shape, w_shape, options, activation):
    g = Geometry.conv(x_shape, w_shape, **options)
    (top, bottom), (left, right) = g.padding

    def theirs(x, w, b):
        padded = tf.pad(nchw(x), (left, right, top, bottom))
        y = tf.conv2d(padded, oihw(w), b, stride=g.stride, dilation=g.dilation, groups=g.groups)
        return nhwc(y if activation is None else torch.relu(y))

    inputs = rng.normal(size=x_shape), rng.normal(size=w_shape), rng.normal(size=w_shape[3])
    check(lambda x, w, b: F.conv2d(x, w, b, activation=activation, **options), theirs, inputs, backend, rng)


@pytest.mark.parametrize(
    ("window", "stride", "padding"), [(2, None, 0), (3, 2, 1), ((3, 2), (1, 3), (1, 0)), (3, 1, 0), (2, 3, 0)]
)
def test_pooling(backend, rng, window, stride, padding):
    x = rng.normal(size=(3, 13, 12, 5))
    check(
        lambda x: F.max_pool2d(x, window, stride=stride, padding=padding),
        lambda x: nhwc(tf.max_pool2d(nchw(x), window, stride, padding)),
        [x], backend, rng,
    )  # fmt: skip
    for count in (True, False, None):
        check(
            lambda x, count=count: F.avg_pool2d(x, window, stride=stride, padding=padding, count_padding=count),
            lambda x, count=count: nhwc(
                tf.avg_pool2d(nchw(x), window, stride, padding, count_include_pad=count is not False)
            ),
            [x], backend, rng,
        )  # fmt: skip


def test_linear(backend, rng):
    inputs = rng.normal(size=(5, 3, 70)), rng.normal(size=(70, 30)), rng.normal(size=30)
    check(F.linear, lambda x, w, b: x @ w + b, inputs, backend, rng)
    check(F.linear, lambda x, w: x @ w, inputs[:2], backend, rng)
    check(F.matmul, torch.matmul, (rng.normal(size=(40, 70)), inputs[1]), backend, rng)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (F.relu, torch.relu),
        (F.leaky_relu, tf.leaky_relu),
        (lambda x: F.leaky_relu(x, 0.3), lambda x: tf.leaky_relu(x, 0.3)),
        (F.sigmoid, torch.sigmoid),
        (F.tanh, torch.tanh),
        (F.elu, tf.elu),
        (lambda x: F.elu(x, 0.3), lambda x: tf.elu(x, 0.3)),
        (F.relu6, tf.relu6),
        (F.hard_tanh, tf.hardtanh),
        (lambda x: F.hard_tanh(x, -0.5, 2.0), lambda x: tf.hardtanh(x, -0.5, 2.0)),
        (F.hard_sigmoid, tf.hardsigmoid),
        (F.gelu, tf.gelu),
        (F.silu, tf.silu),
        (F.softplus, tf.softplus),
        (lambda x: F.softplus(x, 3.0), lambda x: tf.softplus(x, 3.0)),
        (F.hard_swish, tf.hardswish),
        (F.softmax, lambda x: torch.softmax(x, -1)),
        (F.log_softmax, lambda x: torch.log_softmax(x, -1)),
        (F.exp, torch.exp),
        (F.abs, torch.abs),
        (lambda x: F.log(F.abs(x)), lambda x: torch.log(torch.abs(x))),
        (lambda x: F.sqrt(F.abs(x)), lambda x: torch.sqrt(torch.abs(x))),
        (lambda x: F.sum(x, (0, 2)), lambda x: torch.sum(x, (0, 2))),
        (lambda x: F.mean(x, 1, keepdims=True), lambda x: torch.mean(x, 1, keepdim=True)),
        (lambda x: F.max(x, -1), lambda x: torch.max(x, -1).values),
        (lambda x: F.transpose(x, 2, 0, 1), lambda x: x.permute(2, 0, 1)),
        (lambda x: F.concatenate([x, x * 2], 1), lambda x: torch.cat([x, x * 2], 1)),
        (lambda x: x[1:, ::3, None, -1], lambda x: x[1:, ::3, None, -1]),
        (lambda x: x[[1, 1, 0]], lambda x: x[[1, 1, 0]]),
        (lambda x: 1 / (x * x + 1) - x**3, lambda x: 1 / (x * x + 1) - x**3),
        (lambda x: F.min(x, 1, keepdims=True), lambda x: torch.min(x, 1, keepdim=True).values),
        (lambda x: F.var(x, (0, 2)), lambda x: torch.var(x, (0, 2))),
        (lambda x: F.std(x, 1, correction=0), lambda x: torch.std(x, 1, correction=0)),
        (lambda x: x.std(), torch.std),
        (lambda x: F.clip(x, -1, 0.5), lambda x: torch.clip(x, -1, 0.5)),
        (lambda x: F.where(x > 0, x * x, -x), lambda x: torch.where(x > 0, x * x, -x)),
        (lambda x: F.maximum(x, x[:1]) - F.minimum(x, 0.3), lambda x: torch.maximum(x, x[:1]) - torch.clip(x, max=0.3)),
        (lambda x: F.stack([x, 2 * x], -1), lambda x: torch.stack([x, 2 * x], -1)),
        (lambda x: x[:1].squeeze(0).unsqueeze(-1), lambda x: x[:1].squeeze(0).unsqueeze(-1)),
        (lambda x: x[x > 0.5], lambda x: x[x > 0.5]),
        (lambda x: x[[0, 2, 0], :, [1, 1, 6]], lambda x: x[[0, 2, 0], :, [1, 1, 6]]),
        (lambda x: x @ x.transpose(0, 2, 1), lambda x: x @ x.mT),
        (lambda x: x[0].T @ x, lambda x: x[0].T @ x),
        (lambda x: x @ x[0, 0], lambda x: x @ x[0, 0]),
        (lambda x: 2**x - abs(x), lambda x: 2**x - abs(x)),
    ],
)
def test_elementwise_reductions_and_movement(backend, rng, ours, theirs):
    check(ours, theirs, [2 * rng.normal(size=(3, 10, 7))], backend, rng)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (F.relu, torch.relu), (F.leaky_relu, tf.leaky_relu), (lambda x: F.elu(x, 0.3), lambda x: tf.elu(x, 0.3)),
        (F.relu6, tf.relu6), (F.hard_tanh, tf.hardtanh), (F.hard_sigmoid, tf.hardsigmoid), (F.hard_swish, tf.hardswish),
        (lambda x: F.prelu(x, [0.3]), lambda x: tf.prelu(x, torch.tensor([0.3], dtype=x.dtype))),
    ],
)  # fmt: skip
def test_kinks_have_pytorchs_gradients(backend, rng, ours, theirs):
    check(ours, theirs, [np.arange(-8, 9)], backend, rng)


@pytest.mark.parametrize(("slopes", "shape"), [(1, (6, 5, 4, 7)), (7, (6, 5, 4, 7)), (7, (9, 7))])
def test_prelu(backend, rng, slopes, shape):
    def theirs(x, w):
        return tf.prelu(x.movedim(-1, 1), w).movedim(1, -1)

    check(F.prelu, theirs, [rng.normal(size=shape), rng.normal(size=slopes)], backend, rng)


@pytest.mark.parametrize(
    ("shape", "groups"), [((4, 9, 8, 12), 3), ((4, 9, 8, 12), 1), ((4, 9, 8, 12), 12), ((8, 10), 2)]
)
def test_group_norm(backend, rng, shape, groups):
    def theirs(x, gamma, beta):
        return tf.group_norm(x.movedim(-1, 1), groups, gamma, beta, 1e-5).movedim(1, -1)

    inputs = rng.normal(size=shape) + 1, rng.normal(size=shape[-1]), rng.normal(size=shape[-1])
    check(lambda x, g, b: F.group_norm(x, groups, g, b), theirs, inputs, backend, rng)


@pytest.mark.parametrize("axes", [1, 3])
def test_layer_norm(backend, rng, axes):
    shape = 5, 7, 6, 10
    inputs = rng.normal(size=shape) - 2, *rng.normal(size=(2, *shape[-axes:]))
    check(
        lambda x, g, b: F.layer_norm(x, shape[-axes:], g, b),
        lambda x, g, b: tf.layer_norm(x, shape[-axes:], g, b), inputs, backend, rng,
    )  # fmt: skip


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ignore", [None, 2, 255])
@pytest.mark.parametrize("shape", [(64, 10), (2, 6, 5, 4)])
def test_cross_entropy(backend, rng, shape, smoothing, weighted, ignore):
    classes = shape[-1]
    labels = rng.integers(0, classes, shape[:-1])
    if ignore == 255:
        labels[0] = 255
    weight = rng.uniform(0.2, 2, classes).astype(np.float32) if weighted else None

    def theirs(z):
        return tf.cross_entropy(
            z.reshape(-1, classes), torch.tensor(labels.reshape(-1)), label_smoothing=smoothing,
            weight=None if weight is None else torch.tensor(weight, dtype=z.dtype),
            ignore_index=-100 if ignore is None else ignore,
        )  # fmt: skip

    def ours(z):
        return F.cross_entropy(z, labels, label_smoothing=smoothing, weight=weight, ignore_index=ignore)

    check(ours, theirs, [3 * rng.normal(size=shape)], backend, rng)


def test_other_losses(backend, rng):
    target = rng.uniform(0, 1, (20, 7)).astype(np.float32)
    check(
        lambda z: F.binary_cross_entropy_with_logits(z, target),
        lambda z: tf.binary_cross_entropy_with_logits(z, torch.tensor(target, dtype=z.dtype)),
        [5 * rng.normal(size=(20, 7))], backend, rng,
    )  # fmt: skip
    check(F.mse_loss, tf.mse_loss, [rng.normal(size=(20, 7)), rng.normal(size=(20, 7))], backend, rng)
    check(
        lambda x: F.huber_loss(x, target, delta=0.4),
        lambda x: tf.huber_loss(x, torch.tensor(target, dtype=x.dtype), delta=0.4),
        [rng.normal(size=(20, 7))], backend, rng,
    )  # fmt: skip
    soft = np.exp(rng.normal(size=(20, 7)))
    soft = (soft / soft.sum(axis=1, keepdims=True)).astype(np.float32)
    check(
        lambda z: F.cross_entropy(z, soft, label_smoothing=0.1),
        lambda z: tf.cross_entropy(z, torch.tensor(soft, dtype=z.dtype), label_smoothing=0.1),
        [3 * rng.normal(size=(20, 7))], backend, rng,
    )  # fmt: skip
