"""Capture through CuPy, as far as a machine without a GPU can tell: the names it has, and the order of the calls."""

from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest

from gpunet.cuda.capture import Recorder
from gpunet.cuda.cupy_arrays import CupyArrays
from gpunet.cuda.launcher import CupyLauncher
from gpunet.errors import BackendError


class Log(list):
    """What was called; `around` makes a context manager that notes both its ends."""

    @contextmanager
    def around(self, name):
        self.append(f"enter {name}")
        yield
        self.append(f"leave {name}")


class Stream:
    def __init__(self, log, non_blocking=False):
        self.log, self.non_blocking, self.ptr, self.capturing, self.broken = log, non_blocking, 7, False, False

    def __enter__(self):
        self.log.append("enter stream")

    def __exit__(self, *error):
        self.log.append("leave stream")

    def begin_capture(self):
        self.capturing = True
        self.log.append("begin")

    def end_capture(self):
        self.capturing = False
        self.log.append("end")
        if self.broken:
            raise RuntimeError("capture invalidated")
        return SimpleNamespace(launch=lambda: self.log.append("launch"))

    def is_capturing(self):
        return self.capturing


@pytest.fixture
def log():
    return Log()


@pytest.fixture
def arrays(log):
    """CupyArrays over a CuPy that only notes what is asked of it."""
    made = CupyArrays.__new__(CupyArrays)
    stream = Stream(log)

    def new(non_blocking):
        stream.non_blocking = non_blocking
        return stream

    made.cupy = SimpleNamespace(
        ndarray=type("ndarray", (), {}),
        cuda=SimpleNamespace(
            Stream=new,
            get_current_stream=lambda: stream,
            MemoryPool=lambda: SimpleNamespace(malloc="the pool's"),
            using_allocator=lambda allocate: log.around(f"allocator {allocate}"),
        ),
    )

    class Device:
        id = 0

        def __enter__(self):
            pass

        def __exit__(self, *error):
            pass

        def synchronize(self):
            log.append("wait")

    made.device = Device()
    return made


def test_a_stream_that_waits_for_nobody_is_current_between_two_waits(arrays, log):
    recorder = Recorder(arrays)
    with recorder.current():
        log.append("work")
    assert recorder._stream.non_blocking
    assert log == ["wait", "enter stream", "work", "wait", "leave stream"]


def test_work_is_recorded_in_the_pools_memory_and_replayed(arrays, log):
    recording, result = Recorder(arrays).record(lambda: log.append("work") or 5)
    assert result == 5
    assert recording.pool.malloc == "the pool's"
    recording.launch()
    expected = ["enter stream", "enter allocator the pool's", "begin", "work", "end", "leave allocator the pool's"]
    assert log == [*expected, "leave stream", "launch"]


@pytest.mark.parametrize("broken", [False, True])
def test_an_error_in_a_capture_ends_it(arrays, log, broken):
    recorder = Recorder(arrays)
    recorder._stream.broken = broken
    with pytest.raises(ZeroDivisionError):
        recorder.record(lambda: 1 / 0)
    assert log[2:4] == ["begin", "end"]
    assert not recorder._stream.is_capturing()


WAITS = {
    "a host read (to_host)": lambda arrays: arrays.to_host(None),
    "a copy of host data to the device": lambda arrays: arrays.asarray(np.ones(3)),
    "a copy of host data to the device ": lambda arrays: arrays.upload(np.ones(3), None),
    "synchronisation": lambda arrays: arrays.synchronize(),
}


@pytest.mark.parametrize("what", WAITS)
def test_what_waits_for_the_device_is_refused_by_name_while_capturing(arrays, what):
    with pytest.raises(BackendError) as caught:
        Recorder(arrays).record(lambda: WAITS[what](arrays))
    assert str(caught.value).startswith(f"{what.strip()} cannot be captured")


def test_an_upload_copies_without_waiting(arrays):
    host, copied = np.arange(6, dtype=np.float32).reshape(2, 3), []
    data = SimpleNamespace(copy_from_host_async=lambda pointer, size: copied.append((pointer, size)))
    arrays.upload(host, SimpleNamespace(data=data))
    assert copied == [(host.ctypes.data, 24)]


def test_a_null_pointer_is_a_zero_of_eight_bytes(monkeypatch):
    cupy = pytest.importorskip("cupy")
    monkeypatch.setattr(cupy.cuda, "Device", lambda number: Log().around("device"))
    launcher, calls = CupyLauncher(0, lambda array: True), []
    launcher._functions["f"] = lambda grid, block, args, shared_mem: calls.append(args)
    launcher.run("f.cu", "f", (1,), (32,), [np.float32(2), None], 0)
    ((two, null),) = calls
    assert (two, null, null.nbytes) == (2, 0, 8)


def test_cupy_has_what_capture_asks_of_it():
    cupy = pytest.importorskip("cupy")
    cupyx = pytest.importorskip("cupyx")
    for owner, names in (
        (cupy.cuda.Stream, ("begin_capture", "end_capture", "is_capturing", "__enter__")),
        (cupy.cuda.Graph, ("launch",)),
        (cupy.cuda.MemoryPool, ("malloc",)),
        (cupy.cuda.MemoryPointer, ("copy_from_host_async",)),
        (cupy.cuda, ("using_allocator", "get_current_stream")),
        (cupyx, ("empty_pinned",)),
    ):
        for name in names:
            assert hasattr(owner, name), (owner, name)
