"""Keras's networks give their results here with their weights, from both kinds of files."""

import os

import numpy as np
import pytest
import tolerances
from helpers import relative_error

import gpunet as gp
from gpunet import nn
from gpunet.interop import keras as weights

os.environ.setdefault("KERAS_BACKEND", "torch")  # which `import keras` reads
pytest.importorskip("torch")
keras = pytest.importorskip("keras")
pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings(
        "ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"
    ),  # Keras's own
]
L = keras.layers
NORM = {"eps": 1e-3, "momentum": 0.01}


def randomised(model, rng):
    """The model with random weights, its norms and moments with them."""
    for layer in model.layers:
        if hasattr(layer, "layers"):
            randomised(layer, rng)
            continue
        draw = {"gamma": (0.5, 1.5), "moving_variance": (0.5, 2)}
        values = [rng.uniform(*draw.get(v.name, (-0.5, 0.5)), size=v.shape) for v in layer.weights]
        layer.set_weights(values)
    return model


def plain():
    theirs = keras.Sequential([
        keras.Input((10, 12, 3)), L.Conv2D(6, 3, padding="same", activation="relu"), L.BatchNormalization(),
        L.MaxPooling2D(2), L.Conv2D(8, (3, 2), groups=2, use_bias=False), L.BatchNormalization(), L.Flatten(),
        L.Dense(7, activation="relu"), L.Dropout(0.5), L.Dense(4),
    ])  # fmt: skip
    ours = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding="same", activation="relu"), nn.BatchNorm2d(6, **NORM), nn.MaxPool2d(2),
        nn.Conv2d(6, 8, (3, 2), groups=2, bias=False), nn.BatchNorm2d(8, **NORM), nn.Flatten(),
        nn.Linear(8 * 3 * 5, 7, activation="relu"), nn.Dropout(0.5), nn.Linear(7, 4),
    )  # fmt: skip
    return theirs, ours


def many_layers():
    theirs = keras.Sequential([
        keras.Input((10, 12, 3)), L.DepthwiseConv2D(3, depth_multiplier=2), L.PReLU(shared_axes=[1, 2]),
        L.Conv2DTranspose(5, (3, 2), strides=2), L.LayerNormalization(), L.GroupNormalization(5), L.Conv2D(4, 1),
        L.LayerNormalization(axis=[1, 2, 3]), L.GlobalAveragePooling2D(), L.Dense(3, use_bias=False),
    ])  # fmt: skip
    ours = nn.Sequential(
        nn.Conv2d(3, 6, 3, groups=3), nn.PReLU(6), nn.ConvTranspose2d(6, 5, (3, 2), stride=2), nn.LayerNorm(5, eps=1e-3),
        nn.GroupNorm(5, 5, eps=1e-3), nn.Conv2d(5, 4, 1), nn.LayerNorm((17, 20, 4), eps=1e-3), nn.GlobalAvgPool2d(),
        nn.Flatten(), nn.Linear(4, 3, bias=False),
    )  # fmt: skip
    return theirs, ours


def separable():
    theirs = keras.Sequential([
        keras.Input((10, 12, 3)), L.Conv2D(4, 3), L.SeparableConv2D(6, 3, depth_multiplier=2), L.Conv2D(5, 1),
        L.SeparableConv2D(3, 3, use_bias=False), L.GlobalMaxPooling2D(), L.Dense(2),
    ])  # fmt: skip
    ours = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Conv2d(4, 8, 3, groups=4, bias=False), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 5, 1),
        nn.Conv2d(5, 5, 3, groups=5, bias=False), nn.Conv2d(5, 3, 1, bias=False), nn.GlobalMaxPool2d(), nn.Flatten(),
        nn.Linear(3, 2),
    )  # fmt: skip
    return theirs, ours


@pytest.mark.parametrize("kind", [".keras", ".weights.h5"])
@pytest.mark.parametrize("make", [plain, many_layers, separable])
def test_a_network_gives_the_same_results_with_the_same_weights(tmp_path, rng, make, kind):
    theirs, ours = make()
    randomised(theirs, rng)
    path = tmp_path / f"net{kind}"
    theirs.save(path) if kind == ".keras" else theirs.save_weights(path)
    found = weights.load_weights(ours, path)
    assert set(found) == set(ours.state_dict())
    x = rng.normal(size=(2, 10, 12, 3)).astype(np.float32)
    assert relative_error(ours.eval()(gp.tensor(x)).numpy(), theirs.predict(x, verbose=0)) <= tolerances.TORCH


def functional():
    """A network with a branch, a model inside, and norms without some of their arrays."""
    image = keras.Input((8, 8, 3))
    h = L.Conv2D(4, 3, padding="same")(image)
    block = keras.Sequential([L.Conv2D(4, 3, padding="same"), L.BatchNormalization(scale=False), L.ReLU()])
    h = L.Add()([h, block(h)])
    h = L.DepthwiseConv2D(3)(h)
    h = L.SeparableConv2D(5, 3)(L.BatchNormalization(center=False)(h))
    theirs = keras.Model(image, L.Dense(3)(L.GlobalAveragePooling2D()(h)))
    ours = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding="same"),
        nn.Residual(nn.Conv2d(4, 4, 3, padding="same"), nn.BatchNorm2d(4, **NORM), nn.ReLU()),
        nn.Conv2d(4, 4, 3, groups=4), nn.BatchNorm2d(4, **NORM),
        nn.Conv2d(4, 4, 3, groups=4, bias=False), nn.Conv2d(4, 5, 1), nn.GlobalAvgPool2d(), nn.Flatten(), nn.Linear(5, 3),
    )  # fmt: skip
    return theirs, ours


def test_a_keras_file_tells_the_order_in_a_functional_model_that_was_trained(tmp_path, rng):
    theirs, ours = functional()
    theirs.compile("adam", "mse")
    x = rng.normal(size=(4, 8, 8, 3)).astype(np.float32)
    theirs.fit(x, np.ones((4, 3)), verbose=0)
    randomised(theirs, rng)
    theirs.save(tmp_path / "net.keras")
    weights.load_weights(ours, tmp_path / "net.keras")
    assert relative_error(ours.eval()(gp.tensor(x)).numpy(), theirs.predict(x, verbose=0)) <= tolerances.TORCH
    theirs.save_weights(tmp_path / "net.weights.h5")
    with pytest.raises(ValueError, match=r"does not tell the order of .*: give a \.keras file"):
        weights.load_weights(ours, tmp_path / "net.weights.h5")


class Own(keras.Model):
    def __init__(self):
        super().__init__()
        self.body, self.heads = L.Conv2D(4, 3, name="stem"), [L.Dense(5), L.Dense(3, name="last")]

    def call(self, x):
        return self.heads[1](self.heads[0](self.body(x)))


def test_a_models_own_layers_are_named(tmp_path, rng):
    theirs = Own()
    x = rng.normal(size=(2, 8, 8, 3)).astype(np.float32)
    theirs(x)
    theirs.save_weights(tmp_path / "net.weights.h5")
    ours = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(4, 5), nn.Linear(5, 3))
    weights.load_weights(ours, tmp_path / "net.weights.h5", names={"stem": "0", "heads/dense": "1", "last": "2"})
    assert relative_error(ours(gp.tensor(x)).numpy(), theirs.predict(x, verbose=0)) <= tolerances.TORCH


def test_weights_of_16_bits_are_widened(tmp_path):
    theirs = keras.Sequential([keras.Input((3,)), L.Dense(2, dtype="bfloat16")])
    theirs.save_weights(tmp_path / "net.weights.h5")
    ours = nn.Linear(3, 2)
    weights.load_weights(ours, tmp_path / "net.weights.h5")
    kernel = theirs.layers[0].kernel.value.detach().float().cpu().numpy()
    np.testing.assert_array_equal(ours.weight.numpy(), kernel)


def test_keras_2s_form_is_refused_by_name(tmp_path):
    theirs, ours = plain()
    theirs.save(tmp_path / "net.h5")
    with pytest.raises(ValueError, match="is a file of Keras 2"):
        weights.load_weights(ours, tmp_path / "net.h5")
