"""Means, sums and elements of every loss, and the losses that are little else than a formula."""

import numpy as np
import pytest
import scipy.special
import tolerances
from helpers import check_gradients, gradients, host, same

import gpunet as gp
from gpunet import functional as F

RNG = np.random.default_rng(4)
LABELS, SOFT = RNG.integers(0, 4, (3, 5)), RNG.dirichlet(np.ones(4), (3, 5))
T, WEIGHT = RNG.uniform(size=(3, 5, 4)), [0.5, 2.0, 1.0, 0.25]
BOXES = np.concatenate([T[0, :, :2], T[0, :, :2] + 0.3 + T[1, :, :2]], axis=1)
LOSSES = {
    "softmax_cross_entropy": (lambda z, **o: F.cross_entropy(z, LABELS, **o), (3, 5, 4), (3, 5)),
    "of soft labels": (lambda z, **o: F.cross_entropy(z, SOFT, label_smoothing=0.2, **o), (3, 5, 4), (3, 5)),
    "soft and weighted": (lambda z, **o: F.cross_entropy(z, SOFT, weight=WEIGHT, **o), (3, 5, 4), (3, 5)),
    "nll_loss": (lambda z, **o: F.nll_loss(z, LABELS, **o), (3, 5, 4), (3, 5)),
    "binary": (lambda z, **o: F.binary_cross_entropy_with_logits(z, T, **o), (3, 5, 4), (3, 5, 4)),
    "kl_div": (lambda z, **o: F.kl_div(z, T, **o), (3, 5, 4), (3, 5, 4)),
    "kl_div of logarithms": (lambda z, **o: F.kl_div(z, np.log(T), log_target=True, **o), (3, 5, 4), (3, 5, 4)),
    "mse_loss": (lambda x, **o: F.mse_loss(x, T, **o), (3, 5, 4), (3, 5, 4)),
    "l1_loss": (lambda x, **o: F.l1_loss(x, T, **o), (3, 5, 4), (3, 5, 4)),
    "huber_loss": (lambda x, **o: F.huber_loss(x, T, delta=0.4, **o), (3, 5, 4), (3, 5, 4)),
    "smooth_l1_loss": (lambda x, **o: F.smooth_l1_loss(x, T, beta=0.4, **o), (3, 5, 4), (3, 5, 4)),
    "smooth_l1_loss of 0": (lambda x, **o: F.smooth_l1_loss(x, T, beta=0, **o), (3, 5, 4), (3, 5, 4)),
    "focal_loss": (lambda z, **o: F.focal_loss(z, LABELS, gamma=0.7, alpha=WEIGHT, **o), (3, 5, 4), (3, 5)),
    "focal_loss of soft labels": (lambda z, **o: F.focal_loss(z, SOFT, alpha=WEIGHT, **o), (3, 5, 4), (3, 5)),
    "sigmoid_focal_loss": (lambda z, **o: F.sigmoid_focal_loss(z, T, gamma=0.7, **o), (3, 5, 4), (3, 5, 4)),
    "dice_loss": (lambda p, **o: F.dice_loss(p, T[..., None], **o), (3, 5, 4, 1), (3, 1)),
    "iou_loss": (lambda b, **o: F.iou_loss(b * [0.1, 0.1, 0.1, 0.1] + BOXES, BOXES, **o), (5, 4), (5,)),
    "giou_loss": (lambda b, **o: F.giou_loss(b * [0.1, 0.1, 0.1, 0.1] + BOXES, BOXES, **o), (5, 4), (5,)),
    "contrastive_loss": (lambda x, **o: F.contrastive_loss(x, x * 0.3, [0, 1, 1, 0], **o), (4, 5), (4,)),
    "triplet_loss": (lambda x, **o: F.triplet_loss(x, x * 0.3, x * x, **o), (4, 5), (4,)),
    "all_pairs_loss": (lambda x, **o: F.all_pairs_loss(x, 2, **o), (6, 5), (2, 3)),
}  # fmt: skip
COUNTED = {"ignored": {"ignore_index": 2}, "weighted": {"weight": WEIGHT, "ignore_index": 1}}


def inputs_of(name, rng):
    return rng.normal(size=LOSSES[name][1])


@pytest.mark.parametrize("name", LOSSES)
def test_means_and_sums_are_those_of_the_elements(backend, dtype, rng, name):
    f, _, shape = LOSSES[name]
    x = gp.tensor(inputs_of(name, rng).astype(dtype), backend=backend)
    terms = f(x, reduction="none")
    assert terms.shape == shape
    same(f(x, reduction="sum").numpy(), terms.numpy().sum(), tolerances.BACKENDS)
    for mean in (f(x), f(x, reduction="mean")):
        assert mean.shape == ()
        same(mean.numpy(), terms.numpy().mean(), tolerances.BACKENDS)
    with pytest.raises(ValueError, match="reduction is 'average' but takes 'mean', 'sum'.* or 'none'|'batchmean'"):
        f(x, reduction="average")


@pytest.mark.parametrize("reduction", ["sum", "none"])
@pytest.mark.parametrize("name", LOSSES)
def test_gradients_of_sums_and_elements(backend, rng, name, reduction):
    check_gradients(lambda x: LOSSES[name][0](x, reduction=reduction), [inputs_of(name, rng)], backend=backend, rng=rng)


@pytest.mark.parametrize("rows", [15, 2100])
@pytest.mark.parametrize("name", COUNTED)
@pytest.mark.parametrize("of_logits", [True, False])
def test_ignored_rows_are_0_and_the_mean_is_over_the_weights(backend, dtype, rng, rows, name, of_logits):
    options, labels = COUNTED[name], rng.integers(0, 4, rows)
    x = rng.normal(size=(rows, 4)).astype(dtype)
    x = x if of_logits else scipy.special.log_softmax(x, axis=1)
    loss = F.cross_entropy if of_logits else F.nll_loss
    weights = np.asarray(options.get("weight", np.ones(4)))[labels] * (labels != options["ignore_index"])
    expected = -weights * scipy.special.log_softmax(x.astype(float), axis=1)[np.arange(rows), labels]
    upstream = rng.normal(size=rows)
    terms, (dx,) = gradients(
        lambda z: loss(z, labels, reduction="none", **options), [x], lambda shape: upstream.astype(dtype),
        backend=backend, dtype=dtype,
    )  # fmt: skip
    same(terms, expected, tolerances.BACKENDS)
    p = scipy.special.softmax(x.astype(float), axis=1) if of_logits else 0
    same(dx, (weights * upstream)[:, None] * (p - np.eye(4)[labels]), tolerances.BACKENDS)
    z = gp.tensor(x, backend=backend)
    same(loss(z, labels, reduction="sum", **options).numpy(), expected.sum(), tolerances.BACKENDS)
    same(loss(z, labels, **options).numpy(), expected.sum() / weights.sum(), tolerances.BACKENDS)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", ["cross_entropy", "nll_loss"])
def test_a_label_on_a_device_that_is_no_class_is_not_hidden(cuda_backend, name, reduction):
    loss = getattr(F, name)
    for rows in (3, 2100):
        labels = np.zeros(rows, np.int32)
        labels[1] = 7
        z = gp.tensor(np.zeros((rows, 3), np.float32), backend=cuda_backend)
        found = loss(z, cuda_backend.asarray(labels), reduction=reduction).numpy()
        assert np.isnan(found.reshape(-1)[min(1, found.size - 1)])


def test_kl_div_is_the_divergence_over_the_batch(backend, dtype, rng):
    p, q = (rng.dirichlet(np.ones(6), 4) for _ in range(2))
    p[0, 2] = 0
    log_q = gp.tensor(np.log(q).astype(dtype), backend=backend)
    expected = scipy.special.rel_entr(p, q)
    same(F.kl_div(log_q, p, reduction="none").numpy(), expected, tolerances.BACKENDS)
    same(F.kl_div(log_q, p, reduction="batchmean").numpy(), expected.sum() / 4, tolerances.BACKENDS)
    with np.errstate(divide="ignore"):
        of_logs = F.kl_div(log_q, np.log(p), log_target=True, reduction="none")
    same(of_logs.numpy(), expected, tolerances.BACKENDS)
    masked = gp.tensor([[-np.inf, 0.0]], backend=backend, requires_grad=True)  # a class that neither has
    loss = F.kl_div(masked, [[0.0, 1.0]], reduction="batchmean")
    loss.backward()
    assert loss.item() == 0
    np.testing.assert_array_equal(host(masked.grad, backend), [[0, -1]])


@pytest.mark.parametrize("gamma", [0, 0.5, 2])
def test_focal_loss_of_soft_targets_is_its_formula(backend, dtype, rng, gamma):
    z, t = (2 * rng.normal(size=(6, 7))).astype(dtype), rng.uniform(size=(6, 7))
    t[0] = 0.3
    p = scipy.special.expit(z.astype(float))
    loss = -(t * np.log(p) + (1 - t) * np.log1p(-p)) * (1 - (t * p + (1 - t) * (1 - p))) ** gamma
    found = F.sigmoid_focal_loss(gp.tensor(z, backend=backend), t.astype(dtype), gamma=gamma, alpha=0.7)
    same(found.numpy(), ((0.7 * t + 0.3 * (1 - t)) * loss).mean(), {"float64": 1e-12, "float32": 1e-6})
    logits, soft = (2 * rng.normal(size=(6, 4))).astype(dtype), rng.dirichlet(np.ones(4), 6)
    log_p = scipy.special.log_softmax(logits.astype(float), axis=1)
    found = F.focal_loss(gp.tensor(logits, backend=backend), soft.astype(dtype), gamma=gamma)
    expected = -(soft * (1 - np.exp(log_p)) ** gamma * log_p).sum(axis=1).mean()
    same(found.numpy(), expected, {"float64": 1e-12, "float32": 1e-6})


def test_class_weights_of_soft_labels_do_not_change_the_divisor(backend, dtype, rng):
    z = rng.normal(size=(6, 4)).astype(dtype)
    soft = rng.dirichlet(np.ones(4), 6)
    expected = -(soft * WEIGHT * scipy.special.log_softmax(z.astype(float), axis=1)).sum(axis=1)
    found = F.cross_entropy(gp.tensor(z, backend=backend), soft, weight=WEIGHT)
    same(found.numpy(), expected.mean(), {"float64": 1e-12, "float32": 1e-6})


def test_a_loss_of_nothing_says_so_and_sums_to_0(backend):
    x = gp.tensor(np.zeros((0, 4), np.float32), backend=backend, requires_grad=True)
    nothing, labels = np.zeros((0, 4), np.float32), np.zeros(0, int)
    for loss, target in (
        (F.mse_loss, nothing), (F.l1_loss, nothing), (F.huber_loss, nothing), (F.smooth_l1_loss, nothing),
        (F.binary_cross_entropy_with_logits, nothing), (F.kl_div, nothing), (F.cross_entropy, labels),
        (F.cross_entropy, nothing), (F.nll_loss, labels), (F.sigmoid_focal_loss, nothing),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"{loss.__name__}: .*(no elements|no rows)"):
            loss(x, target)
        total = loss(x, target, reduction="sum")
        assert total.item() == 0
        x.zero_grad()
        total.backward()
        assert x.grad is None or x.grad.shape == (0, 4)
        assert loss(x, target, reduction="none").shape[0] == 0


def test_mistakes_in_the_plain_losses_are_named(backend):
    z = gp.tensor(np.zeros((2, 3), np.float32), backend=backend)
    for call, error, message in (
        (lambda: F.smooth_l1_loss(z, z, beta=-1), ValueError, "smooth_l1_loss: beta is -1 but must be at least 0"),
        (lambda: F.l1_loss(z, [0, 1]), ValueError, r"l1_loss: target has shape \(2,\) but x \(2, 3\)"),
        (lambda: F.nll_loss(z, [0, 3]), ValueError, r"nll_loss: labels must be from 0 to 2, got 3 at \(1,\)"),
        (lambda: F.nll_loss(z, np.eye(3)[:2]), TypeError, r"nll_loss: labels are float64 \(2, 3\) but take an array"),
        (lambda: F.nll_loss(z, [0, 1], weight=[1, -1, 1]), ValueError, "nll_loss: weights must be finite and not neg"),
        (lambda: F.kl_div(z, [0, 1]), ValueError, r"kl_div: target has shape \(2,\) but log_q \(2, 3\)"),
        (lambda: F.kl_div(z, -np.ones((2, 3))), ValueError, "kl_div: target must be at least 0, got -1.0; pass log_"),
        (
            lambda: F.binary_cross_entropy_with_logits(z, z.numpy() + 2),
            ValueError,
            "target must be from 0 to 1, got 2.0",
        ),
        (
            lambda: F.cross_entropy(z, [0, 1], weight=[1, -1, 1]),
            ValueError,
            "weights must be finite and not neg",
        ),
        (lambda: F.focal_loss(z, -np.ones((2, 3))), ValueError, "focal_loss: soft labels must be at least 0, got -1"),
    ):
        with pytest.raises(error, match=message):
            call()
