"""Capture on the emulated device: what is recorded, replayed and refused."""

import gc
import threading

import numpy as np
import pytest
from helpers import needs_emulator

from gpunet.backends.cuda.backend import emulated_backend
from gpunet.emulator.launches import Settings
from gpunet.emulator.stream import DeviceStream
from gpunet.errors import BackendError

pytestmark = needs_emulator


@pytest.fixture
def backend():
    return emulated_backend(Settings())


@pytest.fixture
def stream(backend):
    return DeviceStream(backend.arrays)


def read(backend, array):
    return backend.to_numpy(array).tolist()


def test_launches_are_recorded_not_run_and_replayed_in_order(backend, stream):
    x, y = backend.full((3,), 1.0, np.float32), backend.full((3,), 0.0, np.float32)
    one = backend.full((3,), 1.0, np.float32)
    with stream:
        stream.begin_capture()
        assert stream.capturing
        backend.binary("add", y, x, out=y)
        backend.binary("multiply", y, y, out=y)
        graph = stream.end_capture()
    assert not stream.capturing
    assert graph.kernels == ["binary<float>"] * 2
    assert len(graph) == 2
    assert read(backend, y) == [0, 0, 0]
    graph.launch()
    assert read(backend, y) == [1, 1, 1]
    backend.copy(one, out=x)
    graph.launch()
    assert read(backend, y) == [4, 4, 4]
    backend.binary("add", x, one, out=x)  # the same memory with another content
    graph.launch()
    assert read(backend, y) == [36, 36, 36]


def test_a_replay_is_the_eager_computation_bit_for_bit(backend, stream):
    rng = np.random.default_rng(0)
    x = backend.asarray(rng.normal(size=(37, 50)).astype(np.float32))
    y = backend.empty((37, 50), np.float32)
    pool = backend.arrays.make_pool()
    with stream, backend.arrays.using(pool):
        stream.begin_capture()
        backend.copy(backend.softmax_forward(backend.unary("exp", x)), out=y)
        graph = stream.end_capture()
    gc.collect()
    graph.launch()
    eager = backend.to_numpy(backend.softmax_forward(backend.unary("exp", x)))
    np.testing.assert_array_equal(backend.to_numpy(y), eager)
    graph.launch()
    np.testing.assert_array_equal(backend.to_numpy(y), eager)


def test_arguments_are_frozen(backend, stream):
    y = backend.full((2,), 0.0, np.float32)
    with stream:
        stream.begin_capture()
        value = np.float32(5)
        backend.launcher.launch("fill<float>", 1, 32, [y, 2, value])
        graph = stream.end_capture()
    value = np.float32(7)
    graph.launch()
    assert read(backend, y) == [5, 5]


WAITS = {
    "a host read (to_host)": lambda b, x: b.to_numpy(x),
    "a copy of host data to the device": lambda b, x: b.asarray(np.ones(3, np.float32)),
    "a conversion of an array": lambda b, x: b.asarray(x, np.float64),
    "synchronisation": lambda b, x: b.synchronize(),
}


@pytest.mark.parametrize("what", WAITS)
def test_what_waits_for_the_device_is_refused_and_ends_the_capture(backend, stream, what):
    x = backend.full((3,), 1.0, np.float32)
    with stream:
        stream.begin_capture()
        backend.unary("exp", x)
        with pytest.raises(BackendError) as caught:
            WAITS[what](backend, x)
        assert str(caught.value).startswith(f"{what} cannot be captured")
        with pytest.raises(BackendError, match="invalidated by") as caught:
            stream.end_capture()
        assert what in str(caught.value)
        assert read(backend, x) == [1, 1, 1]
        stream.begin_capture()
        assert len(stream.end_capture()) == 0


def test_the_stream_itself_is_not_waited_for_while_capturing(backend, stream):
    stream.synchronize()
    stream.begin_capture()
    with pytest.raises(BackendError, match="synchronisation cannot be captured"):
        stream.synchronize()


def test_the_whole_device_is_not_waited_for_while_any_stream_captures(backend, stream):
    stream.begin_capture()
    with pytest.raises(BackendError, match="synchronisation cannot be captured"):
        backend.synchronize()


def test_other_streams_run_on_while_one_captures(backend, stream):
    x, y = backend.full((3,), 1.0, np.float32), backend.full((3,), 0.0, np.float32)
    with stream:
        stream.begin_capture()
        with DeviceStream(backend.arrays):
            backend.copy(x, out=y)
            assert read(backend, y) == [1, 1, 1]
        assert stream.end_capture().kernels == []


def test_captures_begin_and_end_in_turn(backend, stream):
    with pytest.raises(BackendError, match="default stream cannot be captured"):
        backend.arrays.default_stream.begin_capture()
    with pytest.raises(BackendError, match="no capture was begun"):
        stream.end_capture()
    stream.begin_capture()
    with pytest.raises(BackendError, match="capturing already"):
        stream.begin_capture()


def captured_temporary(backend, stream, pool):
    x, y = backend.full((3,), 0.0, np.float32), backend.full((3,), 0.0, np.float32)
    with stream, backend.arrays.using(pool):
        stream.begin_capture()
        backend.copy(backend.unary("exp", x), out=y)  # the result of exp is freed before the capture ends
        graph = stream.end_capture()
    gc.collect()
    return graph, x, y


def test_a_replay_on_freed_memory_is_refused_before_anything_runs(backend, stream):
    graph, _x, y = captured_temporary(backend, stream, None)
    with pytest.raises(
        BackendError, match=r"replay of unary<float> would touch y, an array of shape \(3,\), float32, which was freed"
    ):
        graph.launch()
    assert read(backend, y) == [0, 0, 0]


def test_an_input_that_was_freed_is_refused(backend, stream):
    pool = backend.arrays.make_pool()
    graph, x, y = captured_temporary(backend, stream, pool)
    graph.launch()
    assert read(backend, y) == [1, 1, 1]
    del x
    gc.collect()
    with pytest.raises(BackendError, match="would touch a, an array"):
        graph.launch()


def test_a_pool_keeps_a_graphs_memory_as_long_as_it_lives(backend, stream):
    pool = backend.arrays.make_pool()
    graph, _x, y = captured_temporary(backend, stream, pool)
    graph.launch()
    assert read(backend, y) == [1, 1, 1]
    del pool
    gc.collect()
    with pytest.raises(BackendError, match="freed since the capture"):
        graph.launch()


def test_a_graphs_pool_hands_out_no_more_memory(backend, stream):
    pool = backend.arrays.make_pool()
    with backend.arrays.using(pool):
        backend.full((3,), 1.0, np.float32)  # before any capture
    captured_temporary(backend, stream, pool)
    with backend.arrays.using(pool), pytest.raises(BackendError, match="belongs to a captured graph"):
        backend.empty((3,), np.float32)
    captured_temporary(backend, stream, pool)  # a second graph may share it


def test_one_stream_that_two_threads_enter_gives_each_back_its_own(backend, stream):
    arrays, other = backend.arrays, DeviceStream(backend.arrays)
    inside, entered, after = threading.Event(), threading.Event(), []

    def first():
        with stream:
            inside.set()
            assert entered.wait(20)
        after.append(arrays.stream)

    usual, thread = arrays.stream, threading.Thread(target=first)
    thread.start()
    assert inside.wait(20)
    with other:
        with stream:
            entered.set()
            thread.join()
        assert arrays.stream is other
    assert after == [usual]
