"""Files in the form of Keras 3, written by h5py: layouts against definitions, the order of layers, and what is refused.

tests/parity/test_keras_weights.py compares with Keras itself.
"""

import io
import warnings

import h5py
import ml_dtypes
import numpy as np
import pytest
from helpers.keras_files import assert_refused, keras_zip, settings, weights_h5

import gpunet as gp
from gpunet import nn
from gpunet.interop import keras

NORM = {"eps": 1e-3, "momentum": 0.01}
THEIRS = {"epsilon": 1e-3, "momentum": 0.99}


def arrays(rng, *shapes):
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


pytestmark = pytest.mark.usefixtures("h5py_mostly_here")


# ---- layouts and order


def test_depthwise_filters_of_a_channel_stand_side_by_side(rng, written):
    (kernel, bias) = arrays(rng, (2, 3, 4, 2), (8,))
    model = nn.Conv2d(4, 8, (2, 3), groups=4)
    keras.load_weights(model, written(weights_h5({"layers/depthwise_conv2d": [kernel, bias]})))
    x = rng.normal(size=(1, 2, 3, 4)).astype(np.float32)
    expected = [np.sum(x[0, :, :, c] * kernel[:, :, c, m]) + bias[2 * c + m] for c in range(4) for m in range(2)]
    np.testing.assert_allclose(model(gp.tensor(x)).numpy().ravel(), expected, rtol=1e-5, atol=1e-5)


def test_layers_of_a_class_are_matched_in_the_order_of_their_numbers(rng, written, apart):
    kernels = [arrays(rng, (1, 1, 2, 2), (2,)) for _ in range(12)]
    layers = {f"layers/conv2d{f'_{i}' if i else ''}": kernels[i] for i in range(12)}
    model = nn.Sequential(*(nn.Conv2d(2, 2, 1) for _ in range(12)))
    found = keras.load_weights(model, written(weights_h5(layers)))
    assert found["11.weight"] == "layers/conv2d_11/vars/0"  # which stands before conv2d_2 in the file
    for i in range(12):
        np.testing.assert_array_equal(model[i].weight.numpy(), kernels[i][0])


def test_the_optimizers_state_and_seeds_are_left_out(rng, written):
    layers = {"layers/dense": arrays(rng, (3, 2), (2,)), "optimizer": [np.array(3), *arrays(rng, (3, 2))]}
    layers["layers/dropout/seed_generator"] = [np.array([1, 2], np.uint32)]
    model = nn.Linear(3, 2)
    assert set(keras.load_weights(model, written(weights_h5(layers)))) == {"weight", "bias"}


@pytest.mark.parametrize("dtype", ["float16", "float64", ml_dtypes.bfloat16])
def test_other_float_dtypes_are_converted(rng, written, dtype):
    kernel = rng.normal(size=(3, 2)).astype(dtype)
    model = nn.Linear(3, 2, bias=False)
    content = {"layers/dense": [kernel.view("V2") if dtype is ml_dtypes.bfloat16 else kernel]}
    path = written(weights_h5(content))
    if dtype is ml_dtypes.bfloat16:
        with h5py.File(path, "r+") as file:
            file["layers/dense/vars/0"].attrs["dtype"] = "bfloat16"
    keras.load_weights(model, path)
    np.testing.assert_array_equal(model.weight.numpy(), kernel.astype(np.float32))


def nested(rng):
    """Settings and arrays of a model with a model inside, in which the layers of a kind are not in their numbers' order."""
    inner = (("conv2d", {}), ("batch_normalization", {**THEIRS, "scale": False}))
    config = settings(("sequential", inner), ("conv2d", {}), ("flatten", {}), ("dense", {}))
    layers = {
        "layers/sequential/layers/conv2d": arrays(rng, (1, 1, 2, 2), (2,)), "layers/conv2d": arrays(rng, (1, 1, 2, 2), (2,)),
        "layers/sequential/layers/batch_normalization": arrays(rng, (2,), (2,), (2,)),
        "layers/dense": arrays(rng, (8, 3), (3,)),
    }  # fmt: skip
    layers["layers/sequential/layers/batch_normalization"][2] **= 2
    return config, layers


def nested_model(**norm):
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2, **{**NORM, **norm})),
        nn.Conv2d(2, 2, 1),
        nn.Flatten(),
        nn.Linear(8, 3),
    )


def test_the_settings_tell_the_order_of_models_inside_and_which_arrays_a_norm_has(rng, written):
    config, layers = nested(rng)
    path, model = written(keras_zip(config, weights_h5(layers)), "net.keras"), nested_model()
    found = keras.load_weights(model, path)
    assert found["0.0.weight"] == "layers/sequential/layers/conv2d/vars/0"
    assert found["1.weight"] == "layers/conv2d/vars/0"
    norm = layers["layers/sequential/layers/batch_normalization"]
    for own, expected in (
        ("weight", np.ones(2)),
        ("bias", norm[0]),
        ("running_mean", norm[1]),
        ("running_var", norm[2]),
    ):
        np.testing.assert_array_equal(getattr(model[0][1], own).numpy(), expected)
    assert_refused(written(weights_h5(layers)), nested_model(), r"does not tell the order of .*give a \.keras file")
    names = {"layers/sequential/layers/conv2d": "0.0", "layers/conv2d": "1", "dense": "3"}
    assert_refused(
        written(weights_h5(layers)), nested_model(), "unexpected layers/sequential/layers/batch_norm", names=names
    )
    names["batch_normalization"] = "0.1"
    assert_refused(
        written(weights_h5(layers)),
        nested_model(),
        "has 3 arrays but a batch norm has 4, and a file without",
        names=names,
    )


def test_a_dict_of_none_alone_leaves_layers_out_and_the_others_are_matched_in_their_order(rng, written):
    layers = {"layers/dense": arrays(rng, (3, 4), (4,)), "layers/dense_1": arrays(rng, (4, 9), (9,))}
    path, model = written(weights_h5(layers)), nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    head = model[1].weight.numpy().copy()
    assert_refused(path, model, "unexpected layers/dense_1, a dense layer more", keep=["1"])
    found = keras.load_weights(model, path, names={"dense_1": None}, keep=["1"])
    assert found == {"0.weight": "layers/dense/vars/0", "0.bias": "layers/dense/vars/1"}
    np.testing.assert_array_equal(model[0].weight.numpy(), layers["layers/dense"][0])
    np.testing.assert_array_equal(model[1].weight.numpy(), head)
    assert_refused(path, model, "missing 1.weight; missing 1.bias", names={"layers/dense_1": None})
    assert_refused(path, model, "names has 'dense_2', which the file has not", names={"dense_2": None})


def test_a_model_in_place_of_a_path_is_named():
    with pytest.raises(
        TypeError, match="load_weights: path is Linear but takes the name of a .weights.h5 or .keras file"
    ):
        keras.load_weights(nn.Linear(3, 2), nn.Linear(3, 2))


def test_names_lead_to_modules_and_none_leaves_a_layer_out(rng, written):
    layers = {"body/first": arrays(rng, (3, 3, 2, 1), (1, 1, 2, 4), (4,)), "last": arrays(rng, (4, 9), (9,))}
    path = written(weights_h5(layers, names={"body/first": "mixed"}))
    model = nn.Sequential(nn.Conv2d(2, 2, 3, groups=2, bias=False), nn.Conv2d(2, 4, 1), nn.Linear(4, 5))
    head = model[2].weight.numpy().copy()
    keras.load_weights(model, path, names={"mixed": ("0", "1"), "last": None}, keep=["2"])
    np.testing.assert_array_equal(model[0].weight.numpy()[:, :, 0], layers["body/first"][0][..., 0])
    np.testing.assert_array_equal(model[1].weight.numpy(), layers["body/first"][1])
    np.testing.assert_array_equal(model[2].weight.numpy(), head)
    assert_refused(path, model, "missing 2.weight", names={"mixed": ("0", "1"), "last": None})
    assert_refused(path, model, "names leads from last to 3, no layer", names={"mixed": ("0", "1"), "last": "3"})
    assert_refused(
        path,
        model,
        "names has 'other', which the file has not",
        names={"mixed": ("0", "1"), "last": None, "other": "2"},
    )


# ---- settings that differ


def test_a_norm_with_another_eps_is_refused_where_the_file_tells_and_warned_of_where_not(rng, written):
    config, layers = nested(rng)
    path = written(keras_zip(config, weights_h5(layers)), "net.keras")
    assert_refused(path, nested_model(eps=1e-5), "batch_normalization has epsilon=0.001 but 0.1 eps=1e-05")
    with pytest.warns(UserWarning, match=r"go on training with another momentum in 0.1 \(momentum=0.01\)"):
        keras.load_weights(nested_model(momentum=0.1), path)
    plain = written(weights_h5({"layers/batch_normalization": arrays(rng, *[(2,)] * 4)}))
    with pytest.warns(
        UserWarning, match="does not tell eps: Keras's default is 0.001, but the model has another one in 0"
    ):
        keras.load_weights(nn.Sequential(nn.BatchNorm2d(2)), plain)
    with warnings.catch_warnings(action="error"):
        keras.load_weights(nn.BatchNorm2d(2, eps=1e-3), plain)


def test_other_groups_and_rms_scaling_are_refused(rng, written):
    norm = written(
        keras_zip(
            settings(
                ("group_normalization", {"epsilon": 1e-3, "groups": 2}), ("layer_normalization", {"rms_scaling": True})
            ),
            weights_h5({f"layers/{n}_normalization": arrays(rng, (4,), (4,)) for n in ("group", "layer")}),
        ),
        "net.keras",
    )
    model = nn.Sequential(nn.GroupNorm(4, 4, eps=1e-3), nn.LayerNorm(4, eps=1e-3))
    assert_refused(norm, model, "has groups=2 but 0 num_groups=4; layers/layer_normalization has rms_scaling=True")


# ---- what is refused


def test_everything_that_does_not_fit_is_said_at_once(rng, written):
    layers = {
        "layers/conv2d": arrays(rng, (3, 3, 2, 4), (5,)), "layers/conv2d_1": arrays(rng, (1, 1, 4, 4)),
        "layers/dense": arrays(rng, (4, 2), (2,)), "layers/normalization": arrays(rng, (2,), (2,)),
        "layers/layer_normalization": [np.ones(4, np.float32), np.ones(4, np.int32)],
    }  # fmt: skip
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.LayerNorm(4, eps=1e-3), nn.BatchNorm2d(4, eps=1e-3), nn.Linear(4, 2, bias=False)
    )
    path = written(weights_h5(layers))
    assert_refused(path, model, "missing 2.weight; missing 2.bias; missing 2.running_mean; missing 2.running_var; ")
    assert_refused(path, model, r"layers/conv2d/vars/1 \(0.bias\) is \(5,\) but takes \(4,\)")
    assert_refused(path, model, "unexpected layers/conv2d_1, a convolution more than the model has")
    assert_refused(path, model, r"unexpected layers/dense/vars/1 \(3.bias\)")
    assert_refused(path, model, "unexpected layers/normalization, of a class that has no counterpart")
    whole = written(weights_h5({"layers/layer_normalization": layers["layers/layer_normalization"]}), "b.weights.h5")
    assert_refused(whole, nn.LayerNorm(4, eps=1e-3), "bias is int32 but takes float32")


def test_a_file_of_keras_2_is_refused_by_name(written):
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file.attrs["layer_names"] = ["dense"]
        file.create_dataset("dense/dense/kernel:0", data=np.ones((3, 2)))
    assert_refused(
        written(content.getvalue(), "old.h5"),
        nn.Linear(3, 2),
        r"is a file of Keras 2 \(it has layer_names\): load it in Keras 3",
    )
