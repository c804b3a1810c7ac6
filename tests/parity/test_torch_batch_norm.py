"""Batch normalisation and the nets that need it beside PyTorch's: values, gradients, running moments, parameter counts."""

import numpy as np
import pytest
import tolerances
from helpers import host, relative_error

import gpunet as gp
from gpunet import functional as F
from gpunet import models, nn, optim

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity


def channels_first(a):
    return np.ascontiguousarray(np.moveaxis(a, -1, 1))


def run_torch(arrays, dtype, training, activation, eps, momentum):
    x, weight, bias, mean, variance, residual, dy = (
        torch.tensor(channels_first(a) if a.ndim > 1 else a, dtype=dtype) for a in arrays
    )
    leaves = [t.requires_grad_(True) for t in (x, weight, bias, residual)]
    y = torch.nn.functional.batch_norm(x, mean, variance, weight, bias, training, momentum, eps) + residual
    y = y if activation is None else getattr(torch, activation)(y)
    y.backward(dy)
    out = [y.detach(), *(t.grad for t in leaves), mean, variance]
    return [np.moveaxis(t.numpy(), 1, -1) if t.ndim > 1 else t.numpy() for t in out]


@pytest.mark.parametrize("shape", [(8, 9, 7, 5), (4, 16, 15, 32), (30, 17)], ids=str)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("activation", [None, "relu", "tanh"])
def test_values_gradients_and_running_moments(backend, rng, shape, training, activation):
    c = shape[-1]
    arrays = [
        3 * rng.normal(size=shape) + 1, rng.normal(size=c), rng.normal(size=c), rng.normal(size=c),
        rng.uniform(0.5, 2, c), rng.normal(size=shape), rng.normal(size=shape),
    ]  # fmt: skip
    arrays = [a.astype(np.float32) for a in arrays]
    options = {"eps": 1e-3, "momentum": 0.3}
    exact, single = (
        run_torch([a.copy() for a in arrays], dtype, training, activation, **options)
        for dtype in (torch.float64, torch.float32)
    )
    x, weight, bias, mean, variance, residual = (
        gp.tensor(a.copy(), backend=backend, requires_grad=i not in (3, 4)) for i, a in enumerate(arrays[:6])
    )
    y = F.batch_norm(
        x, mean, variance, weight, bias, training=training, activation=activation, residual=residual, **options
    )
    y.backward(arrays[6])
    got = [y.numpy(), *(host(t.grad, backend) for t in (x, weight, bias, residual)), mean.numpy(), variance.numpy()]
    for name, a, torch32, torch64 in zip(
        ("y", "dx", "dw", "db", "dresidual", "running mean", "running variance"), got, single, exact, strict=True
    ):
        allowed = max(tolerances.TORCH, tolerances.TORCH_FACTOR * relative_error(torch32, torch64))
        assert relative_error(a, torch64) <= allowed, name


def to_torch(layer):
    """PyTorch's layer with our values; images are (N, C, H, W) there."""

    class Add(torch.nn.Sequential):
        def forward(self, x):
            return x + super().forward(x)

    made = None
    match layer:
        case nn.Residual():
            return Add(*map(to_torch, layer))
        case nn.Sequential():
            return torch.nn.Sequential(*map(to_torch, layer))
        case nn.Conv2d():
            kh, kw, c, o = layer.weight.shape
            made = torch.nn.Conv2d(c, o, (kh, kw), padding="same", bias=layer.bias is not None)
            made.weight.data = torch.tensor(layer.weight.numpy().transpose(3, 2, 0, 1).copy())
        case nn.BatchNorm2d():
            made = torch.nn.BatchNorm2d(layer.running_mean.size, eps=layer.eps, momentum=layer.momentum)
            made.weight.data = torch.tensor(layer.weight.numpy().copy())
        case nn.Linear():
            made = torch.nn.Linear(*layer.weight.shape)
            made.weight.data = torch.tensor(layer.weight.numpy().T.copy())
        case nn.MaxPool2d():
            return torch.nn.MaxPool2d(layer.kernel_size)
        case nn.Flatten():  # what is left is one pixel, so the order of axes is the same
            return torch.nn.Flatten()
    if layer.bias is not None:
        made.bias.data = torch.tensor(layer.bias.numpy().copy())
    return made if layer.activation is None else torch.nn.Sequential(made, torch.nn.ReLU())


@pytest.mark.parametrize(
    "make", [models.resnet9, models.vgg11, lambda: models.vgg11(batch_norm=False)], ids=["resnet9", "vgg11_bn", "vgg11"]
)
def test_models_have_the_parameters_of_pytorchs(make):
    model = make()
    theirs = to_torch(model)
    assert sum(p.numel() for p in theirs.parameters()) == sum(p.size for p in model.parameters())
    x = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    with torch.no_grad():
        expected = theirs.eval()(torch.tensor(channels_first(x))).numpy()
    assert relative_error(model.eval()(x).numpy(), expected) < tolerances.TORCH


def test_20_steps_of_a_small_resnet_are_pytorchs(backend, rng):
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding="same", bias=False), nn.BatchNorm2d(8, activation="relu"), nn.MaxPool2d(2),
        nn.Residual(nn.Conv2d(8, 8, 3, padding="same", bias=False), nn.BatchNorm2d(8, activation="relu")),
        nn.MaxPool2d(4), nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip
    theirs = to_torch(model)
    model.to(backend)
    x, labels = rng.normal(size=(16, 8, 8, 3)).astype(np.float32), rng.integers(0, 4, 16)
    there = torch.tensor(channels_first(x)), torch.tensor(labels)
    ours, other = (
        optim.SGD(model.parameters(), lr=0.05, momentum=0.9),
        torch.optim.SGD(theirs.parameters(), lr=0.05, momentum=0.9),
    )
    for step in range(20):
        for optimizer in (ours, other):
            optimizer.zero_grad()
        loss = F.cross_entropy(model(x), labels)
        expected = torch.nn.functional.cross_entropy(theirs(there[0]), there[1])
        loss.backward()
        expected.backward()
        ours.step()
        other.step()
        assert loss.item() == pytest.approx(expected.item(), rel=tolerances.TORCH_LOSS_CURVE), step
    running = [a.numpy() for name, a in theirs.named_buffers() if "running" in name]
    for (name, buffer), a in zip(model.named_buffers(), running, strict=True):
        assert relative_error(buffer.numpy(), a) < tolerances.TORCH_LOSS_CURVE, name
    model.eval(), theirs.eval()
    assert relative_error(model(x).numpy(), theirs(there[0]).detach().numpy()) < tolerances.TORCH_LOSS_CURVE
