import re

import numpy as np
import pytest
import scipy.special
import tolerances
from helpers import check_gradients, gradients, host, relative_error, same

import gpunet as gp
from gpunet import functional as F
from gpunet.backends.contract import CrossEntropy


def cross_entropy(logits, labels, *, label_smoothing=0.0, weight=None, ignore_index=None):
    """The definition, one row after another, in float64."""
    classes = logits.shape[-1]
    weight = np.ones(classes) if weight is None else np.asarray(weight, np.float64)
    total = share = 0.0
    for z, label in zip(logits.reshape(-1, classes).astype(np.float64), labels.reshape(-1), strict=True):
        if label == ignore_index:
            continue
        log_p = scipy.special.log_softmax(z)
        target = np.full(classes, label_smoothing / classes)
        target[label] += 1 - label_smoothing
        total -= (weight * target * log_p).sum()
        share += weight[label]
    return total / share if share else 0.0


WEIGHT = [0.5, 2.0, 1.0, 0.25]
OPTIONS = [
    {}, {"label_smoothing": 0.1}, {"weight": WEIGHT}, {"ignore_index": -1}, {"ignore_index": 2},
    {"label_smoothing": 0.3, "weight": WEIGHT, "ignore_index": 255}, {"label_smoothing": 1.0},
]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("shape", [(6, 4), (2, 3, 5, 4), (4,)])
def test_cross_entropy_and_its_gradient(backend, dtype, rng, options, shape):
    logits = rng.normal(size=shape).astype(dtype) * 3
    labels = rng.integers(0, 4, shape[:-1])
    if options.get("ignore_index", 0) not in range(4) and labels.size > 1:
        labels.reshape(-1)[[0, -1]] = options["ignore_index"]
    loss = F.cross_entropy(gp.tensor(logits, backend=backend), labels, **options)
    assert loss.shape == ()
    same(loss.numpy(), cross_entropy(logits, labels, **options), tolerances.ORACLE)
    check_gradients(lambda z: F.cross_entropy(z, labels, **options), [logits], backend=backend, rng=rng)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize(
    "options",
    [
        CrossEntropy(),
        CrossEntropy(smoothing=0.2, ignore_index=1),
        CrossEntropy(np.array(WEIGHT), 0.1, 3, normalized=True),
    ],
    ids=["plain", "smoothed", "weighted logarithms"],
)
def test_every_backend_agrees_with_the_reference(backend, dtype, rng, options, reduction):
    logits, labels = 4 * rng.normal(size=(50, 4)), rng.integers(0, 4, 50).astype(np.int32)
    options = options._replace(reduction=reduction)
    expected = gp.get_backend("reference").softmax_cross_entropy(
        logits.astype(dtype).astype(np.float64), labels, options
    )
    if options.weight is not None:
        options = options._replace(weight=backend.asarray(options.weight, dtype))
    got = backend.softmax_cross_entropy(backend.asarray(logits, dtype), backend.asarray(labels), options)
    for mine, theirs in zip(got, expected, strict=True):
        same(host(mine, backend), theirs, {**tolerances.BACKENDS, "int32": 0})
    weight = backend.label_weight(backend.asarray(labels), 4, options)
    counted = labels[labels != options.ignore_index]
    total = len(counted) if options.weight is None else np.array(WEIGHT)[counted].sum()
    np.testing.assert_allclose(host(weight, backend), total, rtol=1e-6)


def test_cross_entropy_of_equal_logits_is_log_k(backend):
    loss = F.cross_entropy(gp.tensor(np.zeros((5, 10), np.float32), backend=backend), np.arange(5))
    assert loss.item() == pytest.approx(np.log(10), rel=1e-6)


def test_the_number_of_correct_rows_counts_first_largest_logits(backend):
    logits = np.array([[1, 3, 3], [1, 3, 3], [5, 1, 1], [0, 0, 1], [2, 1, 0]], np.float32)
    labels = np.array([1, 2, 0, 2, 9], np.int32)
    options = CrossEntropy(ignore_index=9)
    *_, correct = backend.softmax_cross_entropy(backend.asarray(logits), backend.asarray(labels), options)
    assert int(host(correct, backend)) == 3


def test_labels_may_be_lists_tensors_data_or_any_integer(backend, rng):
    logits = gp.tensor(rng.normal(size=(3, 4)).astype(np.float32), backend=backend)
    expected = F.cross_entropy(logits, np.array([0, 3, 1])).item()
    for labels in ([0, 3, 1], np.array([0, 3, 1], np.uint8), backend.asarray(np.array([0, 3, 1], np.int32))):
        assert F.cross_entropy(logits, labels).item() == expected


def test_a_batch_of_ignored_rows_costs_nothing(backend, rng):
    logits = rng.normal(size=(3, 4))
    loss, (dlogits,) = gradients(
        lambda z: F.cross_entropy(z, np.full(3, 7), ignore_index=7), [logits], lambda s: np.ones(s),
        backend=backend, dtype="float32",
    )  # fmt: skip
    assert loss == 0
    assert not dlogits.any()


def test_extreme_logits_give_finite_losses_and_gradients(backend):
    logits = np.array([[1000, -1000, 0], [-1000, 1000, 0]], np.float32)
    loss, (dlogits,) = gradients(
        lambda z: F.cross_entropy(z, [1, 1]), [logits], lambda s: np.ones(s), backend=backend, dtype="float32"
    )
    assert loss == pytest.approx(1000)
    np.testing.assert_allclose(dlogits, [[0.5, -0.5, 0], [0, 0, 0]])
    targets = np.array([[0, 1, 1], [1, 1, 0]], np.float32)
    loss, (dz,) = gradients(
        lambda z: F.binary_cross_entropy_with_logits(z, targets), [logits], lambda s: np.ones(s),
        backend=backend, dtype="float32",
    )  # fmt: skip
    assert loss == pytest.approx((3000 + 2 * np.log(2)) / 6)
    assert np.isfinite(dz).all()


def test_a_class_masked_by_minus_infinity_takes_no_part(backend):
    logits = np.array([[1, -np.inf, 2], [0, -np.inf, 1]], np.float32)
    loss, (dlogits,) = gradients(
        lambda z: F.cross_entropy(z, [2, 0]), [logits], lambda s: np.ones(s), backend=backend, dtype="float32"
    )
    assert loss == pytest.approx(cross_entropy(logits[:, [0, 2]], np.array([1, 0])))
    assert (dlogits[:, 1] == 0).all()


def test_a_masked_class_takes_no_part_in_soft_and_focal_losses_either(backend):
    logits = np.array([[0, -np.inf, 1], [-np.inf, 2, -1]], np.float32)
    losses = {
        "hard": lambda z: F.cross_entropy(z, [0, 1]),
        "soft": lambda z: F.cross_entropy(z, [[1, 0.0, 0], [0, 1, 0]]),
        "focal": lambda z: F.focal_loss(z, [0, 1], gamma=0),
    }
    found = {
        name: gradients(loss, [logits], lambda s: np.ones(s), backend=backend, dtype="float32")
        for name, loss in losses.items()
    }
    p = scipy.special.softmax(logits.astype(float), axis=1)
    for loss, (dlogits,) in found.values():
        assert loss == pytest.approx(-(np.log(p[0, 0]) + np.log(p[1, 1])) / 2)
        np.testing.assert_allclose(dlogits, (p - [[1, 0, 0], [0, 1, 0]]) / 2, rtol=1e-5, atol=1e-7)
    z = gp.tensor(logits, backend=backend)
    for loss in (
        F.cross_entropy(z, [1, 1]),
        F.cross_entropy(z, np.float32([[0.5, 0.5, 0], [0, 1, 0]])),
        F.focal_loss(z, [1, 1]),
    ):
        assert loss.item() == np.inf  # what is masked is what the label asks for


@pytest.mark.parametrize("label", [3, 7, -1])
def test_a_label_on_a_device_that_is_no_class_makes_the_loss_nan(cuda_backend, label):
    z = gp.tensor(np.zeros((2, 3), np.float32), backend=cuda_backend)
    labels = cuda_backend.asarray(np.array([0, label], np.int32))
    for loss in (F.cross_entropy, F.focal_loss):
        assert np.isnan(loss(z, labels).item())
    np.testing.assert_array_equal(F.one_hot(labels, 3, backend=cuda_backend).numpy(), [[1, 0, 0], [np.nan] * 3])
    assert np.isnan(F.contrastive_loss(z, z + 1, labels).item())


def test_losses_pass_nan(backend):
    logits = gp.tensor([[1.0, np.nan], [1.0, 2.0]], backend=backend, requires_grad=True)
    loss = F.cross_entropy(logits, [0, 1])
    assert np.isnan(loss.item())
    loss.backward()
    np.testing.assert_array_equal(np.isnan(host(logits.grad, backend)), [[True, True], [False, False]])
    assert np.isnan(F.binary_cross_entropy_with_logits(logits, np.zeros((2, 2))).item())
    assert np.isnan(F.mse_loss(logits, np.zeros((2, 2))).item())


def test_binary_cross_entropy_with_logits_and_its_gradient(backend, dtype, rng):
    z, t = 3 * rng.normal(size=(4, 3)).astype(dtype), rng.uniform(0, 1, (4, 3)).astype(dtype)
    loss = F.binary_cross_entropy_with_logits(gp.tensor(z, backend=backend), t)
    p = scipy.special.expit(z.astype(np.float64))
    same(loss.numpy(), -(t * np.log(p) + (1 - t) * np.log1p(-p)).mean(), tolerances.ORACLE)
    check_gradients(lambda z: F.binary_cross_entropy_with_logits(z, t), [z], backend=backend, rng=rng)


def test_mean_squared_error_and_its_gradient(backend, dtype, rng):
    x, t = rng.normal(size=(4, 3)).astype(dtype), rng.normal(size=(4, 3)).astype(dtype)
    loss = F.mse_loss(gp.tensor(x, backend=backend), t)
    same(loss.numpy(), ((x.astype(np.float64) - t) ** 2).mean(), tolerances.ORACLE)
    check_gradients(F.mse_loss, [x, t], backend=backend, rng=rng)


def test_a_loss_of_many_pixels_keeps_its_precision(backend, rng):
    logits = rng.normal(size=(4, 60, 70, 5)).astype(np.float32)
    labels = rng.integers(0, 5, (4, 60, 70))
    loss = F.cross_entropy(gp.tensor(logits, backend=backend), labels).numpy()
    assert relative_error(loss, cross_entropy(logits, labels)) < 1e-5


MISTAKES = {
    "labels too large": (
        lambda z: F.cross_entropy(z, [0, 4, 1]),
        ValueError,
        "cross_entropy: labels must be from 0 to 3, got 4 at (1,)",
    ),
    "labels negative": (
        lambda z: F.cross_entropy(z, [0, 1, -1], ignore_index=-2),
        ValueError,
        "cross_entropy: labels must be from 0 to 3, got -1 at (2,)",
    ),
    "labels of floats": (
        lambda z: F.cross_entropy(z, [0.0, 1.0, 2.0]),
        TypeError,
        "cross_entropy: labels are float64 (3,) but take an array of integers (3,), or floats (3, 4)",
    ),
    "a tensor as labels": (
        lambda z: F.cross_entropy(z, z[:, :3]),
        TypeError,
        "cross_entropy: labels are a tensor of float32 (3, 3) but take an array of integers (3,), or floats (3, 4)",
    ),
    "soft labels that sum to 21": (
        lambda z: F.cross_entropy(z, [[0.1, 0.2, 0.3, 0.4], [6.0, 5.0, 4.0, 6.0], [0.0, 1.0, 0.0, 0.0]]),
        ValueError,
        "cross_entropy: soft labels must be at least 0 and sum to 1, got 0.0 to 6.0 and sums from 1 to 21",
    ),
    "negative soft labels": (
        lambda z: F.cross_entropy(z, np.array([[2.0, -1.0, 0.0, 0.0]] * 3)),
        ValueError,
        "cross_entropy: soft labels must be at least 0 and sum to 1, got -1.0 to 2.0 and sums from 1 to 1",
    ),
    "smoothing of soft labels": (
        lambda z: F.cross_entropy(z, np.eye(4)[:3], label_smoothing=5),
        ValueError,
        "cross_entropy: label_smoothing is 5 but must be from 0 to 1",
    ),
    "no soft rows": (lambda z: F.cross_entropy(z[:0], np.zeros((0, 4))), ValueError, "hold no rows"),
    "one-hot labels": (
        lambda z: F.cross_entropy(z, np.eye(4, dtype=int)[:3]),
        ValueError,
        "cross_entropy: labels have shape (3, 4) but logits (3, 4) take (3,)",
    ),
    "weight": (
        lambda z: F.cross_entropy(z, [0, 1, 2], weight=[1.0, 2.0]),
        ValueError,
        "cross_entropy: weight has shape (2,) but there are 4 classes",
    ),
    "smoothing": (
        lambda z: F.cross_entropy(z, [0, 1, 2], label_smoothing=1.5),
        ValueError,
        "cross_entropy: label_smoothing is 1.5 but must be from 0 to 1",
    ),
    "no axes": (
        lambda z: F.cross_entropy(F.sum(z), 0),
        ValueError,
        "cross_entropy: logits have shape ()",
    ),
    "no rows": (lambda z: F.cross_entropy(z[:0], np.zeros(0, int)), ValueError, "hold no rows"),
    "binary targets": (
        lambda z: F.binary_cross_entropy_with_logits(z, np.zeros((4, 3))),
        ValueError,
        "binary_cross_entropy_with_logits: target has shape (4, 3) but logits (3, 4)",
    ),
    "no elements": (
        lambda z: F.binary_cross_entropy_with_logits(z[:0], np.zeros((0, 4))),
        ValueError,
        "hold no elements",
    ),
    "mean squared error": (
        lambda z: F.mse_loss(z, np.zeros(4)),
        ValueError,
        "mse_loss: target has shape (4,) but x (3, 4)",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named_in_one_line(name, backend):
    f, kind, message = MISTAKES[name]
    with pytest.raises(kind, match=re.escape(message)) as caught:
        f(gp.tensor(np.ones((3, 4), np.float32), backend=backend))
    assert "\n" not in str(caught.value)


def focal_terms(logits, labels, gamma, alpha=None):
    p = np.exp(logits - logits.max(axis=-1, keepdims=True))
    p = np.take_along_axis(p / p.sum(axis=-1, keepdims=True), labels[..., None], axis=-1)[..., 0]
    return -(1 if alpha is None else np.asarray(alpha)[labels]) * (1 - p) ** gamma * np.log(p)


@pytest.mark.parametrize("gamma", [0, 1, 2.5])
@pytest.mark.parametrize("weighted", [False, True])
def test_focal_loss_is_its_formula(backend, dtype, rng, gamma, weighted):
    logits, labels = rng.normal(size=(3, 4, 5)), rng.integers(0, 5, (3, 4))
    alpha = rng.uniform(0.1, 1, 5) if weighted else None
    logits = logits.astype(dtype)
    found = F.focal_loss(gp.tensor(logits, backend=backend), labels, gamma=gamma, alpha=alpha)
    same(found.numpy(), focal_terms(logits.astype(float), labels, gamma, alpha).mean(), tolerances.BACKENDS)
    check_gradients(lambda z: F.focal_loss(z, labels, gamma=gamma, alpha=alpha), [logits], backend=backend, rng=rng)


@pytest.mark.parametrize("gamma", [0, 1, 2.5])
@pytest.mark.parametrize("alpha", [None, 0.25])
def test_sigmoid_focal_loss_is_that_of_two_classes(backend, dtype, rng, gamma, alpha):
    logits, targets = (3 * rng.normal(size=(6, 7))).astype(dtype), rng.integers(0, 2, (6, 7))
    two = np.stack([np.zeros_like(logits), logits], axis=-1).astype(float)
    expected = focal_terms(two, targets, gamma, None if alpha is None else [1 - alpha, alpha]).mean()
    found = F.sigmoid_focal_loss(gp.tensor(logits, backend=backend), targets, gamma=gamma, alpha=alpha)
    same(found.numpy(), expected, tolerances.BACKENDS)
    check_gradients(
        lambda z: F.sigmoid_focal_loss(z, targets, gamma=gamma, alpha=alpha), [logits], backend=backend, rng=rng
    )


@pytest.mark.parametrize("z", [0.0, 20.0, -20.0, 90.0])
def test_sigmoid_focal_loss_has_its_slope_at_0_and_its_tail(backend, z):
    """Heads that start from zeros have logits of 0, and a sure one is told from a surer one."""
    logits, targets = np.full((2, 3), z, np.float32), np.array([[0, 1, 1], [1, 0, 0]])
    sign = np.where(targets, 1.0, -1.0)
    sure, wrong = scipy.special.expit(sign * z), scipy.special.expit(-sign * z)
    minus_log_p = np.logaddexp(0, -sign * z)
    for gamma in (0, 2):
        loss, (dz,) = gradients(
            lambda z, gamma=gamma: F.sigmoid_focal_loss(z, targets, gamma=gamma, alpha=None).sum(), [logits],
            lambda s: np.ones(s), backend=backend, dtype="float32",
        )  # fmt: skip
        slopes = wrong**gamma * (-wrong - gamma * sure * minus_log_p) * sign
        np.testing.assert_allclose(loss, (wrong**gamma * minus_log_p).mean(), rtol=1e-5)
        np.testing.assert_allclose(dz, slopes / 6, rtol=1e-5, atol=1e-30)
    loss, (dz,) = gradients(
        lambda z: F.sigmoid_focal_loss(z, targets, gamma=0, alpha=None), [logits], lambda s: np.ones(s),
        backend=backend, dtype="float32",
    )  # fmt: skip
    plain, (dplain,) = gradients(
        lambda z: F.binary_cross_entropy_with_logits(z, targets), [logits], lambda s: np.ones(s),
        backend=backend, dtype="float32",
    )  # fmt: skip
    assert loss == pytest.approx(plain, rel=1e-6)
    np.testing.assert_allclose(dz, dplain, rtol=1e-6, atol=1e-8)  # the latter is a difference from 1


def test_focal_losses_of_sure_logits_are_finite(backend):
    z = gp.tensor(np.array([[200.0, -200.0], [-200.0, 200.0]], np.float32), backend=backend, requires_grad=True)
    for loss in (F.focal_loss(z, [0, 0], gamma=1.5), F.sigmoid_focal_loss(z, [[1, 0], [1, 1]])):
        z.zero_grad()
        loss.backward()
        assert np.isfinite(loss.item())
        assert np.isfinite(backend.to_numpy(z.grad)).all()


@pytest.mark.parametrize("delta", [0.3, 1.0])
def test_huber_loss_is_a_square_and_then_a_line(backend, dtype, rng, delta):
    x, target = rng.normal(size=(5, 6)).astype(dtype), rng.normal(size=(5, 6)).astype(dtype)
    d = np.abs(x.astype(float) - target)
    expected = np.where(d <= delta, d * d / 2, delta * (d - delta / 2)).mean()
    same(F.huber_loss(gp.tensor(x, backend=backend), target, delta=delta).numpy(), expected, tolerances.BACKENDS)
    check_gradients(lambda x: F.huber_loss(x, target, delta=delta), [x], backend=backend, rng=rng)


def test_the_target_of_a_huber_loss_gets_no_gradient_that_of_a_square_does(backend, rng):
    x, target = (
        gp.tensor(rng.normal(size=(4, 3)).astype(np.float32), backend=backend, requires_grad=True) for _ in range(2)
    )
    F.huber_loss(x, target).backward()
    assert x.grad is not None
    assert target.grad is None
    F.mse_loss(x, target).backward()
    assert target.grad is not None


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_soft_labels_are_mixed_hard_ones(backend, dtype, rng, smoothing):
    logits, one, other = rng.normal(size=(6, 4)).astype(dtype), rng.integers(0, 4, 6), rng.integers(0, 4, 6)
    z, share = gp.tensor(logits, backend=backend), 0.3
    soft = (share * np.eye(4)[one] + (1 - share) * np.eye(4)[other]).astype(dtype)
    parts = [F.cross_entropy(z, labels, label_smoothing=smoothing).item() for labels in (one, other)]
    for given in (soft, soft.tolist(), gp.tensor(soft, backend=backend)):
        loss = F.cross_entropy(z, given, label_smoothing=smoothing)
        same(loss.numpy(), share * parts[0] + (1 - share) * parts[1], tolerances.BACKENDS)
    check_gradients(lambda z: F.cross_entropy(z, soft, label_smoothing=smoothing), [logits], backend=backend, rng=rng)


def test_one_hot_is_made_on_the_backend(backend, rng):
    labels = rng.integers(0, 5, (3, 4))
    for given in (labels, labels.tolist(), backend.asarray(labels.astype(np.int32))):
        np.testing.assert_array_equal(F.one_hot(given, 5, backend=backend).numpy(), np.eye(5)[labels])


def test_mistakes_in_the_newer_losses_are_named(backend):
    z = gp.tensor(np.zeros((2, 3), np.float32), backend=backend)
    for call, message in (
        (lambda: F.focal_loss(z, [0, 3]), "one_hot: labels must be from 0 to 2, got 0 to 3"),
        (lambda: F.focal_loss(z, [0]), r"focal_loss: labels have shape \(1,\) but logits \(2, 3\)"),
        (lambda: F.focal_loss(z, [0, 1], gamma=-0.5), "focal_loss: gamma is -0.5 but must be at least 0"),
        (lambda: F.focal_loss(z, [0, 1], alpha=[1]), r"focal_loss: alpha has shape \(1,\) but there are 3 classes"),
        (lambda: F.sigmoid_focal_loss(z, np.zeros((2, 3)), alpha=2), "alpha is 2 but must be from 0 to 1"),
        (lambda: F.huber_loss(z, np.zeros((2, 3)), delta=0), "huber_loss: delta is 0 but must be positive"),
        (lambda: F.huber_loss(z, np.zeros(3)), r"huber_loss: target has shape \(3,\) but x \(2, 3\)"),
        (lambda: F.cross_entropy(z, z, ignore_index=1), "ignore_index takes integer labels, not soft"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
