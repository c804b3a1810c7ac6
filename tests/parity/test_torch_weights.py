"""Networks of torchvision and timm, and layers of PyTorch, give their logits here with their weights, and take them back."""

import numpy as np
import pytest
import tolerances
from helpers import relative_error
from torchvision_beside_cpu import timm, torchvision

import gpunet as gp
from gpunet import functional as F
from gpunet import models, nn
from gpunet.interop import torch as weights

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity

DENSE = (4096, 4096)
NETWORKS = {
    "resnet18": ("torchvision", {}, lambda shape, k: models.resnet18(shape, k, "paper")),
    "resnet34": ("torchvision", {}, lambda shape, k: models.resnet34(shape, k, "paper")),
    "mobilenetv1_100": ("timm", {}, lambda shape, k: models.mobilenet(shape, k, stride=2, variant="timm")),
    "alexnet": ("torchvision", {}, lambda shape, k: models.alexnet(shape, k, variant="torchvision")),
    "vgg11": ("torchvision", {}, lambda shape, k: models.vgg11(shape, k, False, DENSE, "torchvision")),
    "vgg11_bn": ("torchvision", {}, lambda shape, k: models.vgg11(shape, k, True, DENSE, "torchvision")),
    "vgg16": ("torchvision", {}, lambda shape, k: models.vgg16(shape, k, False, DENSE, "torchvision")),
}
"""(the library that makes the network, its options, the counterpart here)."""


def randomised(module, *shape):
    """The module in eval mode, with random vectors; its running moments are about those of noise of this shape.

    So the noise is not lost on the way through many layers, and ReLU6 meets values above 6.
    """
    torch.manual_seed(0)
    norms = [m for m in module.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    for value in module.parameters():
        if value.ndim == 1:
            value.data.normal_(0, 0.1)
    for norm in norms:
        norm.weight.data.uniform_(1, 3)
        norm.momentum = 1.0
    with torch.no_grad():
        module.train()(torch.randn(shape))
    for norm in norms:
        norm.running_mean += 0.3 * torch.randn_like(norm.running_mean) * norm.running_var.sqrt()
        norm.running_var *= torch.empty_like(norm.running_var).uniform_(0.7, 1.4)
        norm.momentum = 0.1
    return module.eval()


def made_by(library, name, classes, side):
    make = timm().create_model if library == "timm" else getattr(torchvision().models, name)
    torch.manual_seed(0)
    theirs = make(name, num_classes=classes) if library == "timm" else make(num_classes=classes)
    return randomised(theirs, 2, 3, side, side)


def logits(model, theirs, x):
    """(ours, theirs) of images (N, H, W, C)."""
    with torch.no_grad():
        expected = theirs(torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))).numpy()
    return model.eval()(gp.tensor(x)).numpy(), expected


@pytest.fixture
def empty_layers(monkeypatch):
    """Layers start with zeros, since drawing the many weights of large networks takes seconds."""
    monkeypatch.setattr("gpunet.nn.init.draw", lambda init, shape: np.zeros(shape, np.float32))


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n[:5] in ("vgg16", "vgg11") else n for n in NETWORKS]
)
def test_a_network_gives_the_same_logits_with_the_same_weights_and_gives_them_back(empty_layers, rng, name):
    library, _, make = NETWORKS[name]
    side = 96 if name == "alexnet" else 64
    theirs = made_by(library, name, 7, side)
    model = make((side, side, 3), 7)
    found = weights.load_state_dict(model, theirs.state_dict())
    assert set(found) == set(model.state_dict())
    ours, expected = logits(model, theirs, rng.normal(size=(2, side, side, 3)).astype(np.float32))
    assert relative_error(expected[0], expected[1]) > 1e-3  # the images matter
    assert relative_error(ours, expected) <= tolerances.TORCH

    back = weights.to_torch_state_dict(model, names=library)
    assert list(back) == list(theirs.state_dict())
    for entry, value in theirs.state_dict().items():
        if not entry.endswith("num_batches_tracked"):
            assert torch.equal(back[entry], value), entry
        assert back[entry].dtype == value.dtype
    theirs.load_state_dict(back, strict=True)


@pytest.mark.parametrize("name", ["resnet18", pytest.param("vgg11", marks=pytest.mark.slow)])
def test_the_papers_network_is_torchvisions_for_224_pixels(empty_layers, rng, name):
    theirs = made_by("torchvision", name, 1000, 224)
    shape = (224, 224, 3)
    model = models.resnet18(shape, 1000, "paper") if name == "resnet18" else models.vgg11(shape, 1000, False, DENSE)
    weights.load_state_dict(model, theirs.state_dict())
    ours, expected = logits(model, theirs, rng.normal(size=(1, *shape)).astype(np.float32))
    assert relative_error(ours, expected) <= tolerances.TORCH


def test_timms_resnet_has_torchvisions_names(rng):
    theirs = made_by("timm", "resnet18", 5, 64)
    model = models.resnet18((64, 64, 3), 5, "paper")
    weights.load_state_dict(model, theirs.state_dict(), names="timm")
    assert relative_error(*logits(model, theirs, rng.normal(size=(2, 64, 64, 3)).astype("f4"))) <= tolerances.TORCH


# ---- layers


def counterparts():
    """A network of most layers here, and in PyTorch, for images of 9x11 with 6 channels."""
    t = torch.nn
    theirs = t.Sequential(
        t.Conv2d(6, 8, 3, padding=1, groups=2), t.BatchNorm2d(8), t.PReLU(8), t.Conv2d(8, 16, 3, groups=8, bias=False),
        t.GroupNorm(4, 16), t.PReLU(), t.ConvTranspose2d(16, 12, (3, 2), stride=2, groups=4), t.LayerNorm((12, 15, 18)),
        t.MaxPool2d(2), t.Conv2d(12, 5, 1), t.Flatten(), t.BatchNorm1d(5 * 7 * 9), t.PReLU(5 * 7 * 9), t.Linear(5 * 7 * 9, 10),
        t.ReLU(), t.Linear(10, 4),
    )  # fmt: skip
    ours = nn.Sequential(
        nn.Conv2d(6, 8, 3, padding=1, groups=2), nn.BatchNorm2d(8), nn.PReLU(8), nn.Conv2d(8, 16, 3, groups=8, bias=False),
        nn.GroupNorm(4, 16), nn.PReLU(), nn.ConvTranspose2d(16, 12, (3, 2), stride=2, groups=4), nn.LayerNorm((15, 18, 12)),
        nn.MaxPool2d(2), nn.Conv2d(12, 5, 1), nn.Flatten(), nn.BatchNorm2d(5 * 7 * 9), nn.PReLU(5 * 7 * 9),
        nn.Linear(5 * 7 * 9, 10), nn.ReLU(), nn.Linear(10, 4),
    )  # fmt: skip
    torch.manual_seed(1)
    return ours, randomised(theirs, 3, 6, 9, 11)


def test_every_layer_computes_the_same_with_the_same_weights_and_gives_them_back(rng):
    ours, theirs = counterparts()
    weights.load_state_dict(ours, theirs.state_dict())
    assert relative_error(*logits(ours, theirs, rng.normal(size=(3, 9, 11, 6)).astype("f4"))) <= tolerances.TORCH
    back = weights.to_torch_state_dict(ours)
    theirs.load_state_dict(back, strict=True)
    assert list(back) == list(theirs.state_dict())


class Functional(nn.Module):
    def __init__(self):
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4 * 3 * 5)
        self.fc1, self.fc2 = nn.Linear(4 * 3 * 5, 6), nn.Linear(6, 2)

    def forward(self, x):
        x = F.flatten(F.max_pool2d(F.relu(self.conv(x)), 2))
        return self.fc2(F.relu(self.fc1(F.dropout(self.norm(x), 0.5, training=self.training))))


class TheirsFunctional(torch.nn.Module):
    def __init__(self):
        super().__init__()
        t = torch.nn
        self.conv, self.norm, self.fc1, self.fc2 = (
            t.Conv2d(3, 4, 3), t.BatchNorm1d(60), t.Linear(60, 6), t.Linear(6, 2)
        )  # fmt: skip

    def forward(self, x):
        x = torch.nn.functional.max_pool2d(self.conv(x).relu(), 2).flatten(1)
        return self.fc2(self.fc1(self.norm(x)).relu())


@pytest.mark.parametrize(
    "told", [{"input_shape": (8, 12, 3)}, {"flattened": {"fc1": (4, 3, 5), "norm": 4, "fc2": None}}]
)
def test_a_flatten_in_a_forward_method_is_seen_in_a_run_or_told(rng, told):
    model, theirs = Functional(), randomised(TheirsFunctional(), 3, 3, 8, 12)
    weights.load_state_dict(model, theirs.state_dict(), **told)
    assert relative_error(*logits(model, theirs, rng.normal(size=(2, 8, 12, 3)).astype("f4"))) <= tolerances.TORCH
    theirs.load_state_dict(weights.to_torch_state_dict(model, **told), strict=True)


# ---- files and dtypes


def test_safetensors_files_pass_between_both(tmp_path, rng):
    from safetensors.torch import load_file, save_file

    ours, theirs = counterparts()
    save_file(theirs.state_dict(), tmp_path / "theirs.safetensors")
    weights.load_state_dict(ours, tmp_path / "theirs.safetensors")
    weights.save_state_dict(ours, tmp_path / "ours.safetensors")
    other = counterparts()[1]
    for p in other.parameters():
        p.data.zero_()
    other.load_state_dict(load_file(tmp_path / "ours.safetensors"), strict=True)
    x = torch.from_numpy(rng.normal(size=(2, 6, 9, 11)).astype("f4"))
    assert torch.equal(other(x), theirs(x))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_other_float_dtypes_are_converted(dtype):
    theirs = torch.nn.Linear(3, 2).to(getattr(torch, dtype))
    model = nn.Linear(3, 2)
    weights.load_state_dict(model, theirs.state_dict())
    np.testing.assert_array_equal(model.weight.numpy(), theirs.weight.detach().float().numpy().T)


def test_a_pickle_is_opened_by_name_alone_and_runs_nothing(tmp_path):
    model, theirs = nn.Linear(3, 2), torch.nn.Linear(3, 2)
    for name, options in (("a.pth", {}), ("a.bin", {"_use_new_zipfile_serialization": False})):
        torch.save(theirs.state_dict(), tmp_path / name, **options)
        with pytest.raises(TypeError, match=r"pickle of torch\.save, .* give pickle=True"):
            weights.load_state_dict(model, tmp_path / name)
        weights.load_state_dict(model, tmp_path / name, pickle=True)
        np.testing.assert_array_equal(model.weight.numpy(), theirs.weight.detach().numpy().T)
    torch.save(theirs, tmp_path / "whole.pth")
    with pytest.raises(ValueError, match=r"whole\.pth"):
        weights.load_state_dict(model, tmp_path / "whole.pth", pickle=True)
    torch.save({"epoch": 3, "state_dict": theirs.state_dict()}, tmp_path / "nested.pth")
    with pytest.raises(ValueError, match="holds a dict of epoch, state_dict, no state dict"):
        weights.load_state_dict(model, tmp_path / "nested.pth", pickle=True)


def test_tensors_that_are_no_plain_floats_are_refused():
    model = nn.Linear(3, 2)
    state = {"weight": torch.zeros(2, 3).to_sparse(), "bias": torch.zeros(2, dtype=torch.int64)}
    with pytest.raises(
        ValueError, match="weight is a sparse tensor but takes a plain one; bias is int64 but takes floats"
    ):
        weights.load_state_dict(model, state)
