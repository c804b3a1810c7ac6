"""Losses and their reductions in float32 beside PyTorch's, both measured against PyTorch in float64."""

import numpy as np
import pytest
from test_torch_operations import check

from gpunet import functional as F

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity
tf = torch.nn.functional
WEIGHT = [0.3, 2.0, 1.0, 0.1, 0.0, 1.0, 5.0]


def like(array, z):
    return torch.tensor(array, dtype=z.dtype)


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides:UserWarning")  # kl_div, until it means "batchmean"
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_losses_and_their_reductions(backend, rng, reduction):
    target = rng.uniform(0.05, 1, (20, 7)).astype(np.float32)
    soft = rng.dirichlet(np.ones(7), 20).astype(np.float32)
    labels = rng.integers(0, 7, 20)
    labels[[3, 8]] = -100
    r, both = {"reduction": reduction}, torch.tensor(labels)
    pairs = [
        (lambda x: F.l1_loss(x, target, **r), lambda x: tf.l1_loss(x, like(target, x), **r)),
        (lambda x: F.mse_loss(x, target, **r), lambda x: tf.mse_loss(x, like(target, x), **r)),
        (lambda x: F.smooth_l1_loss(x, target, beta=0.3, **r), lambda x: tf.smooth_l1_loss(x, like(target, x), beta=0.3, **r)),
        (lambda x: F.huber_loss(x, target, delta=0.3, **r), lambda x: tf.huber_loss(x, like(target, x), delta=0.3, **r)),
        (
            lambda z: F.binary_cross_entropy_with_logits(z, target, **r),
            lambda z: tf.binary_cross_entropy_with_logits(z, like(target, z), **r),
        ),
        (lambda z: F.kl_div(z, soft, **r), lambda z: tf.kl_div(z, like(soft, z), **r)),
        (
            lambda z: F.kl_div(z, np.log(target), log_target=True, **r),
            lambda z: tf.kl_div(z, like(np.log(target), z), log_target=True, **r),
        ),
        (
            lambda z: F.cross_entropy(z, soft, weight=WEIGHT, label_smoothing=0.2, **r),
            lambda z: tf.cross_entropy(z, like(soft, z), weight=like(WEIGHT, z), label_smoothing=0.2, **r),
        ),
        (
            lambda z: F.cross_entropy(z, labels, weight=WEIGHT, ignore_index=-100, label_smoothing=0.2, **r),
            lambda z: tf.cross_entropy(z, both, weight=like(WEIGHT, z), label_smoothing=0.2, **r),
        ),
        (
            lambda z: F.nll_loss(z, labels, weight=WEIGHT, ignore_index=-100, **r),
            lambda z: tf.nll_loss(z, both, weight=like(WEIGHT, z), **r),
        ),
    ]  # fmt: skip
    for ours, theirs in pairs:
        check(ours, theirs, [3 * rng.normal(size=(20, 7))], backend, rng)


def test_divergence_over_a_batch_and_gradients_of_both_sides(backend, rng):
    soft = rng.dirichlet(np.ones(7), 20).astype(np.float32)
    check(
        lambda z: F.kl_div(z, soft, reduction="batchmean"),
        lambda z: tf.kl_div(z, like(soft, z), reduction="batchmean"), [rng.normal(size=(20, 7))], backend, rng,
    )  # fmt: skip
    both = [rng.normal(size=(20, 7)), rng.normal(size=(20, 7))]
    check(F.l1_loss, tf.l1_loss, both, backend, rng)
    check(
        lambda x, t: F.smooth_l1_loss(x, t, beta=0.5),
        lambda x, t: tf.smooth_l1_loss(x, t, beta=0.5),
        both,
        backend,
        rng,
    )


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (F.elu, tf.elu), (F.sigmoid, torch.sigmoid), (F.tanh, torch.tanh), (F.gelu, tf.gelu), (F.silu, tf.silu),
        (F.softplus, tf.softplus), (F.hard_swish, tf.hardswish), (F.hard_sigmoid, tf.hardsigmoid), (F.relu6, tf.relu6),
    ],
)  # fmt: skip
def test_activations_far_from_zero(backend, rng, ours, theirs):
    check(ours, theirs, [rng.normal(size=500) * 10.0 ** rng.integers(-8, 2, 500)], backend, rng)
