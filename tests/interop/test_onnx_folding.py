"""Batch norm that is folded into the products before it, in exported files."""

import numpy as np
import pytest
from helpers.onnx_files import TOLERANCE, error_of, with_random_state

from gpunet import models, nn

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
from gpunet.interop.onnx import export  # noqa: E402 - it takes onnx

IMAGE = (9, 7, 4)


class Twice(nn.Module):
    """A convolution with two batch norms."""

    def __init__(self, *, keep):
        self.conv, self.one, self.other, self.keep = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.BatchNorm2d(4), keep

    def forward(self, x):
        y = self.conv(x)
        return self.one(y) + y if self.keep else self.other(self.conv(self.one(y)))


def folded(tmp_path, model, input_shape=IMAGE):
    """(the nodes' kinds, the weights' names) of a file whose outputs are those of the model."""
    model = with_random_state(model)
    before = model.state_dict()
    export(model, tmp_path / "model.onnx", input_shape, fold_batch_norm=True)
    assert error_of(tmp_path / "model.onnx", model, input_shape) < TOLERANCE
    assert all(np.array_equal(value, before[name]) for name, value in model.state_dict().items())
    graph = onnx.load(tmp_path / "model.onnx").graph
    return [node.op_type for node in graph.node], {value.name for value in graph.initializer}


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: models.resnet18((8, 8, 3)), (8, 8, 3)),
        (lambda: models.mobilenet((16, 16, 3), width_mult=0.1), (16, 16, 3)),
        (lambda: models.UNet(3, 2, base_channels=4, depth=1, batch_norm=True), (8, 8, 3)),
        (lambda: models.Siamese(models.conv4((16, 16, 1), (4, 4)), 64), [(16, 16, 1)] * 2),
    ],
)
def test_no_batch_norm_behind_a_convolution_is_left(tmp_path, make, shape):
    model = make()
    kinds, names = folded(tmp_path, model, shape)
    assert "BatchNormalization" not in kinds
    weights = {name for name, value in model.state_dict().items() if value.ndim > 1}
    assert weights <= names


@pytest.mark.parametrize(
    "layers",
    [
        lambda: (nn.Conv2d(4, 6, 3, groups=2, bias=False), nn.BatchNorm2d(6, affine=False, eps=0.1)),
        lambda: (nn.ConvTranspose2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU()),
        lambda: (nn.Flatten(), nn.Linear(252, 3, bias=False), nn.BatchNorm2d(3)),
        lambda: (nn.Flatten(), nn.Linear(252, 3), nn.BatchNorm2d(3)),
    ],
)
def test_each_product_takes_the_batch_norm_behind_it(tmp_path, layers):
    assert "BatchNormalization" not in folded(tmp_path, nn.Sequential(*layers()))[0]


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU(), nn.BatchNorm2d(6)),
        lambda: nn.Sequential(nn.ConvTranspose2d(4, 6, 3, groups=2), nn.BatchNorm2d(6)),
        lambda: nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3)),
        lambda: Twice(keep=True),
    ],
)
def test_what_cannot_be_folded_stays(tmp_path, make):
    assert folded(tmp_path, make())[0].count("BatchNormalization") == 1


def test_a_convolution_that_runs_twice_gets_the_weights_of_each_run(tmp_path):
    kinds, names = folded(tmp_path, Twice(keep=False))
    assert kinds == ["Conv", "Conv"]
    assert len(names) == 4


def test_a_convolution_that_runs_again_without_a_batch_norm_keeps_its_weights_too(tmp_path):
    class Again(Twice):
        def forward(self, x):
            return self.conv(self.one(self.conv(x)))

    kinds, names = folded(tmp_path, Again(keep=True))
    assert kinds == ["Conv", "Conv"]
    assert {"conv.weight", "conv.bias"} < names


def test_what_the_model_returns_itself_is_not_folded_away(tmp_path):
    class Both(nn.Module):
        def __init__(self):
            self.conv, self.norm = nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2)

        def forward(self, x):
            y = self.conv(x)
            return y, self.norm(y)

    assert folded(tmp_path, Both())[0] == ["Conv", "BatchNormalization"]
