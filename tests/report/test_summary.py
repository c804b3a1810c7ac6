"""A summary lists every layer that runs, and counts every parameter once."""

import numpy as np
import pytest

import gpunet as gp
from gpunet import nn


def test_summary_counts_what_is_known_of_lenet():
    summary = gp.summary(gp.models.lenet(), (28, 28, 1))
    parameters = [(row.kind, row.parameters) for row in summary.rows if row.parameters]
    assert parameters == [
        ("Conv2d + relu", (5 * 5 * 1 + 1) * 6), ("Conv2d + relu", (5 * 5 * 6 + 1) * 16),
        ("Linear + relu", 401 * 120), ("Linear + relu", 121 * 84), ("Linear", 85 * 10),
    ]  # fmt: skip
    assert summary.parameters == 61_706
    assert [row.output_shape for row in summary.rows] == [
        (28, 28, 6), (14, 14, 6), (10, 10, 16), (5, 5, 16), (400,), (120,), (84,), (10,)
    ]  # fmt: skip
    assert summary.parameter_bytes == 4 * 61_706
    assert summary.activation_bytes == 4 * (28 * 28 * 6 + 14 * 14 * 6 + 1600 + 400 + 400 + 120 + 84 + 10)
    flops = [row.flops for row in summary.rows]
    assert flops[0] == 28 * 28 * 6 * (2 * 25 + 1 + 1)  # products, bias, ReLU
    assert flops[1] == 14 * 14 * 6 * 4
    assert flops[2] == 10 * 10 * 16 * (2 * 150 + 2)
    assert flops[4] == 0
    assert flops[5:] == [120 * (2 * 400 + 2), 84 * (2 * 120 + 2), 10 * (2 * 84 + 1)]
    assert summary.flops == sum(flops)


def test_summary_prints_a_table():
    text = str(gp.summary(nn.Sequential(nn.Conv2d(3, 10, 5, padding="same")), (32, 32, 3)))
    assert "(5·5·3+1)·10" in text
    assert "760" in text
    assert "32x32x10" in text
    assert "40.0 KiB" in text
    assert "total" in text.splitlines()[-2]
    assert gp.summary(gp.models.cnn(), (28, 28, 1)).parameters == 467_818


def test_summary_leaves_the_model_as_it_was(backend):
    model = nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5), nn.Linear(2, 2, bias=False)).to(backend)
    model[1].eval()
    summary = gp.summary(model, (3,))
    assert [m.training for _, m in model.named_modules()] == [True, True, False, True]
    assert not any(vars(m).get("_forward_hooks") for _, m in model.named_modules())
    assert [row.formula for row in summary.rows] == ["(3+1)·2", "", "2·2"]
    with pytest.raises(ValueError, match="linear: takes x"):
        gp.summary(model, (4,))
    assert model.training
    assert not any(vars(m).get("_forward_hooks") for _, m in model.named_modules())


def test_a_layer_used_twice_is_summed_once_and_counted_twice_in_flops():
    shared = nn.Linear(2, 2)
    summary = gp.summary(nn.Sequential(shared, shared), (2,))
    assert [row.parameters for row in summary.rows] == [6, 0]
    assert [row.formula for row in summary.rows] == ["(2+1)·2", "shared"]
    assert summary.flops == 2 * (2 * 2 * 2 + 2)


def test_summary_counts_every_parameter_once_wherever_it_stands():
    class Odd(nn.Module):
        def __init__(self):
            self.scale = nn.parameter(np.ones(5, np.float32))
            self._inner = nn.Linear(3, 5)
            self.unused = nn.Linear(4, 4)

        def forward(self, x):
            y = self._inner(x)
            return y * self.scale, y

    model = Odd()
    summary = gp.summary(model, (3,))
    assert summary.parameters == sum(p.size for p in model.parameters()) == 5 + 20 + 20
    assert [(row.name, row.parameters) for row in summary.rows] == [("_inner", 20), ("", 5), ("unused", 20)]
    assert "(not run)" in str(summary)
    with pytest.raises(TypeError, match="summary: input_shape is 2"):
        gp.summary(model, 2)
