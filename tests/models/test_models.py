import re
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import tolerances
from helpers import host, relative_error
from helpers.backends import CUDA, skip_unavailable

import gpunet as gp
from gpunet import functional as F
from gpunet import models, nn, optim
from gpunet.models import fast_cifar


def conv_parameters(*channels):
    """Of 3x3 convolutions without bias, each from one number of channels to the next."""
    return sum(9 * c * o for c, o in pairwise(channels))


def test_resnet9_has_the_parameters_of_its_formula():
    filters = [64, 128, 128, 128, 256, 512, 512, 512]
    expected = conv_parameters(3, *filters) + 2 * sum(filters) + 513 * 10
    summary = gp.summary(models.resnet9(), (32, 32, 3))
    assert summary.parameters == expected == 6_573_130
    assert [row.output_shape for row in summary.rows if row.kind == "MaxPool2d"] == [
        (16, 16, 128), (8, 8, 256), (4, 4, 512), (1, 1, 512)
    ]  # fmt: skip


def test_vgg11_has_the_parameters_of_its_formula():
    filters = [64, 128, 256, 256, 512, 512, 512, 512]
    convs, head = conv_parameters(3, *filters), 513 * 10
    plain = models.vgg11(batch_norm=False)
    of_convs = sum(p.size for layer in plain if isinstance(layer, nn.Conv2d) for p in layer.parameters())
    assert of_convs == convs + sum(filters) == 9_220_480
    assert gp.summary(plain, (32, 32, 3)).parameters == of_convs + head == 9_225_610
    assert gp.summary(models.vgg11(), (32, 32, 3)).parameters == convs + 2 * sum(filters) + head == 9_228_362


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: models.resnet9((7, 32, 3)), "resnet9: images are 7x32 but must be at least 8x8"),
        (lambda: models.speedrun((8, 32, 3)), "speedrun: images are 8x32 but must be at least 9x9"),
        (
            lambda: models.whitening_filters(np.zeros((4, 1, 5, 3))),
            "images have shape (4, 1, 5, 3) but take (N, H, W, C)",
        ),
        (lambda: models.vgg11((28, 28, 1)), "vgg11: images are 28x28 but must be at least 32x32"),
        (lambda: models.vgg16((28, 28, 1)), "vgg16: images are 28x28 but must be at least 32x32"),
        (
            lambda: models.resnet34((31, 32, 3), stem="paper"),
            "resnet34: images are 31x32 but must be at least 32x32 for the",
        ),
        (lambda: models.resnet18(stem="large"), "resnet18: stem is 'large' but takes small or paper"),
        (
            lambda: models.alexnet((14, 15, 3)),
            "alexnet: images are 14x15 but must be at least 15x15 for the small stem",
        ),
        (lambda: models.alexnet(stem=""), "alexnet: stem is '' but takes small or paper"),
        (lambda: models.mobilenet((31, 64, 3), stride=2), "mobilenet: images are 31x64 but must be at least 32x32"),
        (lambda: models.mobilenet(stride=3), "mobilenet: stride is 3 but takes 1 or 2"),
        (lambda: models.mobilenet(width_mult=0), "mobilenet: width_mult is 0 but must be positive"),
        (
            lambda: models.alexnet((62, 64, 3), variant="torchvision"),
            "alexnet: images are 62x64 but must be at least 63x63 for variant='torchvision'",
        ),
        (
            lambda: models.alexnet(stem="paper", variant="torchvision"),
            "alexnet: stem is 'paper' but variant='torchvision' has a stem of its own",
        ),
        (lambda: models.alexnet(variant="timm"), "alexnet: variant is 'timm' but takes paper or torchvision"),
        (lambda: models.vgg16(variant="timm"), "vgg16: variant is 'timm' but takes paper or torchvision"),
        (lambda: models.mobilenet(variant="torchvision"), "variant is 'torchvision' but takes paper or timm"),
    ],
)
def test_images_that_are_too_small_are_refused(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (models.resnet9, (9, 17, 2)), (models.vgg11, (33, 65, 1)), (models.resnet18, (9, 17, 2)),
        (partial(models.resnet18, stem="paper"), (33, 65, 1)), (models.alexnet, (17, 30, 1)),
        (partial(models.alexnet, stem="paper", dense=()), (67, 75, 2)), (models.mobilenet, (17, 33, 2)),
        (partial(models.mobilenet, width_mult=0.3, stride=2), (33, 40, 1)), (partial(models.vgg11, dense=(9,)), (32, 32, 1)),
        (partial(models.alexnet, variant="torchvision", dense=(9, 8)), (63, 70, 2)),
        (partial(models.vgg11, variant="torchvision", dense=(9,)), (32, 65, 1)),
        (partial(models.mobilenet, width_mult=0.3, variant="timm"), (17, 33, 2)),
    ],
)  # fmt: skip
def test_models_take_images_of_many_sizes_and_every_parameter_gets_a_gradient(rng, make, shape):
    model = make(shape, num_classes=3)
    logits = model(rng.normal(size=(2, *shape)).astype(np.float32))
    assert logits.shape == (2, 3)
    F.cross_entropy(logits, [0, 2]).backward()
    for name, p in model.named_parameters():
        assert np.abs(host(p.grad)).max() > 0, name


PAPERS = {
    "resnet18": (lambda: models.resnet18((224, 224, 3), 1000, "paper"), 11_689_512),
    "resnet34": (lambda: models.resnet34((224, 224, 3), 1000, "paper"), 21_797_672),
    "mobilenet": (lambda: models.mobilenet((224, 224, 3), 1000, stride=2), 4_231_976),
    "alexnet of torchvision": (lambda: models.alexnet(variant="torchvision"), 61_100_840),
    "alexnet": (lambda: models.alexnet((227, 227, 3), 1000, "paper", (4096, 4096)), 60_965_224),
    "vgg11": (lambda: models.vgg11((224, 224, 3), 1000, False, (4096, 4096)), 132_863_336),
    "vgg16": (lambda: models.vgg16((224, 224, 3), 1000, False, (4096, 4096)), 138_357_544),
}
"""Numbers of parameters as published for ImageNet."""


@pytest.mark.parametrize(
    "name", [name if name.startswith(("res", "mob")) else pytest.param(name, marks=pytest.mark.slow) for name in PAPERS]
)
def test_the_papers_nets_have_the_published_numbers_of_parameters(name, monkeypatch):
    monkeypatch.setattr("gpunet.nn.init.draw", lambda init, shape: np.zeros(shape, np.float32))  # which takes no time
    make, published = PAPERS[name]
    assert sum(p.size for p in make().parameters()) == published


@pytest.mark.parametrize(
    ("make", "parameters"),
    [
        (models.resnet18, 11_173_962), (models.resnet34, 21_282_122), (models.mobilenet, 3_217_226),
        (models.alexnet, 3_754_378), (models.vgg16, 14_724_042), (lambda: models.vgg16(batch_norm=False), 14_719_818),
    ],
    ids=["resnet18", "resnet34", "mobilenet", "alexnet", "vgg16", "vgg16 without batch norm"],
)  # fmt: skip
def test_nets_for_small_images_have_the_parameters_of_their_docstrings(make, parameters):
    summary = gp.summary(make(), (32, 32, 3))
    assert summary.parameters == parameters
    assert summary.rows[-1].output_shape == (10,)


def test_a_narrower_mobilenet_has_a_quarter_of_the_pointwise_filters():
    def pointwise(width):
        layers = models.mobilenet(width_mult=width)
        return sum(c.weight.size for c in layers if isinstance(c, nn.Conv2d) and c.weight.shape[:2] == (1, 1))

    assert pointwise(0.5) * 4 == pointwise(1.0)


def test_speedrun_has_the_parameters_of_its_formula():
    model = models.speedrun()
    convs = conv_parameters(24, 64, 64, 256, 256, 256, 256)
    fixed = sum(p.size for p in model.parameters() if not p.requires_grad)
    summary = gp.summary(model, (32, 32, 3))
    assert summary.parameters == 2 * 2 * 3 * 24 + 24 + convs + 2 * 1152 + 256 * 10 == 1_972_792
    assert fixed == 2 * 2 * 3 * 24 + 1152
    assert [row.output_shape for row in summary.rows if row.kind == "MaxPool2d"] == [
        (15, 15, 64), (7, 7, 256), (3, 3, 256), (1, 1, 256)
    ]  # fmt: skip


def test_whitening_filters_whiten(rng, monkeypatch):
    monkeypatch.setattr(fast_cifar, "WHITENED_AT_ONCE", 25)
    mixed = rng.normal(size=(60, 9, 8, 3)) @ rng.normal(size=(3, 3))  # channels that go together
    smooth = mixed[:, 1:] + mixed[:, :-1]  # and rows
    w = models.whitening_filters(smooth, eps=0.0)
    assert (w.shape, w.dtype) == ((2, 2, 3, 24), np.float32)
    np.testing.assert_array_equal(w[..., 12:], -w[..., :12])
    y = F.conv2d(gp.tensor(smooth), gp.tensor(w, dtype="float64")).numpy().reshape(-1, 24)[:, :12]
    np.testing.assert_allclose(y.T @ y / len(y), np.eye(12), atol=1e-4)


def test_speedrun_starts_whitened_and_learns_all_but_the_fixed_parameters(backend, rng):
    images = rng.normal(size=(8, 11, 10, 3)).astype(np.float32)
    model = models.speedrun((11, 10, 3), num_classes=4, images=images).to(backend)
    np.testing.assert_array_equal(model[0].weight.numpy(), models.whitening_filters(images))
    models.whiten(model, images[:4])
    np.testing.assert_array_equal(model[0].weight.numpy(), models.whitening_filters(images[:4]))
    with pytest.raises(TypeError, match="whiten: takes a speedrun network, got one that begins with Linear"):
        models.whiten(nn.Sequential(nn.Linear(2, 2)), images)
    centre = model[2].weight.numpy()[1, 1]
    np.testing.assert_array_equal(centre[:, :24], np.eye(24))
    assert np.std(model[-1].weight.numpy(), ddof=1) == pytest.approx(1, rel=1e-5)
    assert 0.5 < np.abs(model[0].bias.numpy()).max() * 12**0.5 <= 1
    before = {name: p.numpy().copy() for name, p in model.named_parameters()}
    optimizer = optim.SGD(model.parameters(), lr=10.0)
    F.cross_entropy(model(images), [0, 1, 2, 3] * 2).backward()
    optimizer.step()
    for name, p in model.named_parameters():
        assert (np.abs(p.numpy() - before[name]).max() > 0) == p.requires_grad, name


def small_resnet():
    """The pattern of resnet9 in little."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding="same", bias=False), nn.BatchNorm2d(8, activation="relu"), nn.MaxPool2d(2),
        nn.Residual(
            nn.Conv2d(8, 8, 3, padding="same", bias=False), nn.BatchNorm2d(8, activation="relu"),
            nn.Conv2d(8, 8, 3, padding="same", bias=False), nn.BatchNorm2d(8, activation="relu"),
        ),
        nn.MaxPool2d(4), nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip


def trained(backend, steps=8):
    """Losses of the steps, and the model."""
    gp.seed(0)
    rng = np.random.default_rng(0)
    model = small_resnet().to(backend)
    optimizer = optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
    x = gp.tensor(rng.normal(size=(16, 8, 8, 3)).astype(np.float32), backend=backend)
    labels, losses = rng.integers(0, 4, 16), []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return np.array(losses), model


@pytest.mark.parametrize("name", ["reference", *CUDA])
def test_a_small_resnet_trains_with_numpys_losses_and_running_moments(name):
    (expected, theirs), (got, model) = trained("numpy"), trained(skip_unavailable(name))
    assert expected[-1] < 0.7 * expected[0]
    np.testing.assert_allclose(got, expected, rtol=tolerances.LOSS_CURVE)
    for (entry, mine), (_, other) in zip(model.named_buffers(), theirs.named_buffers(), strict=True):
        assert relative_error(mine.numpy(), other.numpy()) < tolerances.LOSS_CURVE, entry


def test_a_trained_resnet_is_restored_and_folded(backend, rng):
    _, model = trained(backend, steps=3)
    twin = small_resnet().to(backend)
    twin.load_state_dict(model.state_dict())
    x = rng.normal(size=(5, 8, 8, 3)).astype(np.float32)
    expected = model.eval()(x).numpy()
    np.testing.assert_array_equal(twin.eval()(x).numpy(), expected)
    folded = nn.fold_batch_norm(model)
    assert not any(isinstance(m, nn.BatchNorm2d) for _, m in folded.named_modules())
    assert relative_error(folded(x).numpy(), expected) < 4 * tolerances.BACKENDS["float32"]
