import inspect

import numpy as np
import pytest

import gpunet as gp
from gpunet.backends import Backend, available_backends, get_backend, why_unavailable
from gpunet.backends.cuda.backend import CudaBackend
from gpunet.backends.numpy.backend import NumpyBackend
from gpunet.backends.reference.backend import ReferenceBackend


def test_each_name_has_one_backend_object():
    assert get_backend("numpy") is get_backend("numpy")
    assert get_backend(get_backend("reference")) is get_backend("reference")
    assert {"reference", "numpy"} <= set(available_backends())


@pytest.mark.parametrize("name", ["torch", "numpy:1", "cuda:x", "", None])
def test_an_unknown_name_raises_and_lists_the_known_ones(name):
    with pytest.raises(ValueError, match=r"get_backend: name is .* but takes reference, numpy, "):
        get_backend(name)


def test_the_environment_decides_auto(monkeypatch):
    monkeypatch.setenv("GPUNET_BACKEND", "reference")
    assert get_backend("auto") is get_backend("reference")
    monkeypatch.delenv("GPUNET_BACKEND")
    assert get_backend().name == ("numpy" if why_unavailable("cuda") else "cuda")


def test_cuda_without_a_gpu_raises_and_says_why():
    why = why_unavailable("cuda")
    if not why:
        pytest.skip("CUDA answers here")
    with pytest.raises(gp.BackendError, match="cuda|CUDA|CuPy"):
        get_backend("cuda")


SIDES = {"reference": ReferenceBackend, "numpy": NumpyBackend, "cuda": CudaBackend}
TOPICS = [base.__module__.rpartition(".")[2] for base in Backend.__bases__]
PRIMITIVES = [
    (topic, name, method)
    for topic, base in zip(TOPICS, Backend.__bases__, strict=True)
    for name, method in vars(base).items()
    if getattr(method, "__isabstractmethod__", False)
]


@pytest.mark.parametrize("side", SIDES)
def test_every_side_has_the_signatures_of_the_contract(side):
    for _, name, method in PRIMITIVES:
        own = inspect.signature(getattr(SIDES[side], name), eval_str=True)
        assert own == inspect.signature(method, eval_str=True), name


@pytest.mark.parametrize("side", SIDES)
def test_every_primitive_stands_in_the_file_of_its_topic(side):
    for topic, name, _ in PRIMITIVES:
        module = getattr(SIDES[side], name).__module__
        sides = {"cuda": ["cuda"], "numpy": ["numpy", "numpy.compiled", "host"]}.get(side, [side, "host"])
        rooms = [f"gpunet.backends.{room}.{topic}" for room in sides]
        assert any(f"{module}.".startswith(f"{room}.") for room in rooms), f"{name} stands in {module}"


@pytest.mark.parametrize("side", SIDES)
def test_every_side_is_composed_in_the_order_of_the_contract(side):
    topics = [base.__module__.replace(".compiled", "").split(".")[3] for base in SIDES[side].__bases__]
    assert topics == [topic for topic in TOPICS if topic in topics]


def test_arrays_go_in_and_out(backend, dtype, rng):
    data = rng.normal(size=(3, 4)).astype(dtype)
    array = backend.asarray(data.copy())
    assert backend.owns(array)
    assert backend.asarray(array) is array
    np.testing.assert_array_equal(backend.to_numpy(array), data)
    np.testing.assert_array_equal(backend.to_numpy(backend.asarray(np.asfortranarray(data))), data)
    copied = backend.copy(array)
    filled = backend.full((3, 4), 2.5, dtype)
    assert (backend.to_numpy(filled) == 2.5).all()
    assert backend.copy(filled, out=array) is array
    assert (backend.to_numpy(array) == 2.5).all()
    np.testing.assert_array_equal(backend.to_numpy(copied), data)
    assert tuple(backend.empty((2, 0, 3), dtype).shape) == (2, 0, 3)
    backend.synchronize()
    assert "device" in backend.describe()


def test_unknown_elementwise_names_raise(backend):
    array = backend.full((2,), 1, np.float32)
    with pytest.raises(ValueError, match="unary: name is 'sin' but takes one of negative, exp"):
        backend.unary("sin", array)
    with pytest.raises(ValueError, match="binary: name is 'modulo' but takes one of add"):
        backend.binary("modulo", array, array)


def test_numpy_refuses_half_precision_and_lists_its_dtypes():
    with pytest.raises(TypeError, match="tensor: float16 is not computed on numpy, which takes float32, float64"):
        gp.tensor(np.ones(3, np.float16), backend="numpy")
    with pytest.raises(TypeError, match="tensor: data is of complex numbers \\(complex128\\) but takes real"):
        gp.tensor(np.ones(3, complex))


def test_the_reference_computes_in_half_precision(rng):
    x, w = rng.normal(size=(1, 5, 4, 3)).astype(np.float16), rng.normal(size=(2, 2, 3, 4)).astype(np.float16)
    t = gp.tensor(x, backend="reference", requires_grad=True)
    y = gp.functional.max_pool2d(gp.functional.conv2d(t, w, activation="relu"), 2, stride=1)
    y.backward(np.ones(y.shape))
    assert y.dtype == np.float16
    assert t.grad.dtype == np.float16
