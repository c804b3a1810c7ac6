"""Tensors, PyTorch's tensors and JAX's arrays in one memory."""

import gc
import resource
import weakref

import numpy as np
import pytest
from ml_dtypes import bfloat16

import gpunet as gp
from gpunet import dlpack, nn, optim
from gpunet import functional as F

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity

DTYPES = ("float32", "float64", "bool", "int32", "int64")


@pytest.fixture(params=["reference", "numpy"])
def host_backend(request):
    return gp.get_backend(request.param)


def address(t):
    return t.data.__array_interface__["data"][0]


class Unversioned:
    """A tensor of PyTorch's as an exporter of before DLPack's version 1."""

    def __init__(self, t):
        self.t = t

    def __dlpack__(self, stream=None):
        return self.t.__dlpack__()

    def __dlpack_device__(self):
        return self.t.__dlpack_device__()


# ---- PyTorch


@pytest.mark.parametrize("dtype", DTYPES)
def test_there_and_back_the_pointers_are_equal(host_backend, dtype):
    given = torch.arange(12).reshape(3, 4).to(getattr(torch, dtype))
    t = gp.tensor(given, dtype=dtype, backend=host_backend)
    back = torch.from_dlpack(t)
    assert given.data_ptr() == address(t) == back.data_ptr()
    assert back.dtype == given.dtype
    assert torch.equal(back, given)
    if dtype.startswith("float"):  # whose dtype is kept
        assert address(gp.tensor(given, backend=host_backend)) == given.data_ptr()
        given[0, 0] = 7
        assert float(t[0, 0]) == float(back[0, 0]) == 7
        t.data[0, 0] = 5
        assert float(given[0, 0]) == 5


@pytest.mark.parametrize("dtype", [*DTYPES, "float16", "bfloat16", "uint8", "int8", "int16"])
def test_every_dtype_is_converted_on_every_backend(backend, dtype):
    given = torch.tensor([[0, 1, 2], [3, 100, 1]]).to(getattr(torch, dtype))
    t = gp.tensor(given, dtype="float32", backend=backend)
    assert t.numpy().tolist() == given.to(torch.float32).tolist()
    if dtype in backend.narrow:
        kept = gp.tensor(given, backend=backend)
        assert kept.dtype == dtype
        assert kept.numpy().astype(np.float32).tolist() == given.to(torch.float32).tolist()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_16_bits_of_the_host_are_shared_both_ways(dtype):
    """The CPU backends compute in no such dtype, but a tensor may hold it."""
    t = gp.Tensor(np.array([1.5, -2, np.inf], dtype), gp.get_backend("numpy"))
    lent = torch.from_dlpack(t)
    assert lent.dtype == getattr(torch, dtype)
    assert lent.data_ptr() == address(t)
    assert lent.tolist() == [1.5, -2, float("inf")]
    back = dlpack.from_host(lent)
    assert back.dtype == dtype
    assert back.__array_interface__["data"][0] == address(t)


def test_views_are_taken_and_those_that_are_not_contiguous_copied(host_backend):
    given = torch.arange(24.0).reshape(4, 6)
    part = gp.tensor(given[1:3], backend=host_backend)
    assert address(part) == given[1:3].data_ptr()
    for view in (given.T, given[:, ::2], given[:, 1:3]):
        t = gp.tensor(view, backend=host_backend)
        assert address(t) != view.data_ptr()
        assert t.numpy().tolist() == view.tolist()
    assert gp.tensor(torch.tensor(2.0), backend=host_backend).item() == 2
    assert gp.tensor(torch.ones(0, 3), backend=host_backend).shape == (0, 3)
    assert torch.from_dlpack(gp.tensor(np.ones((0, 3)), backend=host_backend)).shape == (0, 3)


def test_an_exporter_of_before_version_1_is_taken_for_read_only():
    given = torch.arange(3.0)
    t = gp.tensor(Unversioned(given))
    assert address(t) == given.data_ptr()
    assert not t.data.flags.writeable


def test_what_requires_grad_is_refused_on_both_sides(backend):
    with pytest.raises(TypeError, match=r"tensor: data is torch.Tensor, which is not shared: .*tensor.detach\(\)"):
        gp.tensor(torch.ones(2, requires_grad=True), backend=backend)
    with pytest.raises(BufferError, match="a tensor that requires grad is not shared"):
        gp.Parameter(np.ones(2), backend).__dlpack__()  # as torch.from_dlpack asks for it


def test_functions_and_models_take_tensors_of_pytorchs(backend):
    x = gp.tensor(np.ones((2, 3), np.float32), backend=backend)
    v = torch.full((2, 3), 2.0)
    for value in (v, v.bfloat16(), v.half(), v.int()):
        assert (x * value).numpy().tolist() == [[2] * 3] * 2
        assert (value * x).numpy().tolist() == [[2] * 3] * 2
    assert (x == v).numpy().sum() == 0
    assert float(F.cross_entropy(x, torch.tensor([0, 2]))) == pytest.approx(np.log(3))
    layer = nn.Linear(3, 2).to(backend)
    assert np.array_equal(layer(v).numpy(), layer(v.numpy()).numpy())


def test_pytorch_sees_what_an_optimizer_writes():
    layer = nn.Linear(3, 2)
    optimizer = optim.SGD(layer.parameters(), lr=0.5)
    lent = torch.from_dlpack(layer.weight.detach())
    layer(np.ones((4, 3), np.float32)).sum().backward()
    before = lent.clone()
    optimizer.step()
    assert torch.equal(lent, before - 2)


# ---- who keeps the memory


class Owned(np.ndarray):
    """An array whose end can be seen."""


def test_pytorch_keeps_a_tensors_memory_and_lets_it_go():
    array = np.arange(1000.0).view(Owned)
    living = weakref.ref(array)
    lent = torch.from_dlpack(gp.Tensor(array, gp.get_backend("numpy")))
    part = lent[500:]
    del array, lent
    gc.collect()
    assert living() is not None
    assert part[-1] == 999
    del part
    gc.collect()
    assert living() is None


def test_a_tensor_keeps_pytorchs_memory():
    """That it lets it go, the loop below tells."""
    given = torch.arange(1000.0)
    t = gp.tensor(given)
    del given
    gc.collect()
    torch.zeros(1000)  # would take memory that was freed
    assert t.numpy()[-1] == 999
    twin = torch.from_dlpack(t)
    del t
    gc.collect()
    torch.zeros(1000)
    assert twin[-1] == 999


@pytest.mark.parametrize(
    "made", [lambda t: t, lambda t: t.bfloat16(), Unversioned], ids=["v1", "bfloat16", "before v1"]
)
def test_round_trips_leak_no_memory(made):
    """4 MiB a round: 200 rounds that leaked would take 800 MiB."""

    def rounds(n):
        for _ in range(n):
            t = gp.Tensor(dlpack.from_host(made(torch.zeros(2**20))), gp.get_backend("numpy"))
            torch.from_dlpack(t)
            t.__dlpack__(max_version=(1, 0))  # a capsule that nobody takes
        gc.collect()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    before = rounds(5)
    assert rounds(200) - before < 64 * 2**20


# ---- JAX


@pytest.fixture
def jax():
    return pytest.importorskip("jax", reason="JAX is not installed")


@pytest.mark.parametrize("dtype", ["float32", "int32", "bool"])
def test_jax_there_and_back_the_pointers_are_equal(jax, host_backend, dtype):
    given = jax.numpy.arange(12).reshape(3, 4).astype(dtype)
    t = gp.tensor(given, dtype=dtype, backend=host_backend)
    assert address(t) == given.unsafe_buffer_pointer()
    assert not t.data.flags.writeable  # JAX's arrays never change
    own = gp.tensor(np.array(given), dtype=dtype, backend=host_backend)
    lent = jax.dlpack.from_dlpack(own)
    assert lent.dtype == dtype
    assert np.array_equal(lent, given)
    if address(own) % 64 == 0:  # which JAX asks of memory that it does not copy
        assert lent.unsafe_buffer_pointer() == address(own)


def test_jax_and_bfloat16(jax):
    given = jax.numpy.arange(4, dtype=jax.numpy.bfloat16)
    array = dlpack.from_host(given)
    assert array.dtype == bfloat16
    assert array.__array_interface__["data"][0] == given.unsafe_buffer_pointer()
    assert gp.tensor(given, dtype="float32").numpy().tolist() == [0, 1, 2, 3]
    lent = jax.dlpack.from_dlpack(gp.Tensor(np.arange(4).astype(bfloat16), gp.get_backend("numpy")))
    assert lent.dtype == jax.numpy.bfloat16
    assert lent.tolist() == [0, 1, 2, 3]


def test_jaxs_memory_lives_as_long_as_a_tensor_that_borrows_it(jax):
    given = jax.numpy.arange(1000.0)
    t = gp.tensor(given)
    del given
    gc.collect()
    assert t.numpy()[-1] == 999


def test_functions_take_jaxs_arrays(jax, backend):
    x, v = gp.tensor(np.ones((2, 3), np.float32), backend=backend), jax.numpy.full((2, 3), 2.0)
    assert (x * v).numpy().tolist() == [[2] * 3] * 2
    assert (x + v.astype(jax.numpy.bfloat16)).numpy().tolist() == [[3] * 3] * 2
