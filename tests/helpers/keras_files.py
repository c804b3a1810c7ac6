"""Writes files in the form of Keras 3, without Keras: HDF5 by h5py, and the zip around it; asserts that they are refused."""

import io
import json
import zipfile

import h5py
import numpy as np
import pytest

from gpunet.interop import keras

CLASSES = {
    "conv2d": "Conv2D", "depthwise_conv2d": "DepthwiseConv2D", "separable_conv2d": "SeparableConv2D",
    "conv2d_transpose": "Conv2DTranspose", "dense": "Dense", "batch_normalization": "BatchNormalization",
    "layer_normalization": "LayerNormalization", "group_normalization": "GroupNormalization", "p_re_lu": "PReLU",
    "flatten": "Flatten", "sequential": "Sequential", "dropout": "Dropout",
}  # fmt: skip
"""Names of layers in paths, and of their classes in the settings."""


def weights_h5(layers, names=None):
    """The bytes of a .weights.h5 file of {path of a layer: its arrays}, such as {"layers/conv2d_1": [kernel, bias]}.

    `names` are the layers' own names, by path; the last part of the path otherwise.
    """
    written = io.BytesIO()
    with h5py.File(written, "w") as file:
        file.create_group("vars").attrs["name"] = "sequential"
        for path, arrays in layers.items():
            variables = file.create_group(f"{path}/vars")
            variables.attrs["name"] = (names or {}).get(path, path.rpartition("/")[2])
            for i, array in enumerate(arrays):
                made = variables.create_dataset(str(i), data=array)
                if np.asarray(array).dtype.name == "bfloat16":
                    made.attrs["dtype"] = "bfloat16"
    return written.getvalue()


def settings(*layers, kind="Sequential"):
    """The settings of a model of (name in paths, its own settings); those of a model inside are a tuple of its layers."""
    entries = []
    for name, own in layers:
        inner = settings(*own)["config"] if isinstance(own, tuple) else own
        entries.append({"module": "keras.layers", "class_name": CLASSES[name], "config": inner})
    return {"module": "keras", "class_name": kind, "config": {"name": "net", "layers": entries}}


def keras_zip(config, weights, **parts):
    """The bytes of a .keras file; `parts` are more files in it, or others of the same name, with dots as "__"."""
    written = io.BytesIO()
    text = config if isinstance(config, bytes | str) else json.dumps(config)
    with zipfile.ZipFile(written, "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.15.1", "date_saved": "2026-11-29@12:00:00"}))
        archive.writestr("config.json", text)
        archive.writestr("model.weights.h5", weights)
        for name, content in parts.items():
            archive.writestr(name.replace("__", "."), content)
    return written.getvalue()


def assert_refused(path, model, message, error=ValueError, **options):
    """Loading the file raises this error in one line with the file's name, and changes nothing."""
    before = model.state_dict()
    with pytest.raises(error, match=message) as caught:
        keras.load_weights(model, path, **options)
    assert type(caught.value) is error
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])
