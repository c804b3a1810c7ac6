"""Memory of a CUDA device that tensors share with other libraries, on the real CuPy."""

import ctypes
import gc
import weakref

import numpy as np
import pytest
from ml_dtypes import bfloat16

import gpunet as gp
from gpunet import dlpack
from gpunet import functional as F


class Exporter:
    """Exports a CuPy array by DLPack alone."""

    def __init__(self, array, *, versioned=True, read_only=False):
        self.array, self.versioned, self.read_only, self.streams = array, versioned, read_only, []

    def __dlpack__(self, *, stream=None, **options):
        self.streams.append(stream)
        if not self.versioned:
            if options:
                raise TypeError("unexpected keyword argument")
            return self.array.__dlpack__(stream=stream)
        capsule = self.array.__dlpack__(stream=stream, **options)
        if self.read_only:
            start = dlpack._get_pointer(capsule, b"dltensor_versioned")
            ctypes.c_uint64.from_address(start + 24).value |= 1
        return capsule

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


class Interface:
    """Shows a CuPy array by the CUDA array interface alone."""

    def __init__(self, array, *, read_only=False):
        self.array = array
        described = array.__cuda_array_interface__
        self.__cuda_array_interface__ = {**described, "data": (described["data"][0], read_only)}


KINDS = {"DLPack": Exporter, "DLPack before version 1": lambda a: Exporter(a, versioned=False), "interface": Interface}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bool", "int32", "int64"])
def test_an_array_of_another_library_is_taken_without_a_copy(cuda, cupy, kind, dtype):
    values = cupy.asarray(np.arange(12).reshape(3, 4).astype(dtype))
    t = gp.tensor(KINDS[kind](values), dtype=dtype)
    assert t.backend is cuda
    assert t.data.data.ptr == values.data.ptr
    assert t.dtype == dtype
    assert np.array_equal(t.numpy(), cupy.asnumpy(values))
    on_host = gp.tensor(KINDS[kind](values), dtype=None if dtype == "float32" else "float32", backend="numpy")
    assert np.array_equal(on_host.numpy(), cupy.asnumpy(values).astype(np.float32))


def test_bfloat16_comes_and_goes(cuda, cupy):
    values = cupy.asarray(np.array([1.5, -2], bfloat16))
    t = gp.tensor(Exporter(values))
    assert (t.dtype, t.data.data.ptr) == (bfloat16, values.data.ptr)
    back = cupy.from_dlpack(t)
    assert (back.dtype, back.data.ptr) == (bfloat16, values.data.ptr)
    assert not hasattr(t, "__cuda_array_interface__")


@pytest.mark.parametrize("kind", [Exporter, Interface])
def test_memory_that_may_only_be_read_is_copied(cuda, cupy, kind):
    values = cupy.asarray(np.arange(4, dtype=np.float32))
    t = gp.tensor(kind(values, read_only=True))
    assert t.data.data.ptr != values.data.ptr
    assert t.numpy().tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("kind", KINDS)
def test_functions_take_arrays_of_other_libraries(cuda, cupy, kind):
    x = gp.tensor(np.ones((2, 3), np.float32), backend="cuda")
    v = KINDS[kind](cupy.asarray(np.full((2, 3), 2, np.float32)))
    assert (x + v).numpy().tolist() == [[3] * 3] * 2
    assert (x < v).numpy().all()
    assert float(F.mse_loss(x, v)) == 1
    assert x[KINDS[kind](cupy.asarray(np.array([1, 0])))].shape == (2, 3)
    assert float(F.cross_entropy(x, KINDS[kind](cupy.asarray(np.array([0, 2]))))) == pytest.approx(np.log(3))
    assert (gp.tensor(np.ones((2, 3), np.float32)) + v).numpy().tolist() == [[3] * 3] * 2  # copied to the host


@pytest.mark.parametrize("dtype", ["float32", "float16", "bool", "int32", "int64"])
def test_cupy_takes_a_tensor_without_a_copy(cuda, cupy, dtype):
    t = gp.tensor(np.arange(6).reshape(2, 3), dtype=dtype, backend="cuda")
    for array in (cupy.from_dlpack(t), cupy.asarray(t), cupy.asarray(Interface(t))):
        assert (array.data.ptr, array.dtype, array.shape) == (t.data.data.ptr, dtype, (2, 3))
    assert t.__dlpack_device__() == (2, 0)
    assert np.array_equal(np.from_dlpack(t, device="cpu"), t.numpy())  # asked for, so copied to the host
    with pytest.raises(TypeError, match="a tensor on a device is not converted to a NumPy array implicitly"):
        np.asarray(t)
    assert not hasattr(t, "__array_interface__")


def test_a_consumers_stream_reaches_the_exporter(cuda, cupy):
    exporter = Exporter(cupy.asarray(np.ones(2, np.float32)))
    with cupy.cuda.Stream(non_blocking=True) as stream:
        gp.tensor(exporter)
        assert exporter.streams == [stream.ptr]


@pytest.mark.parametrize("kind", KINDS)
def test_borrowed_memory_lives_as_long_as_its_borrower_and_no_longer(cuda, cupy, machine, kind):
    def used():
        gc.collect()
        cupy.get_default_memory_pool().free_all_blocks()
        return machine.device.memory.used

    before = used()
    values = cupy.asarray(np.arange(2**18, dtype=np.float32))
    living = weakref.ref(values)
    t = gp.tensor(KINDS[kind](values))
    del values
    gc.collect()
    assert living() is not None
    assert t.numpy()[-1] == 2**18 - 1
    lent = cupy.from_dlpack(t)
    del t
    gc.collect()
    assert living() is not None
    assert int(lent[-1]) == 2**18 - 1
    del lent
    gc.collect()
    assert living() is None
    assert used() == before


def test_capsules_leak_no_memory(cuda, cupy, machine):
    t = gp.tensor(np.ones(2**16, np.float32), backend="cuda")

    def used_after(rounds):
        for _ in range(rounds):
            gp.tensor(Exporter(cupy.from_dlpack(t)))
            gp.tensor(Exporter(t.data, read_only=True))
            t.__dlpack__(max_version=(1, 0))  # never taken
        gc.collect()
        cupy.get_default_memory_pool().free_all_blocks()
        return machine.device.memory.used

    assert used_after(1) == used_after(50)
