"""Threads of the NumPy backend and of BLAS: with calls from any thread, after interrupts, and in forks."""

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from itertools import count

import numpy as np
import pytest
from threadpoolctl import ThreadpoolController, threadpool_limits

import gpunet as gp
from gpunet import functional as F
from gpunet.backends.numpy import blas as numpy_blas
from gpunet.backends.numpy.backend import NumpyBackend
from gpunet.backends.numpy.blas import Library, OneThread

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
LARGE = 1 << 30
"""Elements of work that are enough for all threads."""


def blas_threads():
    """BLAS's numbers of threads, as threadpoolctl reads them in this thread."""
    return [library.get_num_threads() for library in numpy_blas.controllers()]


@pytest.fixture(autouse=True)
def blas():
    """Three threads of OpenBLAS, however many cores this machine has."""
    if not blas_threads():
        pytest.skip("threadpoolctl finds no BLAS")
    before = blas_threads()
    for library in OneThread().libraries:
        library.set(3)
    yield blas_threads()
    for library, number in zip(OneThread().libraries, before, strict=True):
        library.set(number)


def in_thread(work):
    """The result of work() in a thread of its own."""
    results = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()
    thread.join(60)
    assert results, "the thread raised or hangs"
    return results[0]


def seen(backend, parts=3):
    """BLAS's threads as each part of a call sees them."""
    return backend._parallel(lambda i, j: blas_threads(), parts, LARGE)


def training_bits():
    """Weights after two steps of a small net: convolutions, dense layers and their gradients."""
    gp.seed(3)
    rng = np.random.default_rng(3)
    x, labels = rng.normal(size=(32, 28, 28, 1)).astype(np.float32), rng.integers(0, 10, 32)
    model = gp.models.lenet((28, 28, 1), num_classes=10).to("numpy")
    optimizer = gp.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(model(x), labels).backward()
        optimizer.step()
    return b"".join(np.ascontiguousarray(p.numpy()).tobytes() for p in model.parameters())


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_blas_has_one_thread_in_every_part_whichever_thread_was_first(blas, threads):
    backend, one = NumpyBackend(threads), [1] * len(blas)
    computed, done = threading.Event(), threading.Event()
    first = threading.Thread(target=lambda: (seen(backend), computed.set(), done.wait(20)))
    first.start()  # it stays alive, so threadpoolctl would let no other thread limit OpenBLAS
    assert computed.wait(20)
    try:
        for look in (seen, lambda b: seen(NumpyBackend(2)), lambda b: in_thread(lambda: seen(b))):
            assert all(numbers == one for numbers in look(backend))
            assert blas_threads() == blas
        in_thread(lambda: seen(backend))
        assert blas_threads() == blas
    finally:
        done.set()
        first.join()
    assert blas_threads() == blas


def test_a_training_step_gives_the_same_bits_in_every_thread():
    expected = training_bits()
    ready, done = threading.Event(), threading.Event()
    image = np.random.default_rng(0).random((64, 64, 3), np.float32)
    other = threading.Thread(target=lambda: (gp.vision.filters.gaussian_blur(image, 2.0), ready.set(), done.wait(20)))
    other.start()
    assert ready.wait(20)
    try:
        assert training_bits() == expected
        assert in_thread(training_bits) == expected
    finally:
        done.set()
        other.join()
    assert in_thread(training_bits) == expected


def test_many_threads_at_once_compute_the_same_and_leave_blas_as_it_was(blas):
    backends = [NumpyBackend(2), NumpyBackend(3)]
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(300, 200)).astype(np.float32), rng.normal(size=(200, 100)).astype(np.float32)
    expected = [backend.matmul(a, b) for backend in backends]
    wrong = []

    def work(i):
        for _ in range(40):
            if not np.array_equal(backends[i % 2].matmul(a, b), expected[i % 2]):
                wrong.append(i)
            if any(numbers != [1] * len(blas) for numbers in seen(backends[i % 2])):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong
    assert blas_threads() == blas


@pytest.mark.parametrize("limit", [1, 2])
def test_a_users_own_limit_holds_around_and_between_calls(blas, limit):
    backend = NumpyBackend(2)
    with threadpool_limits(limit, user_api="blas"):
        for look in (seen, lambda b: in_thread(lambda: seen(b))):
            assert look(backend) == [[1] * len(blas)] * 3
            assert blas_threads() == [limit] * len(blas)
    assert blas_threads() == blas
    assert seen(backend) == [[1] * len(blas)] * 3


def test_a_limit_that_ends_in_another_thread_meanwhile_stays_ended(blas):
    backend = NumpyBackend(2)
    limit = threadpool_limits(2, user_api="blas")
    backend._parallel(lambda i, j: limit.restore_original_limits() if i == 0 else None, 2, LARGE)
    assert blas_threads() == blas


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_an_error_in_any_part_is_raised_when_all_are_done(blas, failing):
    backend, done = NumpyBackend(3), []

    def work(start, stop):
        if start == failing:
            raise MemoryError(f"part {start}")
        time.sleep(0.05)
        done.append(start)

    with pytest.raises(MemoryError, match=f"part {failing}"):
        backend._parallel(work, 3, LARGE)
    assert sorted(done) == sorted({0, 1, 2} - {failing})
    assert blas_threads() == blas
    assert backend._parallel(lambda i, j: i, 3, LARGE) == [0, 1, 2]


class PerThread:
    """A library like MKL: each thread sets its own number."""

    def __init__(self, usual):
        self.local, self.usual = threading.local(), usual

    def get(self):
        return getattr(self.local, "number", self.usual)

    def set(self, number):
        self.local.number = number

    def library(self):
        return Library(self.get, self.set, shared=False)


def test_libraries_whose_number_is_each_threads_own_are_limited_in_each(monkeypatch):
    mkl = PerThread(8)
    limiter = OneThread([mkl.library()])
    monkeypatch.setattr("gpunet.backends.numpy.threads.ONE_THREAD", limiter)
    backend = NumpyBackend(3)

    def call():
        return backend._parallel(lambda i, j: mkl.get(), 3, LARGE)

    for _ in range(2):
        assert call() == in_thread(call) == [1, 1, 1]
        assert mkl.get() == 8
        assert in_thread(lambda: (call(), mkl.get())[1]) == 8


def test_work_runs_without_any_blas_library():
    assert OneThread([]).run(lambda: 7) == 7


def child_computes(backend, a, expected):
    """Whether a forked child's products are right, gpunet's and NumPy's own."""
    small = a[:200, :200]
    return all(
        np.array_equal(got, want)
        for got, want in zip((backend.matmul(a, a), small @ small, training_bits()), expected, strict=True)
    )


@needs_fork
@pytest.mark.filterwarnings("ignore:This process")
@pytest.mark.parametrize("how", ["os", "multiprocessing"])
def test_a_fork_while_other_threads_compute_leaves_a_child_that_computes(how):
    backend, stop = NumpyBackend(2), threading.Event()
    a = np.random.default_rng(0).normal(size=(400, 400)).astype(np.float32)
    small = a[:200, :200]
    with threadpool_limits(1, user_api="blas"):
        expected = backend.matmul(a, a), small @ small, training_bits()

    backend.matmul(a, a)  # threadpoolctl would now let no other thread limit BLAS, whose own threads a fork cannot end

    def keep_computing():
        while not stop.is_set():
            backend.matmul(a, a)

    others = [threading.Thread(target=keep_computing) for _ in range(2)]
    for other in others:
        other.start()
    try:
        for _ in range(8):
            exits_well(how, lambda: len(expected) == 3 and np.array_equal(backend.matmul(a, a), expected[0]))
            exits_well(how, lambda: np.allclose(small @ small, expected[1], rtol=1e-3, atol=1e-3))
    finally:
        stop.set()
        for other in others:
            other.join()
    exits_well(how, lambda: training_bits() == expected[2])


@needs_fork
@pytest.mark.filterwarnings("ignore:This process")
def test_a_fork_waits_for_the_work_of_other_threads():
    entered, done = threading.Event(), threading.Event()

    def work():
        entered.set()
        time.sleep(0.3)
        done.set()

    other = threading.Thread(target=numpy_blas.ONE_THREAD.run, args=(work,))
    other.start()
    assert entered.wait(30)
    exits_well("os", lambda: done.is_set() and not numpy_blas.ONE_THREAD._inside)
    other.join()
    exits_well("os", lambda: not numpy_blas.ONE_THREAD._inside)


def exits_well(how, check):
    """Run the check in a forked child; it must be true within 30 seconds."""
    if how == "multiprocessing":
        process = multiprocessing.get_context("fork").Process(target=lambda: os._exit(0 if check() else 1))
        process.start()
        process.join(30)
        code = process.exitcode
        process.kill()
        process.join()
    else:
        child = os.fork()
        if child == 0:
            os._exit(0 if check() else 1)
        deadline, code = time.monotonic() + 30, None
        while code is None and time.monotonic() < deadline:
            ended, status = os.waitpid(child, os.WNOHANG)
            code = os.waitstatus_to_exitcode(status) if ended else None
            time.sleep(0.005)
        if code is None:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    assert code is not None, "the child hangs"
    assert code == 0


@needs_fork
@pytest.mark.filterwarnings("ignore:This process")
def test_blas_has_its_threads_again_in_a_child_that_a_part_forks(blas):
    """A fork inside a call, as a signal's handler could do it."""
    codes = NumpyBackend(1)._parallel(lambda i, j: forked_inside(blas), 1, 1)
    assert codes == [0]
    assert blas_threads() == blas


def forked_inside(blas):
    child = os.fork()
    if child == 0:
        os._exit(0 if blas_threads() == [1] * len(blas) else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timer that sends signals")
def test_a_ctrl_c_at_any_moment_leaves_no_part_running_and_no_setting_behind(blas):
    backend, running, rng = NumpyBackend(3), count(), np.random.default_rng(0)
    begun, ended = [], []
    errors = np.geterr()

    def work(start, stop):
        begun.append(next(running))
        x = np.ones((60, 60), np.float32)
        for _ in range(3):
            x = x @ x * 0
        ended.append(1)

    def interrupt(number, frame):
        raise KeyboardInterrupt

    interrupted, before = 0, signal.signal(signal.SIGALRM, interrupt)
    gc.disable()  # Hypothesis measures collections, and Python drops what is raised in its callback
    try:
        for _ in range(300):
            try:
                signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-5, 6e-4))
                for _ in range(1000):
                    backend._parallel(work, 3, LARGE)
                    backend._alone(lambda: None)
            except KeyboardInterrupt:
                interrupted += 1
            signal.setitimer(signal.ITIMER_REAL, 0)
            settled = len(begun)
            assert blas_threads() == blas
            assert np.geterr() == errors
            time.sleep(0.0002)
            assert len(begun) == settled  # no thread begins a part after its call has ended
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        gc.enable()
    assert interrupted == 300
    assert backend._parallel(lambda i, j: i, 3, LARGE) == [0, 1, 2]


AT_EXIT = """
import atexit, os, sys, threading, time
import numpy as np
from gpunet.backends.numpy.backend import NumpyBackend

backend, a = NumpyBackend(3), np.ones((300, 300), np.float32)
def forever():
    while True:
        backend.matmul(a, a)
def slow(start, stop):
    if start == 0:
        raise KeyboardInterrupt
    time.sleep(0.2)
    os.write(1, f"part {start}\\n".encode())  # in one piece: two threads that print at once mix their words
atexit.register(lambda: print(backend.matmul(a, a)[0, 0], flush=True))
if "daemon" in sys.argv:
    threading.Thread(target=forever, daemon=True).start()
    time.sleep(0.1)
if "interrupted" in sys.argv:
    try:
        backend._parallel(slow, 3, 1 << 30)
    finally:
        print("left", flush=True)
"""


@pytest.mark.parametrize("how", ["plain", "daemon", "interrupted"])
def test_a_process_ends_while_threads_compute_and_computes_until_it_does(how):
    done = subprocess.run([sys.executable, "-c", AT_EXIT, how], capture_output=True, text=True, timeout=60)
    lines = done.stdout.split("\n")[:-1]
    assert lines[-1] == "300.0"
    if how == "interrupted":
        assert sorted(lines[:2]) == ["part 1", "part 2"]
        assert lines[2] == "left"
        assert "KeyboardInterrupt" in done.stderr
    else:
        assert done.returncode == 0, done.stderr


def test_the_threads_of_a_backend_end_with_it():
    before = threading.active_count()
    backend = NumpyBackend(3)
    assert backend._parallel(lambda i, j: i, 3, LARGE) == [0, 1, 2]
    assert threading.active_count() == before + 2
    del backend
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before


def test_the_caller_does_the_parts_that_no_thread_is_free_for():
    backend, release = NumpyBackend(2), threading.Event()
    first = threading.Thread(target=lambda: backend._parallel(lambda i, j: release.wait(30), 2, LARGE))
    first.start()
    try:
        assert backend._parallel(lambda i, j: (i, j), 2, LARGE) == [(0, 1), (1, 2)]
    finally:
        release.set()
        first.join()


def test_threadpoolctl_finds_the_same_libraries():
    assert len(OneThread().libraries) == len(ThreadpoolController().select(user_api="blas").lib_controllers)
