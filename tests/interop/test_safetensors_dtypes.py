"""Files whose arrays are of another dtype than the model, and checkpoints that fail half-way."""

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from gpunet import nn, optim
from gpunet.interop.safetensors import load_checkpoint, load_weights, save_checkpoint


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.safetensors"


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_a_file_of_another_float_dtype_is_widened_or_rounded(path, dtype, rng):
    values = {"weight": rng.normal(size=(2, 3)).astype(dtype), "bias": np.ones(3, dtype)}
    save_file(values, path)
    layer = nn.Linear(2, 3)
    load_weights(path, layer)
    assert layer.weight.dtype == np.float32
    np.testing.assert_array_equal(layer.weight.numpy(), values["weight"].astype(np.float32))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32", "int64", "bool"])
def test_a_file_of_other_than_floats_is_refused(path, dtype):
    save_file({"weight": np.ones((2, 3), np.float32), "bias": np.ones(3, dtype)}, path)
    layer = nn.Linear(2, 3)
    before = layer.state_dict()
    with pytest.raises(ValueError, match=rf"net\.safetensors: load_state_dict: bias is {dtype} but takes float32"):
        load_weights(path, layer)
    np.testing.assert_array_equal(layer.weight.numpy(), before["weight"])


def test_a_file_with_a_value_that_does_not_fit_is_refused(path):
    save_file({"weight": np.full((2, 3), 1e39), "bias": np.ones(3)}, path)
    with pytest.raises(
        ValueError, match=r"net\.safetensors: load_state_dict: weight holds 1e\+39, of float64, which float32"
    ):
        load_weights(path, nn.Linear(2, 3))


def test_a_schedule_that_refuses_leaves_model_and_optimizer_as_they_were(path):
    def made(gamma):
        layer = nn.Linear(2, 3)
        optimizer = optim.Adam(layer.parameters(), lr=0.1)
        layer(np.ones((1, 2), np.float32)).sum().backward()
        optimizer.step()
        return layer, optimizer, optim.StepLR(optimizer, 2, gamma)

    layer, optimizer, schedule = made(0.5)
    optimizer.step()
    save_checkpoint(path, layer, optimizer, schedule)
    other = made(0.25)
    before = other[0].state_dict(), other[1].state_dict()
    with pytest.raises(ValueError, match=r"net\.safetensors: StepLR: the state is of"):
        load_checkpoint(path, *other)
    np.testing.assert_array_equal(other[0].weight.numpy(), before[0]["weight"])
    after = other[1].state_dict()
    assert after["steps"] == before[1]["steps"] == [1, 1]
    for slot, values in before[1]["slots"].items():
        for one, value in zip(after["slots"][slot], values, strict=True):
            np.testing.assert_array_equal(one, value)
