"""Batches of no samples: empty results of the right shape, gradients of zeros, forward and backward, on every backend."""

import numpy as np
import pytest
from helpers import host

import gpunet as gp
from gpunet import functional as F
from gpunet import nn, optim

IMAGES = (6, 7, 4)
ROWS = (5,)
LAYERS = {
    "conv": (lambda: nn.Conv2d(4, 8, 3, padding="same"), IMAGES),
    "conv of one image's channels": (lambda: nn.Conv2d(4, 3, (2, 3), stride=2, activation="tanh", pool=None), IMAGES),
    "strided conv": (lambda: nn.Conv2d(16, 16, 2, stride=2, groups=2, bias=False), (6, 8, 16)),
    "pooled conv": (lambda: nn.Conv2d(4, 8, 3, padding=1, activation="relu", pool=2), IMAGES),
    "pointwise conv": (lambda: nn.Conv2d(4, 8, 1, activation="relu"), IMAGES),
    "depthwise conv": (lambda: nn.Conv2d(4, 4, 3, groups=4), IMAGES),
    "transposed conv": (lambda: nn.ConvTranspose2d(4, 6, 2, stride=2), IMAGES),
    "locally connected": (lambda: nn.LocallyConnected2d(IMAGES, 3, 2), IMAGES),
    "linear": (lambda: nn.Linear(5, 3, activation="sigmoid"), ROWS),
    "linear over two axes": (lambda: nn.Linear(4, 3), IMAGES),
    "max pool": (lambda: nn.MaxPool2d(2), IMAGES),
    "overlapping max pool": (lambda: nn.MaxPool2d(3, stride=2, padding=1), IMAGES),
    "average pool": (lambda: nn.AvgPool2d(3, stride=1, padding="same"), IMAGES),
    "adaptive average": (lambda: nn.AdaptiveAvgPool2d((4, 3)), IMAGES),
    "adaptive max": (lambda: nn.AdaptiveMaxPool2d((4, 3)), IMAGES),
    "global average": (nn.GlobalAvgPool2d, IMAGES),
    "global max": (nn.GlobalMaxPool2d, IMAGES),
    "upsampling": (lambda: nn.Upsample2d(2, mode="bilinear"), IMAGES),
    "zero padding": (lambda: nn.ZeroPad2d(2), IMAGES),
    "reflection": (lambda: nn.ReflectionPad2d(2), IMAGES),
    "replication": (lambda: nn.ReplicationPad2d(((0, 1), (2, 3))), IMAGES),
    "group norm": (lambda: nn.GroupNorm(2, 4), IMAGES),
    "layer norm": (lambda: nn.LayerNorm((7, 4)), IMAGES),
    "layer norm of rows": (lambda: nn.LayerNorm(5), ROWS),
    "dropout": (lambda: nn.Dropout(0.5), IMAGES),
    "channel dropout": (lambda: nn.Dropout2d(0.5), IMAGES),
    "noise": (lambda: nn.GaussianNoise(0.5), IMAGES),
    "flatten": (nn.Flatten, IMAGES),
    "prelu": (lambda: nn.PReLU(4), IMAGES),
    "softmax": (nn.Softmax, ROWS),
    "log softmax": (nn.LogSoftmax, ROWS),
    "gelu": (nn.GELU, IMAGES),
    "elu": (nn.ELU, IMAGES),
    "hard tanh": (nn.HardTanh, IMAGES),
    "residual": (lambda: nn.Residual(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()), IMAGES),
    "concat": (lambda: nn.Concat(nn.Conv2d(4, 3, 1), nn.Identity()), IMAGES),
}  # fmt: skip
"""Layers, and the shape of one sample."""


def cnn():
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, padding="same"), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.5), nn.Conv2d(8, 8, 3), nn.GroupNorm(2, 8),
        nn.SiLU(), nn.GlobalAvgPool2d(), nn.Flatten(), nn.Linear(8, 3),
    )  # fmt: skip


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", [*LAYERS, "cnn"])
def test_a_layer_takes_a_batch_of_nothing(backend, rng, name, training):
    make, sample = LAYERS.get(name, (cnn, IMAGES))
    layer = make().train(training).to(backend)
    held = optim.SGD(layer.parameters(), lr=1.0) if list(layer.parameters()) else None
    full = gp.tensor(rng.normal(size=(2, *sample)).astype(np.float32), backend=backend, requires_grad=True)
    y = layer(full)
    y.backward(gp.tensor(rng.normal(size=y.shape).astype(np.float32), backend=backend))  # stale gradients in the arena
    if held is not None:
        held.zero_grad()
    x = gp.tensor(np.zeros((0, *sample), np.float32), backend=backend, requires_grad=True)
    empty = layer(x)
    assert empty.shape == (0, *y.shape[1:])
    assert empty.dtype == y.dtype
    empty.backward(gp.tensor(np.zeros(empty.shape, np.float32), backend=backend))
    assert x.grad.shape == x.shape
    for parameter in layer.parameters():
        np.testing.assert_array_equal(host(parameter.grad, backend), np.zeros(parameter.shape, np.float32))


@pytest.mark.parametrize("name", ["conv", "pooled conv", "pointwise conv", "depthwise conv", "locally connected", "linear",
                                  "group norm", "transposed conv", "prelu"])  # fmt: skip
def test_nothing_is_added_to_a_gradient(backend, rng, name):
    make, sample = LAYERS[name]
    layer = make().to(backend)
    optim.SGD(layer.parameters(), lr=1.0)
    for count in (2, 0):
        y = layer(gp.tensor(rng.normal(size=(count, *sample)).astype(np.float32), backend=backend))
        y.backward(gp.tensor(np.ones(y.shape, np.float32), backend=backend))
        if count:
            before = [host(p.grad, backend).copy() for p in layer.parameters()]
    assert all(np.abs(g).max() > 0 for g in before)
    for expected, parameter in zip(before, layer.parameters(), strict=True):
        np.testing.assert_array_equal(host(parameter.grad, backend), expected)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("sample", [IMAGES, (4,)])
def test_batch_norm_of_nothing_leaves_the_running_moments(backend, training, sample):
    layer = nn.BatchNorm2d(4, activation="relu").train(training).to(backend)
    optim.SGD(layer.parameters(), lr=1.0)
    x = gp.tensor(np.zeros((0, *sample), np.float32), backend=backend, requires_grad=True)
    y = layer(x)
    y.backward(gp.tensor(np.zeros(y.shape, np.float32), backend=backend))
    assert y.shape == x.shape
    for parameter in layer.parameters():
        np.testing.assert_array_equal(host(parameter.grad, backend), 0)
    np.testing.assert_array_equal(host(layer.running_mean.data, backend), 0)
    np.testing.assert_array_equal(host(layer.running_var.data, backend), 1)


@pytest.mark.parametrize(
    "loss",
    [
        lambda x: F.cross_entropy(x, np.zeros(0, int)),
        lambda x: F.cross_entropy(x, np.zeros((0, 3), np.float32)),
        lambda x: F.binary_cross_entropy_with_logits(x, np.zeros((0, 3), np.float32)),
        lambda x: F.mse_loss(x, np.zeros((0, 3), np.float32)),
        lambda x: F.huber_loss(x, np.zeros((0, 3), np.float32)),
        lambda x: F.focal_loss(x, np.zeros(0, int)),
        lambda x: F.dice_loss(x.reshape(0, 1, 1, 3), np.zeros((0, 1, 1, 3), np.float32)),
        lambda x: F.contrastive_loss(x, x, np.zeros(0, np.float32)),
        lambda x: F.triplet_loss(x, x, x),
        lambda x: F.giou_loss(x.reshape(0, 4), np.zeros((0, 4), np.float32)),
    ],
)
def test_the_loss_of_nothing_says_so(backend, loss):
    x = gp.tensor(np.zeros((0, 3), np.float32), backend=backend, requires_grad=True)
    with pytest.raises(ValueError, match=r"^\w+: .* (hold no|holds no)"):
        loss(x)


def test_reductions_of_nothing(backend):
    x = gp.tensor(np.zeros((0, 3), np.float32), backend=backend, requires_grad=True)
    np.testing.assert_array_equal(x.sum(axis=0).numpy(), np.zeros(3, np.float32))
    assert x.sum().numpy() == 0
    assert x.sum(axis=1).shape == x.max(axis=1).shape == x.mean(axis=1).shape == (0,)
    with pytest.raises(ValueError, match=r"max: .*no elements"):
        x.max(axis=0)
    with pytest.raises(ValueError, match=r"mean: axes \(0,\) of shape \(0, 3\) hold no elements"):
        x.mean(axis=0)
    (x.sum(axis=0) * 2 + x.mean(axis=1).sum()).sum().backward()
    assert x.grad.shape == (0, 3)


@pytest.mark.parametrize(
    ("operation", "shape"),
    [
        (lambda x: F.conv2d(x, np.ones((1, 1, x.shape[3], 2), np.float32)), (2, 0, 3, 4)),
        (lambda x: F.conv2d(x, np.ones((1, 1, x.shape[3], 2), np.float32)), (2, 3, 3, 0)),
        (lambda x: F.max_pool2d(x, 1), (2, 3, 0, 4)),
        (lambda x: F.adaptive_avg_pool2d(x, 1), (2, 3, 0, 4)),
        (lambda x: F.pad2d(x, 1), (0, 3, 3, 0)),
        (lambda x: F.group_norm(x, 1), (2, 3, 0)),
        (lambda x: F.layer_norm(x, 0), (2, 0)),
        (lambda x: F.softmax(x), (2, 0)),
    ],
)
def test_other_empty_extents_are_refused(backend, operation, shape):
    x = gp.tensor(np.zeros(shape, np.float32), backend=backend)
    with pytest.raises(ValueError, match=r"^\w+: .*(at least 1|empty|elements|classes)"):
        operation(x)
