"""ONNX files that PyTorch writes, by both of its exporters, become models with PyTorch's outputs and gradients."""

import logging
import warnings

import numpy as np
import pytest
import tolerances
from helpers import relative_error

import gpunet as gp
from gpunet import functional as F

torch = pytest.importorskip("torch")
pytest.importorskip("onnx", reason="onnx is not installed")
from gpunet.interop.onnx import load  # noqa: E402 - after the checks

pytestmark = pytest.mark.parity
EXPORTERS = ("script", "dynamo")


class Bottleneck(torch.nn.Module):
    """Depthwise convolution, channels weighed by their means, a residual: as in MobileNetV3 and EfficientNet."""

    def __init__(self):
        super().__init__()
        nn = torch.nn
        self.expand, self.deep = nn.Conv2d(4, 12, 1), nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.squeeze, self.excite = nn.Linear(12, 3), nn.Linear(3, 12)
        self.project, self.act = nn.Conv2d(12, 4, 1, bias=False), nn.Hardswish()

    def forward(self, x):
        h = self.act(self.deep(self.act(self.expand(x))))
        weights = torch.nn.functional.hardsigmoid(self.excite(self.squeeze(h.mean((2, 3))).relu()))
        return x + self.project(h * weights[:, :, None, None])


class Shuffle(torch.nn.Module):
    """Groups of channels exchanged, as in ShuffleNet, and joined with the rest."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(4, 6, 3, padding=1, groups=2)

    def forward(self, x):
        n, c, h, w = x.shape
        y = self.conv(x.reshape(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w))
        return torch.cat([y, x[:, 1:3]], 1)


def raising():
    nn = torch.nn
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, stride=2, padding=1), nn.PReLU(8),
        nn.ConvTranspose2d(8, 6, 3, stride=2, padding=1, output_padding=1), nn.GELU(),
        nn.Upsample(scale_factor=2, mode="bilinear"), nn.InstanceNorm2d(6, affine=True), nn.ReflectionPad2d(1),
    )  # fmt: skip


def classifier():
    nn = torch.nn
    return nn.Sequential(
        nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(3, 2, 1, ceil_mode=True), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(48, 7), nn.LogSoftmax(1),
    )  # fmt: skip


NETS = {"classifier": classifier, "raising": raising, "bottleneck": Bottleneck, "shuffle": Shuffle}


@pytest.fixture(params=EXPORTERS)
def exported(request, tmp_path):
    """A function that writes a net to a file, by one of PyTorch's exporters."""
    if request.param == "dynamo":
        pytest.importorskip("onnxscript", reason="onnxscript, which PyTorch's newer exporter needs, is not installed")

    def write(net, x):
        path = tmp_path / "net.onnx"
        logging.disable(logging.WARNING)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of PyTorch's own code
                torch.onnx.export(net, (x,), path, dynamo=request.param == "dynamo", opset_version=18, verbose=False)
        finally:
            logging.disable(logging.NOTSET)
        return path

    return write


@pytest.mark.parametrize("name", NETS)
def test_what_pytorch_exports_computes_what_pytorch_does(exported, name):
    torch.manual_seed(0)
    net = NETS[name]().eval()
    x = torch.randn(2, 4, 12, 10, requires_grad=True)
    if name == "classifier":
        net[1].running_mean.normal_()
        net[1].running_var.uniform_(0.5, 2)
    ours = load(exported(net, x.detach()), layout="file")
    mine = gp.tensor(x.detach().numpy(), requires_grad=True)
    y, z = net(x), ours(mine)
    dy = torch.randn(y.shape)
    y.backward(dy)
    z.backward(dy.numpy())
    assert relative_error(z.numpy(), y.detach().numpy()) <= tolerances.TORCH
    assert relative_error(mine.grad, x.grad.numpy()) <= tolerances.TORCH


def test_gradients_of_parameters_are_pytorchs(exported):
    torch.manual_seed(0)
    net, x = Bottleneck(), torch.randn(3, 4, 7, 5)
    net(x).square().sum().backward()
    ours = load(exported(net, x), layout="file")
    F.sum(ours(x.numpy()) ** 2).backward()
    theirs, found = dict(net.named_parameters()), dict(ours.named_parameters())
    assert set(found) == set(theirs)
    for key, parameter in found.items():
        grad = theirs[key].grad.numpy()
        order = ours.graph.orders.get(key, tuple(range(grad.ndim)))
        assert relative_error(parameter.grad, grad.transpose(order)) <= tolerances.TORCH, key
        assert parameter.shape == tuple(np.array(grad.shape)[list(order)])
