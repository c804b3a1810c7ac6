"""gpunet's captures through CuPy: CupyArrays, Recorder, CapturedGraph, Feed and the timer."""

import gc

import numpy as np
import pytest

import gpunet as gp
from gpunet import nn
from gpunet.bench.timing import CupyTimer
from gpunet.cuda.capture import free_unused
from gpunet.errors import BackendError


def device(backend, *values):
    return backend.asarray(np.array(values, np.float32))


def test_a_stream_that_waits_for_nobody_is_current_between_two_waits(cuda, cupy, machine):
    recorder, before = cuda.recorder(), machine.launches
    x = cuda.full((4,), 1.0, np.float32)
    with recorder.current():
        assert machine.launches == before + 1
        stream = cupy.cuda.get_current_stream()
        assert stream.is_non_blocking
        y = cuda.binary("add", x, x)
        assert machine.launches == before + 1
    assert machine.launches == before + 2
    assert cupy.cuda.get_current_stream() == cupy.cuda.Stream.null
    assert cuda.to_numpy(y).tolist() == [2] * 4


def test_work_is_recorded_and_not_run_until_it_is_replayed(cuda, machine):
    x, recorder = device(cuda, 1, 2), cuda.recorder()
    cuda.binary("add", x, x, out=x)
    with recorder.current():
        before = machine.launches
        recording, result = recorder.record(lambda: cuda.binary("add", x, x, out=x))
        assert result is x
        cuda.synchronize()
        assert machine.launches == before
        for _ in range(3):
            recording.launch()
    assert cuda.to_numpy(x).tolist() == [16, 32]


def test_what_a_recording_frees_is_nobody_elses(cuda):
    """The pool is the graph's own; in test_capture_rules.py it is the usual one."""
    x, recorder = device(cuda, 1, 2), cuda.recorder()

    def work():
        between = cuda.binary("add", x, x)
        return cuda.binary("add", between, x)

    with recorder.current():
        recording, y = recorder.record(work)
        others = [cuda.full((2,), 5.0, np.float32) for _ in range(4)]
        recording.launch()
    assert cuda.to_numpy(y).tolist() == [3, 6]
    assert all(cuda.to_numpy(other).tolist() == [5, 5] for other in others)


def test_an_error_in_a_capture_ends_it(cuda, cupy):
    recorder = cuda.recorder()
    x = device(cuda, 1, 2)
    for refused in (lambda: 1 / 0, lambda: cupy.cuda.get_current_stream().synchronize()):
        with pytest.raises((ZeroDivisionError, cupy.cuda.runtime.CUDARuntimeError)):
            recorder.record(refused)
        with recorder.current():
            assert not cupy.cuda.get_current_stream().is_capturing()
            recording, _ = recorder.record(lambda: cuda.binary("add", x, x, out=x))
            recording.launch()
    assert cuda.to_numpy(x).tolist() == [4, 8]


WAITS = {
    "a host read (to_host)": lambda arrays, x: arrays.to_host(x),
    "a copy of host data to the device": lambda arrays, x: arrays.asarray(np.ones(3)),
    "a copy of host data to the device ": lambda arrays, x: arrays.upload(np.ones(2, np.float32), x),
    "synchronisation": lambda arrays, x: arrays.synchronize(),
}


@pytest.mark.parametrize("what", WAITS)
def test_what_waits_for_the_device_is_refused_by_name_while_capturing(cuda, what):
    x = device(cuda, 1, 2)
    with pytest.raises(BackendError) as caught:
        cuda.recorder().record(lambda: WAITS[what](cuda.arrays, x))
    assert str(caught.value).startswith(f"{what.strip()} cannot be captured")


def test_a_feed_is_sent_without_waiting_and_read_by_every_replay(cuda, machine):
    recorder, y = cuda.recorder(), cuda.full((2, 3), 0.0, np.float32)
    feed = recorder.feed((2, 3), np.float32)
    assert machine.pinned.room(feed.host.ctypes.data)
    with recorder.current():
        recording, _ = recorder.record(lambda: cuda.binary("add", y, feed.device, out=y))
        for value in (1, 10):
            feed.host[:] = value
            feed.send()
            recording.launch()
            cuda.synchronize()  # before `host` may change again
    assert cuda.to_numpy(y).tolist() == [[11] * 3] * 2


def test_a_recording_keeps_its_memory_while_it_lives(cuda, machine):
    x, recorder = device(cuda, *range(256)), cuda.recorder()
    with recorder.current():
        recording, y = recorder.record(lambda: cuda.binary("add", cuda.binary("add", x, x), x))
    del recorder
    gc.collect()
    recording.launch()
    cuda.synchronize()
    assert cuda.to_numpy(y)[:3].tolist() == [0, 3, 6]


def test_a_timer_times_on_the_device_and_replays_what_it_captures(cuda, machine):
    x, one = device(cuda, 1, 2), device(cuda, 1, 1)
    timer = CupyTimer(cuda)
    timer.run(lambda: cuda.binary("add", x, one, out=x))
    work = timer.capture(lambda: cuda.binary("add", x, one, out=x))
    before = machine.launches
    times = timer.seconds(work, 3)
    assert len(times) >= 3
    assert all(0 < t < 1 for t in times)
    runs = machine.launches - before  # some of these runs warm the timer up
    assert runs > len(times)
    assert cuda.to_numpy(x).tolist() == [2 + runs, 3 + runs]


def test_arrays_are_cupys_and_of_this_device(cuda, cupy):
    x = cuda.empty((2, 3), np.float32)
    assert isinstance(x, cupy.ndarray)
    assert cuda.owns(x)
    assert cuda.arrays.pointer(x) == x.data.ptr
    assert cuda.asarray(x) is x
    assert not cuda.owns(np.ones(3))
    turned = cuda.asarray(cupy.asarray(np.arange(6, dtype=np.float32).reshape(2, 3)).T)
    assert turned.flags.c_contiguous
    assert cuda.to_numpy(turned).tolist() == [[0, 3], [1, 4], [2, 5]]
    described = cuda.describe()
    assert (described["device"], described["memory"]) == ("CUDA stand-in", "4.0 GiB")


def test_a_device_that_is_not_there_is_named(cuda):
    from gpunet.backends import get_backend

    with pytest.raises(BackendError, match="CUDA device 3 is not there: this machine shows 1"):
        get_backend("cuda:3")


def test_a_dropped_recorder_gives_its_memory_back(cuda, cupy, machine):
    x = cuda.full((2**18,), 1.0, np.float32)

    def used_after():
        recorder = cuda.recorder()
        with recorder.current():
            recording, _ = recorder.record(lambda: cuda.binary("add", cuda.binary("add", x, x), x))
            recording.launch()
        del recorder, recording, _
        gc.collect()
        cupy.get_default_memory_pool().free_all_blocks()
        return machine.device.memory.used

    assert used_after() == used_after()


def test_a_graph_for_which_there_is_no_memory_is_not_given_the_blocks_that_its_own_launches_use(cuda, cupy, machine):
    x, kept = cuda.full((2**18,), 1.0, np.float32), cuda.recorder()
    kept.record(lambda: None)  # now a capture needs no more memory of its own
    free_unused(cuda.arrays)
    machine.device.memory.total = machine.device.memory.used + 5 * 2**19

    def work():
        cuda.unary("exp", x)  # 1 MiB, which is free again afterwards, but used by replays
        cuda.empty((2**19,), np.float32)  # 2 MiB: more than is left beside the 1 MiB above

    with pytest.raises(MemoryError, match="out of memory allocating 2097152 bytes for a graph"):
        cuda.recorder().record(work)


def test_out_of_memory_names_the_layer_and_the_bytes(cuda, cupy, machine):
    layer, x = nn.Conv2d(4, 64, 3).to("cuda"), gp.tensor(np.ones((8, 32, 32, 4), np.float32), backend="cuda")
    layer(x[:1])
    gc.collect()
    cupy.get_default_memory_pool().free_all_blocks()
    machine.device.memory.total = machine.device.memory.used + 2**19
    with pytest.raises(MemoryError, match=r"^Conv2d: Out of memory allocating 1,8\d\d,\d{3} bytes"):
        layer(x)
