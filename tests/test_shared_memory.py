"""Memory that tensors share with other libraries: no copies, no writes to what is read-only, nothing freed too early."""

import gc
import sys
import weakref

import numpy as np
import pytest
from ml_dtypes import bfloat16

import gpunet as gp
from gpunet import dlpack, nn, optim
from gpunet import functional as F
from gpunet.backends.contract import on_device

SPEAKS_VERSION_1 = np.lib.NumpyVersion(np.__version__) >= "2.1.0"
"""NumPy 2.0 exports no read-only arrays, and takes what it imports for read-only."""
PINNED = (3, 0)
"""DLPack's device of page-locked memory of the host, which CUDA's copies take."""


class Exporter:
    """Exports a NumPy array by DLPack alone, as a library of version 1 or of before does."""

    def __init__(self, array, *, versioned=True, device=None):
        self.array, self.versioned, self.device = array, versioned, device

    def __dlpack__(self, *, stream=None, **options):
        if not self.versioned and options:
            raise TypeError(f"__dlpack__() got an unexpected keyword argument {next(iter(options))!r}")
        if self.device not in (None, PINNED):
            raise BufferError("memory of a device")
        options = {name: value for name, value in options.items() if value is not None}
        return dlpack.export(self.array, stream=stream, **options)

    def __dlpack_device__(self):
        return self.device or (1, 0)


class Interface:
    """Shows a NumPy array by the array interface alone."""

    def __init__(self, array, read_only=False):
        self.array = array
        address, _ = array.__array_interface__["data"]
        self.__array_interface__ = {**array.__array_interface__, "data": (address, read_only)}


HOST = {"DLPack": Exporter, "DLPack before version 1": lambda a: Exporter(a, versioned=False), "interface": Interface}


def address(array):
    return array.__array_interface__["data"][0]


@pytest.fixture(params=["reference", "numpy"])
def host_backend(request):
    return gp.get_backend(request.param)


# ---- in


@pytest.mark.parametrize("kind", HOST)
@pytest.mark.parametrize("dtype", ["float32", "float64", "bool", "int32", "int64"])
def test_an_array_of_another_library_is_taken_without_a_copy(host_backend, kind, dtype):
    values = np.arange(12).reshape(3, 4).astype(dtype)
    t = gp.tensor(HOST[kind](values), dtype=dtype, backend=host_backend)
    assert t.dtype == dtype
    assert address(t.data) == address(values)
    assert np.array_equal(t.numpy(), values)


def test_page_locked_memory_of_the_host_is_the_hosts(host_backend):
    values = np.arange(4.0)
    made = Exporter(values, device=PINNED)
    assert not on_device(made)
    assert address(gp.tensor(made, backend=host_backend).data) == address(values)


@pytest.mark.parametrize("kind", HOST)
def test_another_dtype_or_layout_is_copied(kind, backend):
    values = np.arange(12.0).reshape(3, 4)
    for given in (values.T, values[:, ::2], values.astype(np.float16), values.astype(np.uint8)):
        t = gp.tensor(HOST[kind](given), dtype="float32", backend=backend)
        assert np.array_equal(t.numpy(), given.astype(np.float32))


def test_bfloat16_is_read_from_a_capsule(backend):
    values = np.array([[1, -2.5, np.inf], [0, 3e38, 1 / 3]], bfloat16)
    for versioned in (True, False):
        t = gp.tensor(Exporter(values, versioned=versioned), dtype="float32", backend=backend)
        assert np.array_equal(t.numpy(), values.astype(np.float32))
    array = dlpack.from_host(Exporter(values))
    assert array.dtype == bfloat16
    assert address(array) == address(values)


@pytest.mark.parametrize("kind", HOST)
def test_every_function_takes_arrays_of_other_libraries(backend, kind):
    made = HOST[kind]
    x = gp.tensor(np.ones((2, 3), np.float32), backend=backend)
    v = made(np.full((2, 3), 2, np.float32))
    assert (x + v).numpy().tolist() == [[3] * 3] * 2
    assert (v * x).numpy().tolist() == [[2] * 3] * 2
    assert (x < v).numpy().all()
    assert F.maximum(x, v).numpy().tolist() == [[2] * 3] * 2
    assert F.concatenate([x, v]).shape == (4, 3)
    assert (
        F.linear(x, made(np.ones((3, 4), np.float32)), made(np.ones(4, np.float32))).numpy().tolist() == [[4] * 4] * 2
    )
    assert float(F.cross_entropy(x, made(np.array([0, 2])))) == pytest.approx(np.log(3))
    assert float(F.mse_loss(x, v)) == 1
    assert x[made(np.array([1, 0, 1]))].shape == (3, 3)
    assert F.where(made(np.ones((2, 3), bool)), x, v).numpy().tolist() == [[1] * 3] * 2
    assert F.one_hot(made(np.array([1, 0])), 2, backend=backend).numpy().tolist() == [[0, 1], [1, 0]]
    weights = x.detach()
    weights.requires_grad = True
    (weights * 1).backward(v)
    assert backend.to_numpy(weights.grad).tolist() == [[2] * 3] * 2


READ_ONLY = {
    "NumPy": lambda a: a,
    "DLPack": Exporter,
    "DLPack before version 1": lambda a: Exporter(a.copy(), versioned=False),
    "interface": lambda a: Interface(a, read_only=True),
}


@pytest.mark.parametrize("kind", READ_ONLY)
def test_memory_that_may_only_be_read_is_shared_and_never_written(host_backend, kind):
    if kind == "DLPack" and not SPEAKS_VERSION_1:
        pytest.skip("NumPy 2.0 exports no read-only arrays")
    values = np.arange(6.0)
    values.flags.writeable = False
    t = gp.tensor(READ_ONLY[kind](values), backend=host_backend)
    assert not t.data.flags.writeable
    if kind != "DLPack before version 1":  # its capsule cannot say so, and NumPy takes it for read-only
        assert address(t.data) == address(values)
    with pytest.raises(ValueError, match="read-only"):
        t.data[0] = 1
    assert not np.asarray(t).flags.writeable
    if SPEAKS_VERSION_1:
        assert not np.from_dlpack(t).flags.writeable
    moments = [gp.tensor(READ_ONLY[kind](values), backend=host_backend), gp.tensor(np.ones(6), backend=host_backend)]
    x = gp.tensor(np.arange(24.0).reshape(4, 6), backend=host_backend)
    for order, name in ((moments, "running_mean"), (moments[::-1], "running_var")):
        with pytest.raises(ValueError, match=f"batch_norm: {name} is memory that may only be read"):
            F.batch_norm(x, *order, training=True)
        F.batch_norm(x, *order, training=False)
    parameter, buffer = gp.Parameter(t), nn.Buffer(values)
    parameter.accumulate_grad(np.ones(6))
    optim.SGD([parameter], lr=1).step()
    buffer.data[...] = 7
    assert values.tolist() == list(range(6))
    assert parameter.numpy().tolist() == [-1, 0, 1, 2, 3, 4]


class OldLibrary(Exporter):
    """Exports as before version 1, and converts itself to NumPy's writable array."""

    def __init__(self, array, converted):
        super().__init__(array, versioned=False)
        self.converted = converted

    def __array__(self, *_, **__):
        return self.converted


def test_a_librarys_own_conversion_says_whether_its_memory_may_be_written(host_backend):
    values = np.arange(4.0)
    t = gp.tensor(OldLibrary(values, values), backend=host_backend)
    assert t.data.flags.writeable
    assert address(t.data) == address(values)
    for converted in (values.copy(), values.astype(np.float32)):  # other memory: the capsule's is taken
        t = gp.tensor(OldLibrary(values, converted), backend=host_backend)
        assert address(t.data) == address(values)
        assert not t.data.flags.writeable


def test_what_is_not_shared_raises_one_line(backend):
    for made, said in (
        (Exporter(np.ones(2, np.complex64)), "tensor: data is of complex numbers"),
        (Exporter(np.ones(2), device=(8, 0)), "on a device of DLPack's kind 8 but takes the host or CUDA"),
        (Exporter(np.ones(2, ">f4")), "tensor: data is test_shared_memory.Exporter, which is not shared"),
    ):
        with pytest.raises(TypeError) as caught:
            gp.tensor(made, backend=backend)
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)


# ---- out


@pytest.mark.parametrize("dtype", ["float32", "float64", "bool", "int32", "int64"])
def test_numpy_takes_a_tensor_of_the_host_without_a_copy(host_backend, dtype):
    t = gp.tensor(np.arange(12).reshape(3, 4), dtype=dtype, backend=host_backend)
    for array in (np.from_dlpack(t), np.asarray(t), np.asarray(Interface(t))):
        assert array.dtype == dtype
        assert address(array) == address(t.data)
        assert np.array_equal(array, t.numpy())
    assert t.__dlpack_device__() == (1, 0)
    assert not hasattr(t, "__cuda_array_interface__")
    if SPEAKS_VERSION_1:
        assert address(np.from_dlpack(t, copy=True)) != address(t.data)


def test_a_result_that_waits_is_computed_when_it_is_exported(backend):
    x = gp.tensor(np.ones((2, 3), np.float32), backend=backend)
    y = F.linear(x, np.ones((3, 2), np.float32))
    if isinstance(y.data, np.ndarray):
        assert np.from_dlpack(y).tolist() == [[3, 3], [3, 3]]


def test_bfloat16_is_written_to_a_capsule(host_backend):
    t = gp.Tensor(np.array([1.5, -2], bfloat16), host_backend)
    capsule = t.__dlpack__(max_version=(1, 0))
    kind, read_only = dlpack._struct(capsule)
    assert (kind.code, kind.bits, kind.lanes, read_only) == (4, 16, 1, False)
    back = dlpack.from_host(t)
    assert back.dtype == bfloat16
    assert address(back) == address(t.data)
    assert np.asarray(t) is not None
    assert address(np.asarray(t)) == address(t.data)
    assert not hasattr(t, "__array_interface__")  # which has no name for bfloat16


def test_a_tensor_that_requires_grad_is_not_shared(backend):
    x = gp.tensor(np.ones(3, np.float32), backend=backend, requires_grad=True)
    for t in (x, x * 2, gp.Parameter(np.ones(3), backend)):
        with pytest.raises(BufferError, match=r"a tensor that requires grad is not shared; write tensor.detach\(\)"):
            t.__dlpack__()
        with pytest.raises(TypeError, match="a tensor that requires grad is not converted"):
            np.asarray(t)
        assert not hasattr(t, "__array_interface__")
        assert not hasattr(t, "__cuda_array_interface__")
    if isinstance(x.data, np.ndarray):
        assert address(np.from_dlpack(x.detach())) == address(x.data)


# ---- who keeps the memory


class Owned(np.ndarray):
    """An array whose end can be seen."""


def owned(dtype=np.float64):
    array = np.arange(1000).astype(dtype).view(Owned)
    return array, weakref.ref(array)


@pytest.mark.parametrize("kind", HOST)
def test_a_borrowed_array_lives_as_long_as_the_tensor_and_no_longer(kind):
    array, living = owned()
    t = gp.tensor(HOST[kind](array))
    del array
    gc.collect()
    assert living() is not None
    assert t.numpy()[-1] == 999
    part = t.detach().reshape(10, 100)
    del t
    gc.collect()
    assert living() is not None
    assert part.numpy()[-1, -1] == 999
    del part
    gc.collect()
    assert living() is None


@pytest.mark.parametrize("dtype", [np.float64, bfloat16])
def test_an_exported_array_lives_as_long_as_its_borrower_and_no_longer(dtype):
    array, living = owned(dtype)
    t = gp.Tensor(array, gp.get_backend("numpy"))
    borrowed, unused = dlpack.from_host(t), t.__dlpack__(max_version=(1, 0))
    del t, array
    gc.collect()
    assert borrowed[-1] == dtype(999)
    del borrowed
    gc.collect()
    assert living() is not None  # a capsule that nobody has taken holds it too
    del unused
    gc.collect()
    assert living() is None


def test_an_array_that_is_borrowed_outlives_the_optimizer_that_moves_its_parameter():
    parameter = gp.Parameter(np.arange(1000.0), "numpy")
    before = np.from_dlpack(parameter.detach())
    optimizer = optim.SGD([parameter], lr=1)
    after = np.from_dlpack(parameter.detach())
    del parameter, optimizer
    gc.collect()
    assert before.tolist() == after.tolist() == list(range(1000))


@pytest.mark.parametrize("versioned", [True, False])
@pytest.mark.parametrize("dtype", ["float32", bfloat16])
def test_capsules_leak_nothing(versioned, dtype):
    array = np.ones(4, dtype)
    count = sys.getrefcount(array)
    for _ in range(100):
        made = dlpack.from_host(Exporter(array, versioned=versioned))
        if SPEAKS_VERSION_1:
            dlpack.export(made, max_version=(1, 0))
        dlpack.export(array)
    del made
    gc.collect()
    assert sys.getrefcount(array) == count
    living = [weakref.ref(dlpack.from_host(Exporter(np.ones(2**20, dtype), versioned=versioned))) for _ in range(50)]
    gc.collect()
    assert not any(one() is not None for one in living)
