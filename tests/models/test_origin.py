"""A file says how its model is made, and `load_model` makes it again; opening a file imports nothing."""

import copy
import json
import pickle

import numpy as np
import pytest

import gpunet as gp
from gpunet import interop, models, nn
from gpunet.models.rebuilding import rebuild
from gpunet.nn.origin import MAKERS, origin

MADE = {
    "lenet": ((20, 24, 2), {"num_classes": 3}),
    "cnn": ((8, 12, 2), {"num_classes": 3, "dropout": 0.5}),
    "alexnet": ((32, 40, 2), {"num_classes": 3, "dense": (8, 6)}),
    "vgg11": ((32, 32, 2), {"num_classes": 3, "batch_norm": True, "dense": (8,)}),
    "vgg16": ((32, 32, 1), {"num_classes": 3, "dense": (8,)}),
    "resnet9": ((32, 32, 2), {"num_classes": 3}),
    "resnet18": ((32, 32, 2), {"num_classes": 3, "stem": "small"}),
    "resnet34": ((32, 32, 2), {"num_classes": 3}),
    "mobilenet": ((32, 32, 2), {"num_classes": 3}),
    "speedrun": ((), {}),
    "koch": ((105, 105, 1), {}),
    "conv4": ((28, 24, 1), {"channels": (4, 5, 6, 7)}),
    "UNet": (2, {"num_classes": 3, "base_channels": 4, "depth": 2, "batch_norm": True, "upsample": "bilinear"}),
    "YOLO": (np.array([[10.0, 14.5], [30, 20]]), {"num_classes": 3, "base_channels": 4}),
}
"""The first argument and the options of each model, most of them no defaults."""


def made(name):
    first, options = MADE[name]
    return getattr(models, name)(*(() if name == "speedrun" else (first,)), **options)


def shapes(model):
    return {name: array.shape for name, array in model.state_dict().items()}


def test_every_model_is_recorded():
    classes = {name for name, value in vars(models).items() if isinstance(value, type) and issubclass(value, nn.Module)}
    recorded = {name for name in MAKERS if hasattr(models, name)}
    assert recorded == set(MADE) | {"Siamese"}  # which takes a module
    assert classes - recorded == {"BasicBlock"}  # a part of networks


@pytest.mark.parametrize("name", MADE)
def test_a_model_is_made_again_from_what_is_recorded_of_it(name):
    model = made(name)
    said = json.loads(json.dumps(origin(model)))
    assert said["name"] == name
    again = rebuild("file", said)
    assert shapes(again) == shapes(model)
    assert repr(again) == repr(model)
    for other in (again, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert origin(other) == origin(model)


@pytest.mark.parametrize(
    "model",
    [
        lambda: models.alexnet((63, 64, 2), 3, dense=(8,), variant="torchvision"),
        lambda: models.vgg11((32, 32, 2), 3, dense=(8,), variant="torchvision"),
        lambda: models.mobilenet((16, 16, 2), 3, width_mult=0.1, variant="timm"),
    ],
)
def test_a_variant_is_made_again_from_what_is_recorded_of_it(model):
    made = model()
    again = rebuild("file", json.loads(json.dumps(origin(made))))
    assert shapes(again) == shapes(made)
    assert repr(again) == repr(made)


@pytest.mark.parametrize("kind", ["checkpoint", "weights"])
def test_load_model_makes_the_model_of_a_file_with_its_weights(tmp_path, rng, kind):
    model, path = models.cnn((8, 8, 1), 3, dropout=0.5), tmp_path / "a.safetensors"
    (interop.save_checkpoint if kind == "checkpoint" else interop.save_weights)(path, model)
    other = models.load_model(path)
    x = rng.normal(size=(2, 8, 8, 1)).astype(np.float32)
    np.testing.assert_array_equal(other.eval()(gp.tensor(x)).numpy(), model.eval()(gp.tensor(x)).numpy())


class Own(nn.Module):
    def __init__(self):
        self.dense = nn.Linear(3, 2)


class Wider(models.UNet):
    def __init__(self):
        super().__init__(1, 2, base_channels=4, depth=1)


@pytest.mark.parametrize(
    "make",
    [Own, Wider, lambda: models.Siamese(nn.Linear(3, 2), 2), lambda: nn.fold_batch_norm(models.resnet9((8, 8, 1)))],
)
def test_a_model_of_the_users_own_is_recorded_by_its_class_and_supplied_by_the_caller(tmp_path, make):
    model, path = make(), tmp_path / "a.safetensors"
    named = f"{type(model).__module__}:{type(model).__qualname__}"
    assert origin(model) == {"class": named}
    interop.save_weights(path, model)
    with pytest.raises(ValueError, match=f"the model of .* is {named}, none of gpunet.models: pass make="):
        models.load_model(path)
    other = models.load_model(path, make)
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, other.state_dict()[name])


def test_the_record_is_no_part_of_the_model(tmp_path):
    model = models.cnn((8, 8, 1), 3)
    plain = nn.Sequential(*model)
    assert list(model.state_dict()) == list(plain.state_dict())
    assert repr(model) == repr(plain)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (None, "does not say how its model is made: make it, and load its weights"),
        ({"name": "load_model", "arguments": {}}, "is load_model, none of gpunet.models"),
        ({"name": "os.system", "arguments": {}}, "is os.system, none of gpunet.models"),
        ({"class": "os:system"}, "is os:system, none of gpunet.models"),
        ({"name": "cnn", "arguments": {"nonsense": 1}}, "has arguments that cnn does not take"),
        ({"name": "cnn", "arguments": {"input_shape": [8, 8]}}, "has arguments that cnn does not take"),
        ({"name": "cnn"}, "has arguments that cnn does not take"),
        ({"name": "mobilenet", "arguments": {"width_mult": 1e308}}, "has arguments that mobilenet does not take"),
        ({"name": "UNet", "arguments": {"depth": 10**9}}, "depth is 1000000000 but takes 0 to 16"),
        ({"name": "UNet", "arguments": {"depth": -2}}, "depth is -2 but takes 0 to 16"),
        ([1], "describes its model by list but takes a dict"),
    ],
)
def test_what_names_no_model_is_refused(said, message):
    with pytest.raises(ValueError, match=message):
        rebuild("a.safetensors", said)


def test_a_model_whose_pool_was_replaced_is_not_taken_for_the_one_that_was_made():
    """The weights would fit, and the results be wrong."""
    model = models.lenet()
    assert origin(model)["name"] == "lenet"
    model.layers[1] = nn.AvgPool2d(2)
    assert origin(model) == {"class": "gpunet.nn.sequential:Sequential"}


def test_a_model_inside_another_is_made_again_with_it(rng):
    model = models.Siamese(models.conv4((16, 16, 1), (3, 4)), 64)
    again = rebuild("file", json.loads(json.dumps(origin(model))))
    again.load_state_dict(model.state_dict())
    a, b = rng.normal(size=(2, 3, 16, 16, 1)).astype(np.float32)
    np.testing.assert_array_equal(again(a, b).numpy(), model(a, b).numpy())


def test_the_images_of_the_whitening_filters_are_not_recorded(rng):
    model = models.speedrun((9, 9, 1), 2, rng.normal(size=(4, 9, 9, 1)))
    assert origin(model)["arguments"] == {"input_shape": [9, 9, 1], "num_classes": 2}


def test_a_file_cannot_ask_for_more_weights_than_it_holds(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    interop.save_weights(path, models.cnn((8, 8, 1), 3))
    huge = {"name": "cnn", "arguments": {"input_shape": [8, 8, 1], "num_classes": 10_000}}
    monkeypatch.setattr("gpunet.models.rebuilding.read_origin", lambda path: huge)
    with pytest.raises(ValueError, match="the layers take more weights than are allowed here"):
        models.load_model(path)
