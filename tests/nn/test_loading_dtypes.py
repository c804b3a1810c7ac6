"""What may be loaded into a model, an optimizer, averages or a schedule: arrays of floats, with values that fit."""

import warnings

import ml_dtypes
import numpy as np
import pytest

import gpunet as gp
from gpunet import nn, optim

FLOATS = [np.float16, ml_dtypes.bfloat16, np.float32, np.float64, np.longdouble, ">f4", ">f8"]
WRONG = {
    **{
        name: np.ones((2, 3), name) for name in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint64", "bool")
    },
    "complex64": np.ones((2, 3), np.complex64) * 1j,
    "complex128": np.ones((2, 3), np.complex128),
    "object": np.full((2, 3), None),
    "<U1": np.full((2, 3), "1"),
    "S1": np.full((2, 3), b"1"),
    "datetime64": np.zeros((2, 3), "M8[s]"),
    "list": [[1.0] * 3] * 2,
    "tuple": ((1.0,) * 3,) * 2,
    "NoneType": None,
    "float": 1.0,
    "str": "weight",
    "MaskedArray": np.ma.masked_array(np.ones((2, 3), np.float32), np.eye(2, 3)),
    "Tensor": gp.tensor(np.ones((2, 3), np.float32)),
}


class Net(nn.Module):
    """Two layers and a buffer."""

    def __init__(self):
        self.one, self.two = nn.Linear(2, 3), nn.Linear(3, 2)
        self.seen = nn.Buffer(np.zeros((2, 3), np.float32))

    def forward(self, x):
        return self.two(self.one(x))


def assert_unchanged(state, before):
    assert list(state) == list(before)
    for name, value in state.items():
        np.testing.assert_array_equal(value, before[name])


@pytest.mark.parametrize("dtype", FLOATS, ids=lambda dtype: np.dtype(dtype).str + np.dtype(dtype).name)
def test_any_float_dtype_is_rounded_once_to_the_models(backend, dtype, rng):
    values = rng.normal(size=(2, 3)).astype(dtype)
    values[0] = [np.nan, np.inf, -np.inf]
    values[1, 0] = 1e-30 if np.dtype(dtype).itemsize > 2 else 0
    net = Net().to(backend)
    net.load_state_dict({**net.state_dict(), "one.weight": values, "seen": values})
    for loaded in (net.one.weight, net.seen):
        assert loaded.dtype == np.float32
        np.testing.assert_array_equal(loaded.numpy(), values.astype(np.float32))
    values[...] = 9
    assert np.isnan(net.one.weight.numpy()[0, 0])


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("entry", ["one.weight", "seen"])
def test_what_is_no_array_of_floats_is_named_and_nothing_changes(backend, kind, entry, held):
    net = Net().to(backend)
    optimizer = optim.SGD(net.parameters(), lr=0.1) if held else None
    before = net.state_dict()
    state = {name: np.full_like(value, 9) for name, value in before.items()}
    with pytest.raises(TypeError, match=rf"^load_state_dict: {entry} is .*{kind}.* takes .*float32"):
        net.load_state_dict({**state, entry: WRONG[kind]})
    assert_unchanged(net.state_dict(), before)
    assert optimizer is None or optimizer.arena.version == net.one.weight.version


@pytest.mark.parametrize(
    ("model", "value", "dtype"),
    [
        ("float32", 1e300, "float64"), ("float32", -3.5e38, "float64"),
        ("float16", 65520.0, "float32"), ("float16", -1e300, "float64"),
    ],
)  # fmt: skip
def test_a_value_that_would_become_infinite_is_named(model, value, dtype):
    net = Net().to("reference")
    if model == "float16":
        for tensor in (*net.parameters(), net.seen):
            tensor.data = tensor.data.astype(np.float16)
    before = net.state_dict()
    state = {name: np.full_like(array, 9) for name, array in before.items()}
    with pytest.raises(
        ValueError, match=rf"^load_state_dict: two\.bias holds .*, of {dtype}, which {model} cannot hold$"
    ):
        net.load_state_dict({**state, "two.bias": np.array([1, value], dtype)})
    assert_unchanged(net.state_dict(), before)


def test_the_largest_value_that_fits_is_loaded_and_the_smallest_become_0():
    top = float(np.finfo(np.float32).max)
    net = Net()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net.load_state_dict({**net.state_dict(), "two.bias": np.array([top * (1 + 1e-9), 1e-300])})
    assert net.two.bias.numpy().tolist() == [top, 0]


def test_every_fault_is_named_at_once():
    net = Net()
    state = {**net.state_dict(), "one.bias": np.ones(3, np.int8), "two.bias": np.ones(3), "seen": np.full((2, 3), 1e99)}
    with pytest.raises(ValueError, match="one.bias is int8.*; two.bias is \\(3,\\) but takes \\(2,\\); seen holds 1e"):
        net.load_state_dict(state)


@pytest.mark.parametrize("state", [None, [], "weights", [("one.bias", np.ones(3))]])
def test_a_state_that_is_no_mapping_is_named(state):
    with pytest.raises(TypeError, match=f"^load_state_dict: takes arrays by name.*got {type(state).__name__}$"):
        Net().load_state_dict(state)
    with pytest.raises(TypeError, match=f"^SGD: a state is what state_dict returns, got {type(state).__name__}$"):
        optim.SGD(Net().parameters(), lr=0.1).load_state_dict(state)


# ---- a parameter's data


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("kind", [kind for kind in WRONG if kind != "float"])
def test_a_parameters_data_are_floats(backend, kind, held):
    layer = nn.Linear(2, 3).to(backend)
    optimizer = optim.SGD(layer.parameters(), lr=0.1) if held else None
    before = layer.weight.numpy().copy()
    with pytest.raises(TypeError, match="^parameter: data "):
        layer.weight.data = WRONG[kind]
    np.testing.assert_array_equal(layer.weight.numpy(), before)
    assert optimizer is None or optimizer.holds([layer.weight])


@pytest.mark.parametrize("held", [False, True])
def test_a_parameters_data_come_from_a_host_array_too(backend, held, rng):
    layer = nn.Linear(2, 3).to(backend)
    optimizer = optim.SGD(layer.parameters(), lr=0.1) if held else None
    values = rng.normal(size=(2, 3)).astype(np.float32)
    layer.weight.data = values
    assert backend.owns(layer.weight.data)
    np.testing.assert_array_equal(layer.weight.numpy(), values)
    if optimizer is not None:
        layer.weight.data = values.astype(np.float64) * 2
        np.testing.assert_array_equal(layer.weight.numpy(), values * 2)
        with pytest.raises(ValueError, match="^parameter: data holds 1e\\+300, of float64, which float32 cannot hold"):
            layer.weight.data = np.full((2, 3), 1e300)


# ---- what is loaded beside a model


@pytest.mark.parametrize("kind", [kind for kind in WRONG if kind not in ("NoneType", "float", "str")])
def test_an_optimizers_slots_are_floats_and_nothing_changes(backend, kind):
    layer = nn.Linear(2, 3).to(backend)
    optimizer = optim.Adam(layer.parameters())
    before = optimizer.state_dict()
    state = {**before, "steps": [5, 5], "slots": {k: list(v) for k, v in before["slots"].items()}}
    state["slots"]["square"][0] = WRONG[kind]
    with pytest.raises((TypeError, ValueError), match="^Adam: the state's square"):
        optimizer.load_state_dict(state)
    assert optimizer.state_dict()["steps"] == [0, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": [1, 1.5]}, "the state's steps hold 1.5 but take integers"),
        ({"steps": [1, True]}, "the state's steps hold True but take integers"),
        ({"steps": [1, -1]}, "the state's steps hold -1 but none may be negative"),
        ({"steps": [1, None]}, "the state's steps hold None but take integers"),
        ({"scaling": [1.0, 2]}, "the state's scaling is"),
        ({"scaling": [0.0, 2, 1]}, "the state's scale is 0.0 but must be positive"),
    ],
)
def test_an_optimizers_counts_are_counts(change, message):
    optimizer = optim.SGD(nn.Linear(2, 3).parameters(), lr=0.1, momentum=0.9)
    with pytest.raises((TypeError, ValueError), match=f"^SGD: {message}"):
        optimizer.load_state_dict({**optimizer.state_dict(), **change})
    assert optimizer.steps.tolist() == [0, 0]


def test_an_optimizers_slot_that_would_overflow_is_named():
    optimizer = optim.SGD(nn.Linear(2, 3).parameters(), lr=0.1, momentum=0.9)
    slots = {"momentum": [np.full((2, 3), 1e200), np.zeros(3)]}
    with pytest.raises(ValueError, match=r"^SGD: the state's momentum 0 holds 1e\+200, of float64, which float32"):
        optimizer.load_state_dict({**optimizer.state_dict(), "slots": slots})


def test_averages_refuse_what_a_model_refuses(backend):
    net = Net().to(backend)
    optimizer = optim.SGD(net.parameters(), lr=0.1)
    average = optim.ExponentialMovingAverage(net, optimizer)
    before = average.state_dict()
    with pytest.raises(TypeError, match=r"one\.bias is int64"):
        average.load_state_dict({**before, "one.bias": np.arange(3)})
    assert_unchanged(average.state_dict(), before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step_count": 1.5}, "the state's steps hold 1.5 but take integers"),
        ({"base_rates": ["a"]}, "a rate of the state is 'a' but must be a number"),
        ({"base_rates": [float("nan")]}, "a rate of the state is nan but must be finite and not negative"),
    ],
)
def test_a_schedules_state_is_checked(change, message):
    optimizer = optim.SGD(nn.Linear(2, 3).parameters(), lr=0.1)
    schedule = optim.StepLR(optimizer, 2)
    with pytest.raises((TypeError, ValueError), match=f"^StepLR: {message}"):
        schedule.load_state_dict({**schedule.state_dict(), **change})
    with pytest.raises(ValueError, match="^StepLR: the state lacks options"):
        schedule.load_state_dict({"step_count": 1, "base_rates": [0.1]})
    assert schedule.step_count == 0
    assert optimizer.groups[0]["lr"] == 0.1
