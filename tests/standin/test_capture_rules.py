"""What CuPy and CUDA refuse in a stream capture, and what they allow although it corrupts
numbers."""

import threading

import numpy as np
import pytest


@pytest.fixture
def stream(cupy):
    """A non-blocking stream, which is current during the test; earlier work is done."""
    made = cupy.cuda.Stream(non_blocking=True)
    with made:
        yield made


@pytest.fixture
def x(cupy):
    """Four ones."""
    made = cupy.array(np.ones(4, np.float32))
    cupy.cuda.Device(0).synchronize()
    return made


def test_captured_launches_run_when_the_graph_is_launched(cupy, x, stream, add, machine):
    before = machine.launches
    stream.begin_capture()
    assert stream.is_capturing()
    add(x, x, 1)
    add(x, x, 2)
    graph = stream.end_capture()
    assert not stream.is_capturing()
    stream.synchronize()
    assert machine.launches == before
    graph.upload()
    for _ in range(2):
        graph.launch()
    assert x.get().tolist() == [7] * 4


@pytest.fixture
def side(cupy):
    return cupy.cuda.Stream(non_blocking=True)


def forked(stream, side, work):
    """Capture: the side stream does its work behind what the first has recorded -> an event behind it."""
    side.wait_event(stream.record())
    with side:
        work()
    return side.record()


def test_a_stream_that_waits_for_a_captured_event_is_captured_too(cupy, x, stream, side, add, machine):
    y, before = cupy.zeros_like(x), machine.launches
    stream.begin_capture()
    add(x, x, 1)
    done = forked(stream, side, lambda: add(y, x, 1))
    assert side.is_capturing()
    stream.wait_event(done)
    add(y, y, 1)
    graph = stream.end_capture()
    assert not side.is_capturing()
    for value in (4, 5, 6):  # whichever order a replay takes
        graph.launch()
        assert y.get().tolist() == [value] * 4
    assert machine.launches == before + 9


def test_what_no_event_orders_is_done_late_and_early_in_turns(cupy, x, stream, side, add):
    y = cupy.zeros_like(x)
    stream.begin_capture()
    done = forked(stream, side, lambda: add(y, x, 0))
    add(x, x, 1)  # which the side stream may see or not
    stream.wait_event(done)
    graph = stream.end_capture()
    seen = []
    for _ in range(4):
        graph.launch()
        seen.append(y.get()[0])
    assert seen == [2, 2, 4, 4]  # of 1, 2, 3, 4 before the replay


def test_a_fork_that_is_not_joined_cannot_be_captured(cupy, x, stream, side, add):
    stream.begin_capture()
    forked(stream, side, lambda: add(x, x, 1))
    with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="StreamCaptureUnjoined"):
        stream.end_capture()
    assert not side.is_capturing()


def test_only_the_stream_that_began_a_capture_ends_it(cupy, x, stream, side, add):
    stream.begin_capture()
    forked(stream, side, lambda: add(x, x, 1))
    with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="StreamCaptureUnmatched"):
        side.end_capture()
    with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="StreamCaptureInvalidated"):
        stream.end_capture()


def test_two_captures_do_not_merge(cupy, stream, side):
    stream.begin_capture()
    event = stream.record()
    side.begin_capture()
    with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="StreamCaptureMerge"):
        side.wait_event(event)
    for each in (stream, side):
        with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="StreamCaptureInvalidated"):
            each.end_capture()


def test_an_event_of_a_capture_that_has_ended_is_waited_for_by_nobody(cupy, stream, side):
    stream.begin_capture()
    event = stream.record()
    stream.end_capture()
    with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="CapturedEvent"):
        side.wait_event(event)


REFUSED = {
    "array.get()": (lambda cupy, x, s: x.get(), "D2H transfers are disallowed"),
    "float(array)": (lambda cupy, x, s: float(x[0]), "D2H transfers are disallowed"),
    "an upload": (lambda cupy, x, s: cupy.array(np.ones(3)), "H2D transfers are disallowed|cudaErrorStreamCapture"),
    "copy_from_host_async": (
        lambda cupy, x, s: x.data.copy_from_host_async(np.ones(4).ctypes.data, 16),
        "H2D transfers are disallowed",
    ),
    "copy_from_host": (lambda cupy, x, s: x.data.copy_from_host(np.ones(4).ctypes.data, 16), "synchronous API calls"),
    "stream.synchronize()": (lambda cupy, x, s: s.synchronize(), "cudaErrorStreamCaptureUnsupported"),
    "device.synchronize()": (lambda cupy, x, s: cupy.cuda.Device(0).synchronize(), "cudaErrorStreamCaptureUnsupported"),
    "an event's wait": (lambda cupy, x, s: s.record().synchronize(), "cudaErrorCapturedEvent"),
    "begin_capture()": (lambda cupy, x, s: s.begin_capture(), "cudaErrorIllegalState"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_waits_or_reads_is_refused(cupy, x, stream, what):
    do, message = REFUSED[what]
    stream.begin_capture()
    with pytest.raises(RuntimeError, match=message):
        do(cupy, x, stream)
    try:
        stream.end_capture()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        assert "cudaErrorStreamCaptureInvalidated" in str(error)  # noqa: PT017 - some refusals leave the capture whole
    assert not stream.is_capturing()


def test_a_wait_that_was_refused_ends_the_capture(cupy, x, stream, add):
    stream.begin_capture()
    with pytest.raises(cupy.cuda.runtime.CUDARuntimeError):
        stream.synchronize()
    with pytest.raises(RuntimeError, match="an error has invalidated the capture sequence"):
        stream.is_capturing()
    with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="StreamCaptureInvalidated"):
        add(x, x, 1)
    with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="StreamCaptureInvalidated"):
        stream.end_capture()
    add(x, x, 1)
    assert x.get()[0] == 2


def test_another_threads_wait_for_the_device_is_refused_too_and_ends_the_capture(cupy, stream):
    raised = []

    def wait():
        try:
            cupy.cuda.Device(0).synchronize()
        except cupy.cuda.runtime.CUDARuntimeError as error:
            raised.append(str(error))

    stream.begin_capture()
    thread = threading.Thread(target=wait)
    thread.start()
    thread.join()
    assert "cudaErrorStreamCaptureUnsupported" in raised[0]
    with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="StreamCaptureInvalidated"):
        stream.end_capture()


def test_the_default_stream_cannot_be_captured_nor_used_while_one_that_waits_for_it_is(cupy, x, add):
    with pytest.raises(RuntimeError, match="cannot capture on the default"):
        cupy.cuda.Stream.null.begin_capture()
    blocking = cupy.cuda.Stream()
    with blocking:
        blocking.begin_capture()
    with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="cudaErrorStreamCaptureImplicit"):
        add(x, x, 1)
    with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="StreamCaptureInvalidated"):
        blocking.end_capture()


def test_the_default_stream_may_be_used_while_a_non_blocking_one_captures(cupy, x, add):
    stream = cupy.cuda.Stream(non_blocking=True)
    stream.begin_capture()
    add(x, x, 1)
    assert x.get()[0] == 2
    stream.end_capture()


def test_end_capture_without_a_beginning(cupy, stream):
    with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="cudaErrorIllegalState"):
        stream.end_capture()


def test_a_capture_waits_for_no_event_from_outside(cupy, stream):
    event = stream.record()
    stream.begin_capture()
    with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="cudaErrorStreamCaptureIsolation"):
        stream.wait_event(event)


def test_memory_may_be_taken_in_a_relaxed_capture_alone(cupy, stream):
    stream.begin_capture()
    assert cupy.cuda.MemoryPool().malloc(2**21).mem.size == 2**21
    stream.end_capture()
    stream.begin_capture(mode=cupy.cuda.runtime.streamCaptureModeGlobal)
    with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="cudaErrorStreamCaptureUnsupported"):
        cupy.cuda.MemoryPool().malloc(2**21)


def test_what_a_capture_frees_is_handed_out_again_and_overwritten_by_a_replay(cupy, x, stream, add):
    """CuPy has no memory that belongs to a graph, so gpunet captures with a pool of its own."""
    stream.begin_capture()
    between = cupy.empty(4, np.float32)
    add(between, x, 1)
    add(x, between, 1)
    del between
    graph = stream.end_capture()
    other = cupy.zeros(4, np.float32)
    graph.launch()
    assert x.get()[0] == 3
    assert other.get()[0] == 2


def test_a_replay_on_memory_that_the_device_has_back_is_an_illegal_address(cupy, x, stream, add):
    pool = cupy.cuda.MemoryPool()
    with cupy.cuda.using_allocator(pool.malloc):
        stream.begin_capture()
        between = cupy.empty(4, np.float32)
        add(between, x, 1)
        del between
        graph = stream.end_capture()
    graph.launch()
    stream.synchronize()
    pool.free_all_blocks()
    graph.launch()
    with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="cudaErrorIllegalAddress"):
        stream.synchronize()


def test_giving_memory_back_waits_for_the_launches_that_use_it(cupy, x, stream, add):
    pool = cupy.cuda.MemoryPool()
    with cupy.cuda.using_allocator(pool.malloc):
        y = cupy.empty(4, np.float32)
    add(y, x, 1)
    add(x, y, 1)
    del y
    pool.free_all_blocks()
    assert x.get()[0] == 3
