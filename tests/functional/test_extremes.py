"""Activations and losses at numbers from 1e-30 to 1e30 keep their digits.

The oracle is computed in long doubles, in forms that do not cancel; an error is a few units in the last place.
"""

from fractions import Fraction

import numpy as np
import pytest
import scipy.special
from helpers import host

import gpunet as gp
from gpunet import functional as F

SIZES = [1e-30, 1e-20, 1e-10, 1e-5, 1e-3, 0.3, 1, 1.499, 2.9, 5, 7.3, 10, 16.5, 30, 50, 80.4, 88, 100, 1e4, 1e10, 1e30]
POINTS = np.array([0, *SIZES, *(-x for x in SIZES)])
LONG = np.longdouble


def logistic(x):
    small = np.exp(-abs(x))
    return np.where(x >= 0, 1, small) / (1 + small)


def softplus(x):
    return np.maximum(x, 0) + np.log1p(np.exp(-abs(x)))


def elu(x):
    return np.where(x > 0, x, 0.5 * np.expm1(np.minimum(x, 0)))


def silu_slope(x):
    return logistic(x) * (1 + np.where(x == 0, 0, x * logistic(-x)))


def cdf(x):
    return scipy.special.ndtr(x.astype(np.float64)).astype(LONG)


def gelu_slope(x):
    return cdf(x) + x * np.exp(-x * x / 2) / np.sqrt(2 * LONG(np.pi))


ACTIVATIONS = {
    "relu": (F.relu, lambda x: np.maximum(x, 0), lambda x: 1 * (x > 0)),
    "leaky_relu": (lambda t: F.leaky_relu(t, 0.125), lambda x: np.maximum(x, x / 8), lambda x: np.where(x > 0, 1, 1 / 8)),
    "elu": (lambda t: F.elu(t, 0.5), elu, lambda x: np.where(x > 0, 1, 0.5 * np.exp(np.minimum(x, 0)))),
    "sigmoid": (F.sigmoid, logistic, lambda x: logistic(x) * logistic(-x)),
    "tanh": (F.tanh, np.tanh, lambda x: 4 * logistic(2 * x) * logistic(-2 * x)),
    "gelu": (F.gelu, lambda x: x * cdf(x), gelu_slope),
    "silu": (F.silu, lambda x: x * logistic(x), silu_slope),
    "softplus": (F.softplus, softplus, logistic),
    "hard_swish": (
        F.hard_swish, lambda x: x * np.clip(x + 3, 0, 6) / 6,
        lambda x: np.where(x <= -3, 0, np.where(x >= 3, 1, (x + LONG(1.5)) / 3)),
    ),
    "hard_sigmoid": (F.hard_sigmoid, lambda x: np.clip(x / 6 + LONG(0.5), 0, 1), lambda x: (abs(x) < 3) / LONG(6)),
    "relu6": (F.relu6, lambda x: np.clip(x, 0, 6), lambda x: 1 * ((x > 0) & (x < 6))),
    "hard_tanh": (F.hard_tanh, lambda x: np.clip(x, -1, 1), lambda x: 1 * (abs(x) < 1)),
}  # fmt: skip
LIMITS = {
    "relu": (np.inf, 1, 0, 0), "leaky_relu": (np.inf, 1, -np.inf, 0.125), "elu": (np.inf, 1, -0.5, 0), "sigmoid": (1, 0, 0, 0),
    "tanh": (1, 0, -1, 0), "gelu": (np.inf, 1, 0, 0), "silu": (np.inf, 1, 0, 0), "softplus": (np.inf, 1, 0, 0),
    "hard_swish": (np.inf, 1, 0, 0), "hard_sigmoid": (1, 0, 0, 0), "relu6": (6, 0, 0, 0), "hard_tanh": (1, 0, -1, 0),
}  # fmt: skip
"""(value, slope) at infinity, then at minus infinity."""


def measured(f, x, backend):
    """(values, slopes) of an elementwise f at x."""
    t = gp.tensor(x, backend=backend, requires_grad=True)
    y = f(t)
    y.backward(np.ones(y.shape, x.dtype))
    return host(y), host(t.grad, backend)


def agree(got, expected, ulps=8):
    """Assert an error of a few units in the last place; numbers beyond the normal ones need only be that."""
    info = np.finfo(got.dtype)
    with np.errstate(over="ignore"):
        expected = np.asarray(expected, LONG)
        rounded = expected.astype(got.dtype)
    whole = np.isfinite(rounded)
    np.testing.assert_array_equal(got[~whole], rounded[~whole])
    error = abs(got[whole] - expected[whole])
    allowed = ulps * float(info.eps) * abs(expected[whole]) + float(info.tiny)
    assert (error <= allowed).all(), (got[whole][error > allowed], expected[whole][error > allowed])


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_keep_their_digits_at_any_size(backend, dtype, name):
    f, value, slope = ACTIVATIONS[name]
    x = POINTS.astype(dtype)
    ulps = 1e-12 / np.finfo(dtype).eps if name == "gelu" and dtype == np.float64 else 8  # SciPy's own digits
    with np.errstate(over="ignore", under="ignore"):
        expected = value(x.astype(LONG)), slope(x.astype(LONG))
    for got, exact in zip(measured(f, x, backend), expected, strict=True):
        agree(got, exact, ulps)


@pytest.mark.parametrize("name", LIMITS)
def test_activations_of_infinity_are_their_limits_and_nan_stays(backend, dtype, name):
    y, slope = measured(ACTIVATIONS[name][0], np.array([np.inf, -np.inf, np.nan], dtype), backend)
    np.testing.assert_allclose([y[0], slope[0], y[1], slope[1]], LIMITS[name], rtol=1e-6)
    assert np.isnan(y[2])


def binary(x, t):
    return t * softplus(-x) + (1 - t) * softplus(x)


def binary_slope(x, t):
    return (1 - t) * logistic(x) - t * logistic(-x)


def wrong(x, t):
    return t * logistic(-x) + (1 - t) * logistic(x)


def focal_slope(x, t, gamma):
    share = wrong(x, t)
    inner = gamma * binary(x, t) * (1 - 2 * t) * np.where(t == 0, logistic(-x), np.where(t == 1, logistic(x), 0))
    if 0 < t < 1:
        inner = gamma * binary(x, t) * (1 - 2 * t) * logistic(x) * logistic(-x) / share
    return share**gamma * (binary_slope(x, t) + inner)


def huber(delta):
    d = LONG(delta)
    return (
        lambda t: F.huber_loss(t, np.zeros(t.shape), delta=delta, reduction="none"),
        lambda x: np.where(abs(x) <= d, x * x / 2, d * (abs(x) - d / 2)),
        lambda x: np.clip(x, -d, d),
    )


def smooth(beta):
    b = LONG(beta)
    return (
        lambda t: F.smooth_l1_loss(t, np.zeros(t.shape), beta=beta, reduction="none"),
        lambda x: np.where(abs(x) <= b, x * x / 2 / b, abs(x) - b / 2),
        lambda x: np.clip(x / b, -1, 1),
    )


def cross_entropy(target):
    t = LONG(target)
    return (
        lambda z: F.binary_cross_entropy_with_logits(z, np.full(z.shape, target), reduction="none"),
        lambda x: binary(x, t),
        lambda x: binary_slope(x, t),
    )


def focal(target, gamma):
    t = LONG(target)
    return (
        lambda z: F.sigmoid_focal_loss(z, np.full(z.shape, target), gamma=gamma, alpha=None, reduction="none"),
        lambda x: wrong(x, t) ** gamma * binary(x, t),
        lambda x: focal_slope(x, t, gamma),
    )


LOSSES = {
    **{f"huber {d}": huber(d) for d in (2**-20, 0.0078125, 1, 4096)},
    **{f"smooth l1 {b}": smooth(b) for b in (2**-20, 0.0078125, 1, 4096)},
    **{f"binary cross entropy of {t}": cross_entropy(t) for t in (0, 0.3125, 1)},
    **{f"focal of {t}, {g}": focal(t, g) for t in (0, 0.3125, 1) for g in (0.5, 1, 2)},
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_keep_their_digits_at_any_size(backend, dtype, name):
    f, value, slope = LOSSES[name]
    x = POINTS.astype(dtype)
    with np.errstate(over="ignore", under="ignore"):
        expected = value(x.astype(LONG)), slope(x.astype(LONG))
    for got, exact in zip(measured(f, x, backend), expected, strict=True):
        agree(got, exact, ulps=16)


def test_huber_loss_keeps_its_tail(backend):
    """Numbers of a bug report."""
    for away, delta, loss in ((1e4, 0.01, 99.99995), (3e7, 1, 3e7), (1e30, 1, 1e30)):
        x = gp.tensor([away], backend=backend, requires_grad=True)
        y = F.huber_loss(x, [0.0], delta=delta)
        y.backward()
        assert y.item() == pytest.approx(loss, rel=3e-7)
        assert host(x.grad, backend) == pytest.approx([delta], rel=1e-6)


SURE = {
    "hard labels": lambda z, y: F.cross_entropy(z, y, reduction="sum"),
    "rows": lambda z, y: F.cross_entropy(z, y, reduction="none").sum(),
    "mean": lambda z, y: F.cross_entropy(z, y) * len(y),
    "soft labels": lambda z, y: F.cross_entropy(z, np.eye(z.shape[1])[y], reduction="sum"),
    "likelihood": lambda z, y: F.nll_loss(F.log_softmax(z), y, reduction="sum"),
    "focal": lambda z, y: F.focal_loss(z, y, gamma=0, reduction="sum"),
}


@pytest.mark.parametrize("name", SURE)
@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("classes", [2, 40, 70])
def test_cross_entropies_of_sure_logits_keep_their_digits(backend, dtype, name, label, classes):
    x = POINTS.astype(dtype)
    x = x[abs(x) < 1000]
    logits = np.full((len(x), classes), -np.inf, dtype)  # masked, but for two
    logits[:, 0], logits[:, 1] = x, 0
    away = x.astype(LONG) * (1 if label == 0 else -1)
    z = gp.tensor(logits, backend=backend, requires_grad=True)
    loss = SURE[name](z, np.full(len(x), label))
    loss.backward()
    assert loss.item() == pytest.approx(float(softplus(-away).sum()), rel=20 * float(np.finfo(dtype).eps))
    for k in (0, 1):
        slope = logistic(-away) * (-1 if k == label else 1)
        agree(host(z.grad, backend)[:, k], slope)


def test_a_very_sure_softmax_has_its_loss_and_gradients(backend):
    for f in (
        lambda z: F.cross_entropy(z, [0]),
        lambda z: F.focal_loss(z, [0], gamma=0.5),
        lambda z: F.softmax(z)[:, 1].sum(),
    ):
        z = gp.tensor([[25.0, 0.0, -3.0]], backend=backend, requires_grad=True)
        y = f(z)
        y.backward()
        assert y.item() > 0
        assert abs(host(z.grad, backend)).min() > 0


@pytest.mark.parametrize("gamma", [0.5, 1, 2])
@pytest.mark.parametrize("away", [3.0, 25.0, 60.0, 200.0, -3.0, -200.0])
def test_focal_loss_of_sure_logits(backend, gamma, away):
    z = gp.tensor([[away, 0.0]], backend=backend, requires_grad=True)
    loss = F.focal_loss(z, [0], gamma=gamma)
    loss.backward()
    x = LONG(away)
    value = logistic(-x) ** gamma * softplus(-x)
    slope = -(logistic(-x) ** (gamma + 1)) - gamma * logistic(-x) ** gamma * logistic(x) * softplus(-x)
    agree(np.float32([loss.item()]), [value], 16)
    agree(host(z.grad, backend)[0], [slope, -slope], 16)


@pytest.mark.parametrize("offset", [0, 1e4, -3e6])
def test_squared_distances_of_near_rows_far_from_the_origin(backend, rng, offset):
    a, b = ((offset + rng.normal(size=(n, 7))).astype(np.float32) for n in (5, 4))
    b[1] = a[2]
    ta, tb = (gp.tensor(x, backend=backend, requires_grad=True) for x in (a, b))
    y = F.squared_distances(ta, tb)
    upstream = rng.normal(size=(5, 4))
    y.backward(upstream.astype(np.float32))
    away = a[:, None].astype(float) - b
    np.testing.assert_allclose(y.numpy(), (away**2).sum(axis=2), rtol=1e-6)
    assert y.numpy()[2, 1] == 0
    expected = 2 * np.einsum("ij,ijd->id", upstream, away)
    np.testing.assert_allclose(host(ta.grad, backend), expected, rtol=1e-5, atol=1e-5 * abs(expected).max())


def test_squared_distances_of_many_rows_are_those_from_their_mean(rng):
    a, b = ((1e4 + rng.normal(size=(n, 64))).astype(np.float32) for n in (200, 150))
    y = F.squared_distances(gp.tensor(a, backend="numpy"), gp.tensor(b, backend="numpy")).numpy()
    expected = ((a[:, None].astype(float) - b) ** 2).sum(axis=2)
    np.testing.assert_allclose(y, expected, rtol=2e-6)
    assert (y >= 0).all()


def test_triplets_of_almost_equal_distances(backend, rng):
    anchor = rng.normal(size=(6, 5)).astype(np.float32)
    positive = (anchor + 1000 * rng.normal(size=(6, 5))).astype(np.float32)
    negative = (positive + 1e-3 * rng.normal(size=(6, 5))).astype(np.float32)
    near, far = (((anchor.astype(float) - x) ** 2).sum(axis=1) for x in (positive, negative))
    loss = F.triplet_loss(*(gp.tensor(x, backend=backend) for x in (anchor, positive, negative)), reduction="none")
    np.testing.assert_allclose(loss.numpy(), np.maximum(near - far + 0.2, 0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("away", [0, 1e-30, 1e-12, 1e-7, 1e-3, 1e20, 1e30])
def test_contrastive_losses_have_a_slope_at_any_distance(backend, away):
    a = gp.tensor([[away, 0.0]], backend=backend, requires_grad=True)
    b = gp.tensor([[0.0, 0.0]], backend=backend)
    for same in (0, 1):
        a.zero_grad()
        loss = F.contrastive_loss(a, b, [same])
        loss.backward()
        d = float(np.float32(away))
        with np.errstate(over="ignore"):
            square = np.float32(d * d)
        expected = square if same else max(1 - d, 0) ** 2
        assert loss.item() == pytest.approx(float(expected), rel=1e-6, abs=1e-37)
        slope = 2 * d if same else -2 * max(1 - d, 0) * (square > 1e-37)
        np.testing.assert_allclose(host(a.grad, backend), [[slope, 0]], rtol=1e-6, atol=1e-37)


def exact_overlap(box, target):
    """(1 - IoU, 1 - GIoU) in rational numbers."""
    b, t = ([Fraction(float(v)) for v in x] for x in (box, target))
    sides = [max(min(b[i + 2], t[i + 2]) - max(b[i], t[i]), Fraction(0)) for i in (0, 1)]
    common = sides[0] * sides[1]
    union = (b[2] - b[0]) * (b[3] - b[1]) + (t[2] - t[0]) * (t[3] - t[1]) - common
    around = (max(b[2], t[2]) - min(b[0], t[0])) * (max(b[3], t[3]) - min(b[1], t[1]))
    return float(1 - common / union), float(1 - common / union + (around - union) / around)


@pytest.mark.parametrize("unit", [1e-15, 1e-4, 1, 1e4, 1e25])
@pytest.mark.parametrize("moved", [0, 1e-4, 0.1, 3])
def test_overlaps_of_boxes_of_any_size(backend, rng, unit, moved):
    corners = rng.uniform(size=(20, 2))
    box = np.concatenate([corners, corners + rng.uniform(0.2, 1, (20, 2))], axis=1)
    target = box + moved * rng.normal(size=(20, 4)) * [1, 1, 0, 0] + moved * rng.normal(size=(20, 1))
    target[:, 2:] = np.maximum(target[:, 2:], target[:, :2] + 0.1)
    box, target = ((unit * x).astype(np.float32) for x in (box, target))
    expected = np.array([exact_overlap(*pair) for pair in zip(box, target, strict=True)])
    t = gp.tensor(box, backend=backend, requires_grad=True)
    for f, exact in ((F.iou_loss, expected[:, 0]), (F.giou_loss, expected[:, 1])):
        loss = f(t, target, reduction="none")
        np.testing.assert_allclose(loss.numpy(), exact, rtol=1e-6)
        t.zero_grad()
        loss.sum().backward()
        assert np.isfinite(host(t.grad, backend)).all()
    np.testing.assert_allclose(F.iou(t, target).numpy(), 1 - expected[:, 0], rtol=1e-6, atol=1e-7)


def test_a_corner_beside_a_far_one_keeps_its_place(backend):
    """max(a, b) as b + max(a - b, 0) would lose the smaller of two sizes."""
    box, target = np.float32([[0.001, 0, 1, 1]]), np.float32([[-1e6, 0, 1, 1]])
    expected = exact_overlap(box[0], target[0])
    t = gp.tensor(box, backend=backend)
    assert F.iou(t, target).item() == pytest.approx(1 - expected[0], rel=1e-6)


def test_dice_loss_of_masks_that_almost_fit(backend):
    target = np.float32([[[0, 1], [1, 1]]])
    p = np.abs(target - np.float32(2**-20))
    expected = 4 * 2**-20 / (p.sum(dtype=float) + target.sum() + 1)
    assert F.dice_loss(gp.tensor(p, backend=backend), target).item() == pytest.approx(expected, rel=1e-6)


def test_batch_norm_of_channels_far_from_zero(backend, rng):
    """Scaled first, x and its mean would cancel to less than two digits."""
    steps = rng.permutation(np.repeat([-3, -1, 1, 3], 32)).reshape(8, 4, 4, 1).astype(np.float32)
    y = gp.nn.BatchNorm2d(1, eps=1e-12).to(backend)(gp.tensor(2**14 + steps / 16, backend=backend)).numpy()
    np.testing.assert_allclose(y, steps / np.sqrt(5), rtol=2e-3)
