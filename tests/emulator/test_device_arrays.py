import gc
import operator

import numpy as np
import pytest

from gpunet.cuda.arrays import Arrays
from gpunet.cuda.cupy_arrays import CupyArrays
from gpunet.emulator import KernelFault
from gpunet.emulator.arrays import EmulatedArrays
from gpunet.emulator.device_array import ALIGNMENT, locate


@pytest.fixture
def device():
    return EmulatedArrays(track=True)


@pytest.fixture
def array(device):
    return device.asarray(np.arange(6, dtype=np.float32).reshape(3, 2))


HIDDEN_READS = {
    "float": float, "int": int, "bool": bool, "complex": complex, "index": operator.index, "round": round, "iter": iter,
    "list": list, "len": len, "item": lambda a: a.item(), "tolist": lambda a: a.tolist(), "get": lambda a: a.get(),
    "array": np.array, "asarray": np.asarray, "sum": np.sum, "ufunc": np.exp, "add": lambda a: a + 1,
    "radd": lambda a: 1 + a, "host add": lambda a: np.ones((3, 2)) + a,
    "host iadd": lambda a: operator.iadd(np.ones((3, 2)), a), "add itself": lambda a: a + a,
    "iadd": lambda a: operator.iadd(a, 1), "matmul": lambda a: a @ a, "neg": operator.neg,
    "equal": lambda a: a == 0, "host equal": lambda a: np.zeros((3, 2)) == a, "less": lambda a: a < 1,
    "contains": lambda a: 1 in a, "integer index": lambda a: a[0], "mask": lambda a: a[np.ones(3, bool)],
    "two indices": lambda a: a[0:1, 0:1], "assignment": lambda a: operator.setitem(a, slice(None), 0),
    "concatenate": lambda a: np.concatenate([a, np.ones((1, 2))]), "allclose": lambda a: np.allclose(a, a),
}  # fmt: skip


@pytest.mark.parametrize("name", HIDDEN_READS)
def test_a_hidden_host_read_is_refused(array, name):
    with pytest.raises(TypeError, match=r"DeviceArray"):
        HIDDEN_READS[name](array)


def test_a_refusal_says_what_to_use(array):
    with pytest.raises(TypeError, match=r"float\(\) of a DeviceArray \(shape \(3, 2\), float32\): .*to_host"):
        float(array)


def test_an_array_has_what_cupys_have(device, array):
    assert (array.shape, array.dtype, array.size, array.ndim, array.strides) == ((3, 2), np.float32, 6, 2, (8, 4))
    assert array.flags.c_contiguous
    assert array.nbytes == 24
    part = array[1:]
    assert part.shape == (2, 2)
    assert device.pointer(part) == device.pointer(array) + 8
    assert device.pointer(array) % ALIGNMENT == 0
    turned = array.reshape(2, -1)
    assert turned.shape == array.reshape((2, 3)).shape == (2, 3)
    assert device.pointer(turned) == device.pointer(array)
    np.testing.assert_array_equal(device.to_host(part), [[2, 3], [4, 5]])
    spread = array[::2]
    assert not spread.flags.c_contiguous
    with pytest.raises(TypeError, match="would copy it"):
        spread.reshape(4)
    assert device.asarray(spread).flags.c_contiguous
    np.testing.assert_array_equal(device.to_host(device.asarray(spread)), [[0, 1], [4, 5]])
    assert hash(array) != hash(part)


def test_the_arrays_of_both_devices_offer_the_same():
    for name in [name for name in vars(Arrays) if not name.startswith("_")]:
        assert callable(getattr(EmulatedArrays, name)), name
        assert callable(getattr(CupyArrays, name)), name


def test_data_goes_in_and_out_as_copies(device):
    host = np.arange(4, dtype=np.int64)
    array = device.asarray(host)
    host[:] = 7
    out = device.to_host(array)
    np.testing.assert_array_equal(out, np.arange(4))
    out[:] = 9
    np.testing.assert_array_equal(device.to_host(array), np.arange(4))
    assert device.asarray(array) is array
    assert device.asarray(array, np.int64) is array
    assert device.to_host(device.asarray(array, np.float32)).dtype == np.float32
    assert device.to_host(device.asarray([[1, 2], [3, 4]], "float32")).tolist() == [[1, 2], [3, 4]]
    assert device.to_host(device.asarray(2.5)).shape == ()
    with pytest.raises(TypeError, match="holds numbers"):
        device.asarray(np.array([None]))
    with pytest.raises(TypeError, match="to_host takes an array of this emulated device, got ndarray"):
        device.to_host(host)


def test_a_device_owns_its_own_arrays(device, array):
    other = EmulatedArrays()
    assert device.owns(array)
    assert not other.owns(array)
    assert not device.owns(np.ones(3))
    np.testing.assert_array_equal(other.to_host(other.asarray(array)), device.to_host(array))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_new_memory_is_nan(device, dtype):
    assert np.isnan(device.to_host(device.empty((3, 5), dtype))).all()
    assert device.empty((0, 4), dtype).shape == (0, 4)
    assert device.to_host(device.empty((), "int32")) == -1


def test_freed_memory_is_poisoned_when_its_last_array_is_gone(device, array):
    storage, _ = locate(array)
    part = array[1:]
    del array
    gc.collect()
    assert storage.live
    assert np.isfinite(device.to_host(part)).all()


def test_freed_memory_is_nan_again(device):
    array = device.asarray(np.ones(8, np.float32))
    storage, offset = locate(array)
    assert offset == 0
    assert storage.written.all()
    del array
    assert not storage.live
    assert np.isnan(storage.bytes.view(np.float32)).all()
    assert not storage.written.any()


@pytest.mark.parametrize(("at", "where"), [(-1, "before"), (24, "past the end of")])
def test_a_red_zone_reports_the_arrays_shape(device, array, at, where):
    storage, _ = locate(array)
    start = storage.address - storage._whole.ctypes.data
    storage._whole[start + at] = 0
    with pytest.raises(
        KernelFault, match=rf"something wrote {where} an array of shape \(3, 2\), float32, 1 bytes away"
    ):
        device.to_host(array)
    device.to_host(array)  # it is reported once
    storage._whole[start + at] = 0
    with pytest.raises(KernelFault, match="out of bounds"):
        device.synchronize()
