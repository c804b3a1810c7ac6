"""Which layers stand behind a flatten is found from the model or in a run, and never guessed."""

import numpy as np
import pytest

import gpunet as gp
from gpunet import functional as F
from gpunet import nn
from gpunet.interop import torch as weights


class Own(nn.Module):
    """A network whose flatten is in its `forward`."""

    def __init__(self, pool=False):
        self.body, self.pool, self.fc = (
            nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()),
            pool,
            nn.Linear(4 if pool else 60, 2),
        )

    def forward(self, x):
        h = self.body(x)
        return self.fc(h.mean(axis=(1, 2)) if self.pool else F.flatten(h))


class Detached(Own):
    def forward(self, x):
        return self.fc(F.flatten(self.body(x)).detach())


class Decoder(nn.Module):
    def __init__(self):
        self.fc = nn.Linear(5, 24)

    def forward(self, x):
        return self.fc(F.flatten(x)[:, :5]).reshape(len(x), 2, 3, 4)


def turned(w, channels):
    """A dense weight of PyTorch's with its inputs in gpunet's order, by index."""
    pixels = w.shape[1] // channels
    return np.stack([w[:, c * pixels + p] for p in range(pixels) for c in range(channels)])


def row(*layers):
    """A function that makes a `Sequential` of layers that other functions make, with a dense layer of 60 inputs behind it."""
    return lambda: nn.Sequential(*(make() for make in layers), nn.Linear(60, 2))


def conv3(channels=4):
    return lambda: nn.Conv2d(3, channels, 3)


FLATTENS = [
    (row(conv3(), nn.Flatten), "2.weight", {}, 4),
    (row(conv3(), lambda: nn.MaxPool2d(2), nn.Flatten, nn.Dropout), "4.weight", {}, 4),
    (lambda: nn.Sequential(row(conv3(), nn.Flatten)()), "0.2.weight", {}, 4),
    (row(lambda: nn.Sequential(conv3(5)()), nn.ReLU, nn.Flatten), "3.weight", {}, 5),
    (row(lambda: nn.Residual(nn.Conv2d(3, 3, 3, padding=1)), nn.Flatten), "2.weight", {}, 3),
    (row(lambda: nn.Concat(conv3(4)(), conv3(2)()), nn.Flatten), "2.weight", {}, 6),
    (row(conv3(60), nn.GlobalAvgPool2d, nn.Flatten), "3.weight", {}, 1),
    (row(), "0.weight", {}, 1),
    (row(lambda: nn.Concat(nn.Linear(5, 30), nn.Linear(5, 30)), nn.Flatten), "2.weight", {"flattened": {"2": None}}, 1),
    (row(lambda: nn.Concat(nn.Linear(5, 30), nn.Linear(5, 30)), nn.ReLU), "2.weight", {}, 1),
    (row(nn.Flatten), "1.weight", {"flattened": {"1": 3}}, 3),
    (row(nn.Flatten), "1.weight", {"input_shape": (4, 5, 3)}, 3),
    (Own, "fc.weight", {"input_shape": (5, 7, 3)}, 4),
    (Own, "fc.weight", {"flattened": {"fc": (4, 3, 5)}}, 4),
    (lambda: Own(pool=True), "fc.weight", {"input_shape": (5, 7, 3)}, 1),
]


@pytest.mark.parametrize(("make", "name", "told", "channels"), FLATTENS)
def test_the_inputs_of_a_dense_layer_behind_a_flatten_are_put_in_order(rng, make, name, told, channels):
    model = make()
    modes = [module.training for _, module in model.named_modules()]
    state = weights.to_torch_state_dict(model, **told, numpy=True)
    state = {key: rng.normal(size=array.shape).astype(np.float32) for key, array in state.items()}
    weights.load_state_dict(model, state, **told)
    np.testing.assert_array_equal(dict(model.named_parameters())[name].numpy(), turned(state[name], channels))
    assert [module.training for _, module in model.named_modules()] == modes
    assert not any(module.hooked for _, module in model.named_modules())


@pytest.mark.parametrize(
    ("make", "told", "message"),
    [
        (Own, {}, "whether fc stands behind a flatten is not told by the model: give input_shape="),
        (row(nn.Flatten), {}, "whether 1 stands behind a flatten"),
        (lambda: nn.Sequential(Own(), nn.Linear(2, 2)), {}, "whether 0.fc, 1 stands"),
        (
            row(lambda: nn.Concat(nn.Linear(5, 30), nn.Linear(5, 30)), nn.Flatten),
            {},
            "whether 2 stands behind a flatten",
        ),
        (Own, {"flattened": {"fc": 7}}, "flattened gives fc 7 channels, which do not divide its 60 inputs"),
        (Own, {"flattened": {"fc": (4, 5, 5)}}, r"flattened gives fc \(4, 5, 5\) but it takes 60 features"),
        (Own, {"flattened": {"fc": "4"}}, r"flattened gives fc '4' but takes C, \(C, H, W\) or None"),
        (Own, {"flattened": {"fc.weight": 4}}, "flattened names 'fc.weight', which is no dense layer"),
        (Own, {"input_shape": (5, 7)}, r"input_shape is \(5, 7\) but takes \(H, W, C\)"),
        (Detached, {"input_shape": (5, 7, 3)}, "whether fc stands behind a flatten is not told"),
        (Decoder, {"input_shape": (1, 2, 3)}, r"features become images \(2, 3, 4\), in another order"),
    ],
)
def test_an_order_that_is_not_known_is_never_guessed(make, told, message):
    model = make()
    before = model.state_dict()
    for convert in (
        lambda: weights.load_state_dict(model, before, **told),
        lambda: weights.to_torch_state_dict(model, **told),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            convert()
        assert "\n" not in str(caught.value)


def test_the_run_is_seen_inside_of_no_grad_too():
    with gp.no_grad():
        inside = weights.to_torch_state_dict(model := Own(), input_shape=(5, 7, 3), numpy=True)
    outside = weights.to_torch_state_dict(model, input_shape=(5, 7, 3), numpy=True)
    np.testing.assert_array_equal(inside["fc.weight"], outside["fc.weight"])
    assert (inside["fc.weight"] != model.fc.weight.numpy().T).any()


def test_a_model_on_a_device_stays_there(backend, rng):
    model = Own().to(backend)
    state = weights.to_torch_state_dict(model, input_shape=(5, 7, 3), numpy=True)
    state = {name: rng.normal(size=array.shape).astype(np.float32) for name, array in state.items()}
    weights.load_state_dict(model, state, input_shape=(5, 7, 3))
    assert model.fc.weight.backend is backend
    np.testing.assert_array_equal(model.fc.weight.numpy(), turned(state["fc.weight"], 4))
