"""The threads of the NumPy backend that share compiled loops."""

import ctypes
import gc
import os
import threading
import time

import numpy as np
import pytest

from gpunet.backends.contract import Activation
from gpunet.backends.numpy.backend import NumpyBackend
from gpunet.backends.numpy.compiled import library as compiled

pytestmark = pytest.mark.skipif(bool(compiled.why_unavailable()), reason=compiled.why_unavailable())
RELU = Activation("relu")


@pytest.fixture(autouse=True)
def shared(monkeypatch):
    """Every loop is shared by all threads, however short it is."""
    monkeypatch.setattr("gpunet.backends.numpy.compiled.loops.LEAST", 1)


def helpers(backend, times=50, parts=3):
    """The threads that took parts of a loop: one that lets them all come."""
    seen = set()

    def take(begin, end, arguments):
        seen.add(threading.get_ident())
        time.sleep(0.002)
        return True

    taken = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_long, ctypes.c_long, ctypes.c_void_p)(take)
    loop = compiled.Loop(ctypes.cast(taken, ctypes.c_void_p).value, taken, bytes)
    for _ in range(times):
        backend._crew().share(loop, b"", parts, parts)
        if len(seen) == parts:
            break
    return seen


def counted(backend, size=10007, times=50):
    """An array to which a loop has added 1 so many times: each element once a time, or this fails."""
    total, ones = np.zeros(size), np.ones(size)
    for _ in range(times):
        backend.average_update(total, total + 2 * ones, 0.5)
    return total


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_every_element_is_computed_once(threads):
    backend = NumpyBackend(threads=threads, compiled=True)
    np.testing.assert_array_equal(counted(backend), 50)
    if threads > 1:
        assert len(helpers(backend, parts=threads)) == threads


def test_a_loop_of_few_parts_calls_as_few_threads():
    backend = NumpyBackend(threads=8, compiled=True)
    for _ in range(10):
        assert len(helpers(backend, parts=2)) == 2
    assert len(backend._crew()._here) + backend._team().jobs.qsize() <= 2  # one, unless it had not begun yet


def test_threads_that_have_gone_to_sleep_are_woken(monkeypatch):
    monkeypatch.setattr("gpunet.backends.numpy.compiled.crew.PATIENCE", 0)
    backend = NumpyBackend(threads=3, compiled=True)
    for _ in range(20):
        assert len(helpers(backend)) == 3
        np.testing.assert_array_equal(counted(backend, times=5), 5)
        time.sleep(0.002)


def test_callers_in_several_threads_get_what_is_theirs():
    backend, results = NumpyBackend(threads=3, compiled=True), {}

    def work(i):
        results[i] = counted(backend, size=1000 + i, times=300)

    callers = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
    assert sorted(results) == list(range(6))
    for i, result in results.items():
        np.testing.assert_array_equal(result, np.full(1000 + i, 300))


def test_the_first_callers_at_once_share_the_same_threads():
    for _ in range(20):
        backend, barrier = NumpyBackend(threads=3, compiled=True), threading.Barrier(3)

        def work(backend=backend, barrier=barrier):
            barrier.wait()
            counted(backend, times=20)

        callers = [threading.Thread(target=work) for _ in range(3)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join(60)
        assert len(helpers(backend)) == 3
        assert len(backend._crews) == len(backend._teams) == 1


def test_threads_share_loops_and_numpys_work_in_turns():
    backend = NumpyBackend(threads=3, compiled=True)
    for _ in range(30):
        counted(backend, times=1)
        names = backend._parallel(lambda i, j: (time.sleep(0.001), threading.current_thread().name)[1], 3, 1 << 30)
        assert len(names) == 3
    # threads that wait for loops come back for other work, so that not all of it is the caller's
    assert len(set(names)) > 1


def test_threads_end_with_their_backend_while_they_wait_for_loops():
    before = set(threading.enumerate())
    backend = NumpyBackend(threads=3, compiled=True)
    counted(backend)
    assert len(set(threading.enumerate()) - before) == 2
    del backend
    gc.collect()
    end = time.monotonic() + 20
    while set(threading.enumerate()) - before and time.monotonic() < end:
        time.sleep(0.01)
    assert not set(threading.enumerate()) - before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_of_a_fork_shares_loops_of_its_own():
    backend = NumpyBackend(threads=3, compiled=True)
    counted(backend)
    child = os.fork()
    if child == 0:
        right = (counted(backend) == 50).all()
        del backend  # nor does the child wait for threads that it does not have
        gc.collect()
        os._exit(0 if right else 1)
    end = time.monotonic() + 30
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        time.sleep(0.01)
    else:
        os.kill(child, 9)
        pytest.fail("the child hangs")
    assert os.waitstatus_to_exitcode(status) == 0
    np.testing.assert_array_equal(counted(backend), 50)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    ("topic", "name", "arguments"),
    [("resample", "resample", (None, None, 1, 1 << 50, 1, 1, 1, *6 * [None])),
     ("norm", "batch_moments", (None, 1, 1 << 61, 1, None))],
    ids=["allocation", "length"],
)  # fmt: skip
def test_a_loop_that_cannot_get_its_memory_raises_and_the_threads_go_on(threads, topic, name, arguments):
    backend, loops = NumpyBackend(threads=threads, compiled=True), compiled.library(topic, "float32")
    for _ in range(50):
        with pytest.raises(MemoryError, match=f"the compiled loop {name} cannot get the memory"):
            backend._spread(loops, name, 3, 1, *arguments)
    np.testing.assert_array_equal(counted(backend), 50)


def test_memory_that_one_part_cannot_get_is_told_of_once():
    backend = NumpyBackend(threads=3, compiled=True)
    for lacking in (0, 1, 2, None):
        taken = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_long, ctypes.c_long, ctypes.c_void_p)(
            lambda begin, end, arguments, lacking=lacking: begin != lacking
        )
        loop = compiled.Loop(ctypes.cast(taken, ctypes.c_void_p).value, taken, bytes)
        assert backend._crew().share(loop, b"", 3, 3) == (lacking is None)


def test_without_a_compiled_crew_the_caller_does_all(monkeypatch):
    monkeypatch.setattr("gpunet.backends.numpy.compiled.loops.can_share", lambda: False)
    backend = NumpyBackend(threads=4, compiled=True)
    np.testing.assert_array_equal(counted(backend), 50)
    x = np.linspace(-1, 1, 100)
    np.testing.assert_array_equal(backend.activation_forward(x, RELU), np.maximum(x, 0))
    assert backend._crews == {}
