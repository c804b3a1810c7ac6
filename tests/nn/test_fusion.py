"""Neighbours in a Sequential that run as one operation: the same numbers, and only where the table has the pair."""

import numpy as np
import pytest
import tolerances
from helpers import host, same

import gpunet as gp
from gpunet import nn
from gpunet.backends.contract import Activation
from gpunet.modes import watching
from gpunet.nn.fusion import fused


def runs(*layers):
    """What each layer that runs takes in."""
    return [(type(layer).__name__, sorted(options)) for layer, options in fused(layers)]


def test_neighbours_are_taken_in_where_a_rule_fits():
    conv, dense, pool = nn.Conv2d(1, 2, 3), nn.Linear(2, 2), nn.MaxPool2d(2)
    assert runs(conv, nn.ReLU(), pool, nn.Flatten()) == [("Conv2d", ["activation", "pool"]), ("Flatten", [])]
    assert runs(conv, pool, nn.ReLU()) == [("Conv2d", ["pool"]), ("ReLU", [])]  # a pool is the last of the fused steps
    assert runs(dense, nn.Tanh(), nn.Sigmoid()) == [("Linear", ["activation"]), ("Sigmoid", [])]
    assert runs(conv, nn.BatchNorm2d(2), nn.ReLU(), pool) == [
        ("Conv2d", ["before_norm"]), ("BatchNorm2d", ["activation"]), ("MaxPool2d", [])
    ]  # fmt: skip
    assert runs(nn.BatchNorm2d(2, activation="relu"), nn.ReLU()) == [("BatchNorm2d", []), ("ReLU", [])]
    assert runs(nn.BatchNorm2d(2), nn.GELU()) == [("BatchNorm2d", []), ("GELU", [])]  # its gradient needs more
    assert runs(nn.ReLU(), conv, nn.Dropout(), nn.ReLU()) == [(n, []) for n in ("ReLU", "Conv2d", "Dropout", "ReLU")]
    assert runs(nn.Conv2d(1, 2, 3, activation="relu"), nn.ReLU()) == [("Conv2d", []), ("ReLU", [])]
    assert runs(nn.Conv2d(1, 2, 3, pool=2), nn.ReLU(), pool) == [("Conv2d", []), ("ReLU", []), ("MaxPool2d", [])]
    for layer, activation in (
        (nn.LeakyReLU(0.3), Activation("leaky_relu", 0.3)), (nn.ELU(0.3), Activation("elu", alpha=0.3)),
        (nn.ReLU6(), Activation("relu6")), (nn.HardTanh(-2, 0.5), Activation("hard_tanh", min_val=-2, max_val=0.5)),
        (nn.HardSigmoid(), Activation("hard_sigmoid")),
    ):  # fmt: skip
        assert [options for _, options in fused([conv, layer])] == [{"activation": activation}]
    for layer in (nn.SiLU(), nn.Softplus(), nn.HardSwish(), nn.PReLU()):
        assert runs(conv, layer) == [("Conv2d", []), (type(layer).__name__, [])]


def test_a_convolution_leaves_moments_for_a_batch_norm_that_trains_and_for_no_other_layer():
    conv, norm = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)
    assert runs(conv, nn.MaxPool2d(2), norm) == [("Conv2d", ["before_norm", "pool"]), ("BatchNorm2d", [])]
    assert runs(conv, nn.MaxPool2d(3), norm) == [("Conv2d", []), ("MaxPool2d", []), ("BatchNorm2d", [])]
    norm.eval()
    assert runs(conv, norm) == [("Conv2d", []), ("BatchNorm2d", [])]
    norm.train()
    norm.register_forward_hook(lambda *_: None)
    assert runs(conv, norm) == [("Conv2d", []), ("BatchNorm2d", [])]


def operations(model, x):
    seen = []
    with watching(lambda function, direction: seen.append(function.name)):
        model(x)
    return seen


def test_the_last_layer_of_a_residual_adds_the_sum_if_nothing_comes_between(backend, rng):
    def conv(**options):
        return nn.Conv2d(2, 2, 3, padding=1, **options)

    x = gp.tensor(rng.normal(size=(2, 4, 4, 2)).astype(np.float32), backend=backend)
    for layers, expected in (
        ([conv()], ["conv2d"]),
        ([conv(), nn.ReLU(), conv()], ["conv2d", "conv2d"]),
        ([conv(), nn.BatchNorm2d(2)], ["conv2d", "batch_norm"]),
        ([conv(), nn.ReLU()], ["conv2d", "add"]),
        ([conv(activation="tanh")], ["conv2d", "add"]),
        ([conv(), nn.BatchNorm2d(2, activation="relu")], ["conv2d", "batch_norm", "add"]),
        ([nn.GroupNorm(1, 2)], ["group_norm", "add"]),
        ([], ["add"]),
    ):
        assert operations(nn.Residual(*layers).to(backend), x) == expected
    model = nn.Residual(conv(), shortcut=nn.Conv2d(2, 2, 1)).to(backend)
    assert operations(model, x) == ["conv2d", "conv2d"]
    assert operations(nn.Residual(conv(), fuse=False).to(backend), x) == ["conv2d", "add"]
    model[0].register_forward_hook(lambda *_: None)
    assert operations(model, x) == ["conv2d", "conv2d", "add"]


@pytest.mark.parametrize("last", [lambda: nn.BatchNorm2d(3), lambda: nn.Conv2d(3, 3, 1)])
def test_a_residual_gives_the_numbers_of_the_sum(backend, rng, last):
    body = [nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(), last()]
    x, dy = (rng.normal(size=(2, 5, 4, 3)).astype(np.float32) for _ in range(2))
    results = []
    for fuse in (True, False):
        model = nn.Residual(*body, shortcut=nn.Identity(), fuse=fuse).to(backend)
        given = gp.tensor(x, backend=backend, requires_grad=True)
        model.zero_grad()
        y = model(given)
        y.backward(dy)
        results.append([host(y), host(given.grad, backend), *(host(p.grad, backend) for p in model.parameters())])
    for one, by_one in zip(*results, strict=True):
        same(one, by_one, tolerances.BACKENDS)


@pytest.mark.parametrize(
    "pool", [nn.MaxPool2d(3), nn.MaxPool2d(2, stride=1), nn.MaxPool2d(2, padding=1), nn.MaxPool2d(2, padding="same")]
)
def test_another_pool_runs_by_itself(pool):
    assert runs(nn.Conv2d(1, 2, 3), pool) == [("Conv2d", []), ("MaxPool2d", [])]


def test_a_layer_of_a_subclass_is_left_alone():
    class Noisy(nn.ReLU):
        def forward(self, x):
            return super().forward(x) + 1.0

    class Own(nn.Conv2d):
        pass

    assert runs(nn.Conv2d(1, 2, 3), Noisy()) == [("Conv2d", []), ("Noisy", [])]
    assert runs(Own(1, 2, 3), nn.ReLU()) == [("Own", []), ("ReLU", [])]


def test_a_hook_on_a_layer_shows_it_as_it_stands(rng):
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2))
    x = gp.tensor(rng.normal(size=(1, 6, 6, 1)), dtype="float32")
    seen = []
    for position in range(3):
        handle = model[position].register_forward_hook(lambda module, inputs, y: seen.append((type(module), y.shape)))
        model(x)
        handle.remove()
    assert seen == [(nn.Conv2d, (1, 4, 4, 2)), (nn.ReLU, (1, 4, 4, 2)), (nn.MaxPool2d, (1, 2, 2, 2))]
    assert len(list(fused(model.layers))) == 1


def trained(backend, rng, *, fuse):
    """Output and gradients of one batch."""
    gp.seed(1)
    layers = [
        nn.Conv2d(2, 5, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(5, 20, (2, 3)), nn.Tanh(), nn.MaxPool2d(2),
        nn.BatchNorm2d(20), nn.Sigmoid(), nn.Flatten(), nn.Linear(40, 6), nn.LeakyReLU(0.2), nn.Linear(6, 3), nn.Sigmoid(),
    ]  # fmt: skip
    model = nn.Sequential(*layers, fuse=fuse).to(backend)
    x = gp.tensor(rng.normal(size=(3, 8, 13, 2)).astype(np.float32), backend=backend, requires_grad=True)
    y = model(x)
    y.backward(rng.normal(size=y.shape))
    return [host(y), host(x.grad, backend), *(host(p.grad, backend) for p in model.parameters())]


def test_the_numbers_are_those_of_the_layers_one_by_one(backend):
    pairs = zip(*(trained(backend, np.random.default_rng(0), fuse=fuse) for fuse in (True, False)), strict=True)
    for one, by_one in pairs:
        same(one, by_one, tolerances.BACKENDS)


def test_fuse_false_runs_every_layer(monkeypatch, rng):
    calls = []
    monkeypatch.setattr(nn.ReLU, "forward", lambda self, x: calls.append(x.shape) or x)
    x = gp.tensor(rng.normal(size=(1, 5, 5, 1)), dtype="float32")
    nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), fuse=False)(x)
    assert calls == [(1, 3, 3, 2)]
    nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU())(x)
    assert len(calls) == 1
