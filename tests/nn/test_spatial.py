"""Layers of resampling, and modules side by side: what they compute, their summaries and their errors."""

import re

import numpy as np
import pytest
from helpers import check_gradients

import gpunet as gp
from gpunet import functional as F
from gpunet import nn

LAYERS = [
    (lambda: nn.Upsample2d(2), lambda x: F.upsample2d(x, 2)),
    (
        lambda: nn.Upsample2d(size=(3, 11), mode="bilinear", align_corners=True),
        lambda x: F.upsample2d(x, size=(3, 11), mode="bilinear", align_corners=True),
    ),
    (lambda: nn.ZeroPad2d(1), lambda x: F.pad2d(x, 1)),
    (lambda: nn.ReflectionPad2d((1, 2)), lambda x: F.pad2d(x, (1, 2), mode="reflect")),
    (lambda: nn.ReplicationPad2d(((0, 1), (2, 3))), lambda x: F.pad2d(x, ((0, 1), (2, 3)), mode="edge")),
    (lambda: nn.AdaptiveAvgPool2d((4, 3)), lambda x: F.adaptive_avg_pool2d(x, (4, 3))),
    (lambda: nn.AdaptiveMaxPool2d((4, 3)), lambda x: F.adaptive_max_pool2d(x, (4, 3))),
    (nn.GlobalAvgPool2d, lambda x: F.mean(x, (1, 2), keepdims=True)),
    (nn.GlobalMaxPool2d, lambda x: F.max(x, (1, 2), keepdims=True)),
]


@pytest.mark.parametrize("i", range(len(LAYERS)))
def test_a_layer_is_its_function(backend, rng, i):
    make, function = LAYERS[i]
    x = gp.tensor(rng.normal(size=(2, 6, 5, 3)).astype(np.float32), backend=backend)
    np.testing.assert_allclose(make()(x).numpy(), function(x).numpy(), rtol=1e-5, atol=1e-6)


def test_summary_counts_what_they_compute():
    model = nn.Sequential(
        nn.Upsample2d(2, mode="bilinear"), nn.ReflectionPad2d(1), nn.AdaptiveMaxPool2d((4, 3)), nn.Upsample2d(2),
        nn.GlobalAvgPool2d(), nn.LocallyConnected2d((1, 1, 3), 2, 1),
    )  # fmt: skip
    summary = gp.summary(model, (3, 5, 3))
    shapes = [(6, 10, 3), (8, 12, 3), (4, 3, 3), (8, 6, 3), (1, 1, 3), (1, 1, 2)]
    assert [row.output_shape for row in summary.rows] == shapes
    assert [row.flops for row in summary.rows] == [8 * 180, 0, 8 * 12 * 3, 0, 8 * 6 * 3, 14]
    assert (summary.parameters, summary.rows[-1].formula) == (8, "1·1·(1·1·3+1)·2")
    assert "Upsample2d(2, mode='bilinear')" in repr(model)


def test_summary_counts_windows_over_an_extent_that_is_kept():
    summary = gp.summary(nn.Sequential(nn.AdaptiveAvgPool2d((None, 2))), (6, 8, 3))
    assert [(row.output_shape, row.flops) for row in summary.rows] == [((6, 2, 3), 6 * 8 * 3)]


def test_a_captured_step_of_them_trains_as_an_eager_one_does(cuda_name, rng):
    """Their tables are on the device before a graph is recorded."""
    x, labels = rng.normal(size=(24, 5, 6, 2)).astype(np.float32), rng.integers(0, 3, 24)
    losses = []
    for capture in (False, True):
        gp.seed(0)
        model = nn.Sequential(
            nn.ReflectionPad2d(1), nn.LocallyConnected2d((7, 8, 2), 3, 3, stride=2),
            nn.Concat(nn.Upsample2d(2, mode="bilinear"), nn.Sequential(nn.Conv2d(3, 2, 1), nn.Upsample2d(2))),
            nn.AdaptiveMaxPool2d(4), nn.GlobalAvgPool2d(), nn.Flatten(), nn.Linear(5, 3),
        )  # fmt: skip
        trainer = gp.Trainer(
            model, gp.optim.SGD(model.parameters(), lr=0.1), loss=F.cross_entropy, backend=cuda_name,
            capture=capture,
        )  # fmt: skip
        loader = gp.data.DataLoader(gp.data.ArrayDataset(x, labels), batch_size=8)
        history = trainer.fit(loader, epochs=2)
        losses.append(history["loss"])
    assert losses[0] == losses[1]


def test_branches_stand_side_by_side(backend, rng):
    model = nn.Concat(nn.Conv2d(3, 4, 3, padding=1), nn.Sequential(), nn.MaxPool2d(3, stride=1, padding=1)).to(backend)
    x = gp.tensor(rng.normal(size=(2, 5, 4, 3)).astype(np.float32), backend=backend)
    y = model(x).numpy()
    np.testing.assert_array_equal(y[..., :4], model.branches[0](x).numpy())
    np.testing.assert_array_equal(y[..., 4:7], x.numpy())
    np.testing.assert_array_equal(y[..., 7:], F.max_pool2d(x, 3, stride=1, padding=1).numpy())
    assert [name for name, _ in model.named_parameters()] == ["0.weight", "0.bias"]
    rows = gp.summary(nn.Sequential(model), (5, 4, 3)).rows
    assert [(row.name, row.output_shape) for row in rows[:1]] == [("0.0", (5, 4, 4))]
    assert sum(row.parameters for row in rows) == 3 * 3 * 3 * 4 + 4


def test_gradients_of_branches_and_shortcuts_match_finite_differences(backend, rng):
    inner = nn.Conv2d(3, 2, 1, bias=False)
    model = nn.Sequential(
        nn.Concat(nn.Tanh(), nn.Conv2d(2, 1, 3, padding=1, bias=False)),
        nn.Residual(nn.Conv2d(3, 2, 3, padding=1, bias=False), nn.Tanh(), shortcut=inner),
    ).to(backend)

    def run(x, w, v, u):
        model[0].branches[1].weight, model[1][0].weight, inner.weight = w, v, u
        return model(x)

    shapes = (2, 4, 5, 2), (3, 3, 2, 1), (3, 3, 3, 2), (1, 1, 3, 2)
    check_gradients(run, [rng.normal(size=shape) for shape in shapes], backend=backend, rng=rng)


def test_a_residual_may_change_channels_and_extents_by_its_shortcut(backend, rng):
    body = nn.Conv2d(3, 4, 3, padding=1, stride=2), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1)
    shortcut = nn.Sequential(nn.Conv2d(3, 4, 1, stride=2, bias=False), nn.BatchNorm2d(4))
    model = nn.Residual(*body, shortcut=shortcut).to(backend)
    x = gp.tensor(rng.normal(size=(2, 6, 5, 3)).astype(np.float32), backend=backend)
    model.eval()
    expected = shortcut(x).numpy() + nn.Sequential(*body)(x).numpy()
    np.testing.assert_allclose(model(x).numpy(), expected, rtol=1e-5, atol=1e-6)
    names = [name for name, _ in model.named_parameters()]
    assert "shortcut.0.weight" in names
    assert len(names) == 7
    assert sum(row.parameters for row in gp.summary(model, (6, 5, 3)).rows) == sum(p.size for p in model.parameters())
    folded = nn.fold_batch_norm(model)
    assert len(folded.shortcut) == 1
    np.testing.assert_allclose(folded(x).numpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: nn.Upsample2d(),
            "Upsample2d: takes exactly one of scale_factor and size, got None and None",
        ),
        (lambda: nn.Upsample2d(-1), "Upsample2d: scale_factor must be one or two positive numbers, got -1"),
        (lambda: nn.Upsample2d(2, mode="area"), "Upsample2d: mode is 'area' but takes one of nearest, bilinear"),
        (lambda: nn.ZeroPad2d(-1), "ZeroPad2d: padding must not be negative, got -1"),
        (lambda: nn.AdaptiveAvgPool2d(0), "AdaptiveAvgPool2d: output_size must be at least 1, got 0"),
        (lambda: nn.AdaptiveAvgPool2d((None, "2")), "AdaptiveAvgPool2d: output_size must be an integer, got '2'"),
        (lambda: nn.Concat(), "Concat: takes at least one branch, got none"),
        (lambda: nn.Concat(nn.ReLU(), 3), "Concat: branch 1 is int but takes a Module"),
        (lambda: nn.Residual(nn.ReLU(), shortcut=F.relu), "Residual: shortcut is function but takes a Module"),
        (
            lambda: nn.Concat(nn.ReLU(), nn.MaxPool2d(2))(np.ones((1, 4, 4, 2), np.float32)),
            "Concat: the branches make (1, 4, 4, 2), (1, 2, 2, 2) of x (1, 4, 4, 2); they may differ in the channels alone",
        ),
        (
            lambda: nn.Residual(nn.ReLU(), shortcut=nn.MaxPool2d(2))(np.ones((1, 4, 4, 2), np.float32)),
            "Residual: the layers make (1, 4, 4, 2) and the shortcut (1, 2, 2, 2) of x (1, 4, 4, 2); the sum takes",
        ),
    ],
)
def test_a_bad_layer_is_named(make, message):
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        make()


def test_antialiasing_averages_what_a_smaller_image_cannot_show(backend):
    stripes = np.tile(np.array([0, 1], np.float32), 16).reshape(1, 1, 32, 1).repeat(32, axis=1)
    x = gp.tensor(stripes, backend=backend)
    layer = nn.Upsample2d(0.125, mode="bilinear", antialias=True)
    y = layer(x)
    np.testing.assert_allclose(y.numpy(), 0.5, atol=0.03)
    assert layer.flops((1, 32, 32, 1), y.shape) == 2 * sum(map(len, _near(32, 4))) ** 2
    assert "antialias=True" in repr(layer)
    with pytest.raises(ValueError, match="Upsample2d: antialias goes with mode 'bilinear', got 'nearest'"):
        nn.Upsample2d(0.5, antialias=True)


def _near(extent, outputs):
    """The pixels that lie less than a step from each output's middle."""
    step = extent / outputs
    return [[i for i in range(extent) if abs(i + 0.5 - (p + 0.5) * step) < step] for p in range(outputs)]
