"""Nets that are translated to PyTorch compute the same."""

import numpy as np
import pytest
import tolerances
from helpers import relative_error

import gpunet as gp
from gpunet import models, nn
from gpunet.bench.translate import to_torch
from gpunet.models.fast_cifar import Scaled

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity


def nets():
    conv = {"padding": "same", "activation": "relu"}
    yield "nested, strided, grouped, dilated", nn.Sequential(
        nn.Conv2d(4, 6, (3, 5), padding=(1, 2), stride=(2, 1), groups=2, activation="leaky_relu"),
        nn.Sequential(nn.Conv2d(6, 8, 3, dilation=2, bias=False), nn.Tanh()),
        nn.MaxPool2d(3, stride=2, padding=1), nn.Flatten(), nn.Linear(8 * 2 * 4, 5, activation="sigmoid"),
        nn.Linear(5, 3, bias=False), nn.LeakyReLU(0.2),
    ), (16, 11, 4)  # fmt: skip
    yield "batch norm, branches, a pool of the layer's own", Scaled(
        nn.Conv2d(3, 8, 3, padding="same", bias=False, pool=2), nn.BatchNorm2d(8, activation="relu", momentum=0.3),
        nn.Residual(nn.Conv2d(8, 8, 3, **conv), nn.Conv2d(8, 8, 1), nn.GELU()),
        nn.Residual(nn.Residual(nn.ReLU())), nn.BatchNorm2d(8, affine=False, eps=1e-3), nn.Sigmoid(),
        nn.Flatten(), nn.Linear(8 * 3 * 4, 6), nn.BatchNorm2d(6), factor=0.25,
    ), (6, 8, 3)  # fmt: skip
    yield "other activations and norms", nn.Sequential(
        nn.Conv2d(3, 8, 3, activation="elu"), nn.GroupNorm(2, 8), nn.SiLU(), nn.Conv2d(8, 8, 1), nn.ReLU6(), nn.PReLU(8),
        nn.GroupNorm(4, 8, affine=False), nn.Softplus(2.0), nn.HardSwish(), nn.Flatten(), nn.Linear(8 * 4 * 6, 6), nn.ELU(0.5),
        nn.HardTanh(-0.4, 0.6), nn.Linear(6, 4), nn.HardSigmoid(), nn.PReLU(), nn.Linear(4, 3, activation="hard_sigmoid"),
    ), (6, 8, 3)  # fmt: skip
    yield "speedrun", models.speedrun((17, 17, 3)), (17, 17, 3)


@pytest.mark.parametrize(("name", "model", "shape"), list(nets()), ids=[name for name, _, _ in nets()])
@pytest.mark.parametrize("training", [True, False])
def test_a_translated_net_computes_the_same(rng, name, model, shape, training):
    for _, p in model.named_parameters():  # nothing at its start: not a bias of 0, not a scale of 1
        p.data = p.data + rng.normal(size=p.shape).astype(np.float32) / 10
    for _, buffer in model.named_buffers():
        buffer.data = buffer.data + rng.uniform(size=buffer.shape).astype(np.float32) / 10
    theirs = to_torch(model, shape).train(training)
    model.train(training)
    x = rng.normal(size=(5, *shape)).astype(np.float32)
    with gp.no_grad(), torch.no_grad():
        ours = model(x).numpy()
        assert relative_error(theirs(torch.tensor(x.transpose(0, 3, 1, 2).copy())).numpy(), ours) < tolerances.TORCH


def test_frozen_parameters_are_frozen_in_pytorch_too():
    model = models.speedrun((17, 17, 3))
    frozen = sum(not p.requires_grad for p in model.parameters())
    assert frozen == sum(not p.requires_grad for p in to_torch(model, (17, 17, 3)).parameters()) > 0


class Own(nn.Sequential):
    """A layer whose forward pass is not known."""


@pytest.mark.parametrize(
    "layer",
    [
        nn.Dropout(0.5),
        nn.AvgPool2d(2),
        nn.Conv2d(3, 4, 2, padding="same"),
        nn.MaxPool2d(2, padding=((0, 1), (0, 1))),
        Own(),
    ],
)
def test_a_layer_without_translation_is_named(layer):
    with pytest.raises(ValueError, match=f"to_torch: {type(layer).__name__}.* is not translated"):
        to_torch(nn.Sequential(layer), (8, 8, 3))
