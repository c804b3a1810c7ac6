"""Memory that is reused is never in use by two arrays."""

import subprocess
import sys
import threading

import numpy as np
import pytest

import gpunet as gp
from gpunet import functional as F
from gpunet.backends.host import memory

LARGE = (300, 400)  # larger than the arrays that NumPy itself allocates


def address(array):
    return array.__array_interface__["data"][0]


def test_freed_memory_is_reused_and_live_memory_is_not():
    first = memory.empty(LARGE, np.float32)
    place = address(first)
    second = memory.empty(LARGE, np.float32)
    assert not np.shares_memory(first, second)
    del first
    third = memory.empty(LARGE, np.float32)
    assert address(third) == place
    assert not np.shares_memory(second, third)


def test_a_view_keeps_its_memory():
    whole = memory.empty(LARGE, np.float32)
    whole[...] = 7
    view = whole[10:20].reshape(-1)[::2]
    del whole
    for _ in range(3):
        memory.empty(LARGE, np.float32)[...] = 1
    assert (view == 7).all()


@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8", "int32"])
@pytest.mark.parametrize("shape", [LARGE, (5,), (), (0, 3), (1 << 16,), (3, 7, 11, 1001)])
def test_arrays_have_their_shape_and_are_aligned(dtype, shape):
    array = memory.empty(shape, dtype)
    assert (array.shape, array.dtype) == (shape, np.dtype(dtype))
    assert array.flags.c_contiguous
    assert array.flags.writeable
    if array.nbytes >= memory.SMALLEST:
        assert address(array) % 64 == 0
        array[...] = 1
        assert (array == 1).all()


def test_threads_are_never_given_the_same_memory():
    def work(mark):
        for _ in range(300):
            mine = [memory.empty(LARGE, np.float32) for _ in range(3)]
            for array in mine:
                array[::50] = mark
            if not all((array[::50] == mark).all() for array in mine):
                torn.append(mark)

    torn = []
    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not torn


def test_results_that_a_user_holds_do_not_change(rng):
    x = gp.tensor(rng.normal(size=(16, 32, 32, 8)).astype(np.float32))
    w = rng.normal(size=(3, 3, 8, 8)).astype(np.float32)
    held = [f(F.conv2d(x, w, padding=1)) for f in (F.relu, lambda y: F.max_pool2d(y, 2), F.sigmoid)]
    copies = [t.numpy().copy() for t in held]
    for _ in range(3):
        F.relu(F.conv2d(x * 0, w, padding=1))
        F.max_pool2d(F.sigmoid(x), 2)
    for t, copy in zip(held, copies, strict=True):
        np.testing.assert_array_equal(t.numpy(), copy)


def test_an_allocation_beyond_memory_raises_memory_error():
    with pytest.raises(MemoryError):
        memory.empty((1 << 54,), np.float32)


def test_the_interpreter_exits_without_a_message():
    script = (
        "import numpy as np, gpunet as gp\n"
        "x = gp.tensor(np.ones((8, 64, 64, 8), np.float32), requires_grad=True)\n"
        "y = gp.functional.relu(x)\n"
        "cycle = [y]; cycle.append(cycle)\n"
        "class Keep: held = y\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == ""
