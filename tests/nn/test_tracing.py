"""Traces of models: which operations ran, on what, and in which modules."""

import numpy as np
import pytest

import gpunet as gp
from gpunet import functional as F
from gpunet import nn
from gpunet.nn.tracing import input_shapes, tensors_of, trace


def test_operations_are_noted_in_order_with_inputs_options_and_modules():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Residual(nn.Linear(2, 2)))
    run = trace(model, [(4, 4, 1)], 3)
    named = [(operation.name, operation.call.name) for operation in run.operations]
    dense = [("reshape", "2.0"), ("linear", "2.0"), ("reshape", "2.0")]
    assert named == [("conv2d", "0"), ("activation", "1"), *dense, ("add", "2")]
    conv, relu, *_, add = run.operations
    assert conv.inputs[:2] == (run.inputs[0], model[0].weight)
    assert relu.inputs == (conv.result,)
    assert relu.options["activation"].name == "relu"
    assert add.result is run.output
    assert run.inputs[0].shape == (3, 4, 4, 1)


def test_runs_of_modules_stand_in_each_other():
    run = trace(nn.Sequential(nn.Residual(nn.ReLU()), nn.Tanh()), [(4,)], 1).call
    assert (run.name, run.outer, [inner.name for inner in run.inner]) == ("", None, ["0", "1"])
    residual = run.inner[0]
    assert (residual.leaf, residual.inner[0].leaf, residual.inner[0].outer) == (False, True, residual)
    assert residual.output is not None


def test_comparisons_positions_and_operations_of_the_users_own_are_noted_by_name():
    class Own(gp.Function):
        def forward(self, x):
            return x

    class Model(nn.Module):
        def forward(self, x):
            return Own.apply(x), x > 0, x.argmax(axis=1)

    run = trace(Model(), [(4,)], 2)
    own, greater, position = run.operations
    assert own.name.endswith("Own")
    assert "." in own.name
    assert (greater.name, position.name, position.options) == ("greater", "argmax", {"axes": (1,), "keepdims": False})
    assert [t.dtype for t in run.output[1:]] == [np.bool_, np.int64]


def test_the_seed_decides_the_inputs():
    made = [trace(nn.ReLU(), [(4,)], 2, seed).inputs[0].numpy() for seed in (0, 0, 1)]
    assert np.array_equal(made[0], made[1])
    assert not np.array_equal(made[0], made[2])


def test_a_model_that_raises_is_left_as_it_was():
    class Failing(nn.Module):
        def __init__(self):
            self.conv = nn.Conv2d(1, 2, 3)

        def forward(self, x):
            raise KeyError(self.conv(x).shape)

    model = Failing().train()
    model.conv.forward = forward = F.relu  # as a user may have put it there
    with pytest.raises(KeyError):
        trace(model, [(4, 4, 1)], 1)
    assert vars(model.conv)["forward"] is forward
    assert "forward" not in vars(model)
    assert model.training
    assert not model.conv.hooked
    assert F.relu(gp.tensor([1.0])).shape == (1,)  # which nothing notes any more


def test_nothing_is_recorded_for_a_backward_pass():
    model = nn.Linear(3, 2)
    assert trace(model, [(3,)], 2).output.creator is None


@pytest.mark.parametrize(
    ("given", "shapes"), [((28, 28, 1), [(28, 28, 1)]), ([3], [(3,)]), ([(3,), [4, 5]], [(3,), (4, 5)]), ((), [()])]
)
def test_input_shapes_are_one_or_several(given, shapes):
    assert input_shapes("f", given) == shapes


@pytest.mark.parametrize("given", [28, "abc", None, (28, 1.5), [(3,), 4]])
def test_other_input_shapes_are_refused(given):
    with pytest.raises(TypeError, match="f: input_shape is .* but takes extents without the batch"):
        input_shapes("f", given)


def test_outputs_are_named():
    one, two = gp.tensor([1.0]), gp.tensor([2.0])
    assert tensors_of("f", one) == {"y": one}
    assert list(tensors_of("f", (one, two))) == ["y0", "y1"]
    assert list(tensors_of("f", {"a": one, 3: two})) == ["a", "3"]
    for wrong in (None, (one, 1), [], np.ones(2)):
        with pytest.raises(TypeError, match="f: the model returns .* but must return tensors"):
            tensors_of("f", wrong)
