"""ONNX's own tests of operators, and gpunet in the form of a backend of ONNX's."""

import re
import unittest
from pathlib import Path

import numpy as np
import pytest
from helpers import onnx_nodes
from helpers.onnx_graphs import model, node, numbers

import gpunet as gp

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
PAGE = Path(__file__).parents[2] / "docs" / "start" / "onnx.md"


@pytest.fixture(scope="module")
def outcomes():
    return onnx_nodes.outcomes()


def test_every_test_of_the_operators_passes_or_is_refused_by_name(outcomes):
    wrong = {
        case: error
        for outcome in outcomes.values()
        for case, error in outcome.refused.items()
        if not case.startswith("test_training_dropout")
    }
    assert wrong == {}
    for case, error in outcomes["Dropout"].refused.items():
        assert isinstance(error, ValueError), case
        assert "Dropout" in str(error)
        assert "training_mode is true" in str(error)
    assert all(outcome.passed for outcome in outcomes.values())


@pytest.mark.skipif(not PAGE.is_file(), reason="the documentation stands in a checkout")
def test_the_page_tells_what_passes(outcomes):
    told = PAGE.read_text(encoding="utf-8")
    if f"With onnx {onnx.__version__}:" not in told:
        pytest.skip("the page tells of another release of onnx")
    assert "\n".join(onnx_nodes.table(outcomes)) in told


def test_the_form_of_a_backend_is_the_one_that_onnx_tests():
    import warnings

    from onnx.backend.test import BackendTest

    from gpunet.interop.onnx import backend

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of ONNX's own code
        tests = BackendTest(backend, __name__).include(r"^test_(relu|conv_with_strides_padding|softmax_axis_1)_cpu$")
        result = unittest.TestResult()
        tests.test_suite.run(result)
    ran = result.testsRun - len(result.skipped)
    assert ran == 3
    assert result.wasSuccessful(), result.failures + result.errors


def test_one_node_runs_alone(rng):
    from gpunet.interop.onnx import backend

    x, y = numbers(rng, 2, 3), numbers(rng, 3)
    (z,) = backend.run_node(node("Add", "a,b", "c"), [x, y])
    np.testing.assert_array_equal(z, x + y)
    (shape,) = backend.run_node(node("Shape", "a", "b"), [x], opset=13)
    assert shape.tolist() == [2, 3]


def test_devices_are_backends():
    from gpunet.interop.onnx import backend

    assert backend.supports_device("CPU")
    assert backend.supports_device("CUDA:1") == ("cuda" in gp.available_backends())
    assert not backend.supports_device("TPU")


def test_inputs_are_taken_by_name_and_other_dtypes_are_refused(rng):
    from gpunet.interop.onnx import backend

    made = model([node("Sub", "a,b", "c")], {"a": [2], "b": [2]}, {"c": [2]})
    a, b = numbers(rng, 2), numbers(rng, 2)
    (c,) = backend.prepare(made).run({"b": b, "a": a})
    np.testing.assert_array_equal(c, a - b)
    with pytest.raises(TypeError, match=re.escape("run: input a is float16, which is not computed on numpy")):
        backend.prepare(made).run([a.astype(np.float16), b])


def test_a_model_is_compatible_where_all_of_its_operators_are_there():
    from gpunet.interop.onnx import backend

    assert backend.is_compatible(model([node("Relu", "x", "y")], {"x": [1]}, {"y": [1]}))
    assert not backend.is_compatible(model([node("Det", "x", "y")], {"x": [1]}, {"y": [1]}))
