"""The order of work on streams (cupy/cuda/stream.pyx), on a device as late as CUDA allows."""

import gc

import numpy as np
import pytest

from standin.streams import Queue


@pytest.fixture
def side(cupy):
    """A stream that does not wait for the default one."""
    return cupy.cuda.Stream(non_blocking=True)


def ones(cupy):
    return cupy.array(np.ones(4, np.float32))


def test_launches_of_a_stream_are_done_in_order_when_it_is_waited_for(cupy, add, machine, side):
    x, before = ones(cupy), machine.launches
    cupy.cuda.Device(0).synchronize()
    with side:
        add(x, x, 1)
        add(x, x, 2)
        assert machine.launches == before
        assert not side.done
        side.synchronize()
    assert machine.launches == before + 2
    assert side.done
    assert x.get().tolist() == [4] * 4


@pytest.mark.parametrize("non_blocking", [False, True])
def test_a_non_blocking_stream_does_not_wait_for_the_default_one(cupy, add, non_blocking):
    x, y = ones(cupy), cupy.empty(4, np.float32)
    cupy.cuda.Device(0).synchronize()
    add(x, x, 1)
    stream = cupy.cuda.Stream(non_blocking=non_blocking)
    with stream:
        add(y, x, 1)
        stream.synchronize()
    assert y.get()[0] == (2 if non_blocking else 3)


def test_a_stream_waits_for_an_event_of_another(cupy, add, side):
    x, y = ones(cupy), cupy.empty(4, np.float32)
    cupy.cuda.Device(0).synchronize()
    add(x, x, 1)
    event = cupy.cuda.get_current_stream().record()
    with side:
        side.wait_event(event)
        add(y, x, 1)
        assert y.get()[0] == 3


def test_page_locked_memory_is_read_when_the_copy_is_done_and_pageable_memory_at_once(cupy, side):
    import cupyx

    for host, expected in ((np.ones(4, np.float32), 1), (cupyx.empty_pinned(4, np.float32), 2)):
        host[:], x = 1, cupy.empty(4, np.float32)
        with side:
            x.data.copy_from_host_async(host.ctypes.data, host.nbytes)
            host[:] = 2
            side.synchronize()
        assert x.get()[0] == expected


def test_arrays_of_host_data_are_whole_whatever_becomes_of_the_data(cupy, side):
    data = np.arange(4, dtype=np.float32)
    with side:
        x = cupy.array(data, copy=None)
        data[:] = 9
        assert x.get().tolist() == [0, 1, 2, 3]


def test_events_pass_in_order_and_tell_the_time_between_them(cupy, add, side):
    x = ones(cupy)
    cupy.cuda.Device(0).synchronize()
    first, second = cupy.cuda.Event(), cupy.cuda.Event()
    with side:
        first.record()
        add(x, x, 1)
        second.record()
    with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="cudaErrorNotReady"):
        cupy.cuda.get_elapsed_time(first, second)
    assert not second.done
    second.synchronize()
    assert second.done
    assert cupy.cuda.get_elapsed_time(first, second) > 0
    with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="cudaErrorInvalidResourceHandle"):
        cupy.cuda.get_elapsed_time(first, cupy.cuda.Event())


def test_what_a_kernel_does_wrong_is_told_by_the_next_wait_and_by_every_call_after(cupy, machine):
    kernel = cupy.RawModule(code='extern "C" __global__ void bad() { asm("trap;"); }').get_function("bad")
    kernel((1,), (1,), ())
    for _ in range(2):
        with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="cudaErrorLaunchFailure"):
            cupy.cuda.Device(0).synchronize()
    machine.reset()
    cupy.cuda.Device(0).synchronize()


def test_a_device_that_is_not_there(cupy):
    with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="cudaErrorInvalidDevice"), cupy.cuda.Device(1):
        pass


def test_a_stream_is_entered_on_its_own_device(cupy, machine, side):
    """See check_stream_device_match in cupy/cuda/stream.pyx.

    CuPy counts the devices once for each thread, so the machine keeps its single device here.
    """
    assert cupy.cuda.get_current_stream() == cupy.cuda.Stream.null
    with side:
        assert cupy.cuda.get_current_stream() == side
    assert cupy.cuda.get_current_stream() == cupy.cuda.Stream.null


class Waiting:
    """Garbage that waits for the device when it is collected, as a retired memory pool does."""

    def __init__(self, queue):
        self.queue, self.cycle = queue, self

    def __del__(self):
        self.queue.drain()


def test_a_collection_while_the_device_works_keeps_the_order():
    queue, done, before = Queue(0), [], gc.get_threshold()
    try:
        for first in range(0, 300, 3):
            Waiting(queue)
            for number in range(first, first + 3):
                queue.submit(queue.legacy, lambda number=number: done.append(number))
            gc.set_threshold(1 + first % 50)  # so that the collector comes at many different places
            queue.legacy.last.finish()
            gc.set_threshold(*before)
    finally:
        gc.set_threshold(*before)
    assert done == list(range(300))
