"""How much device memory a captured step takes, and that it gives the memory back."""

import threading
import warnings
import weakref

import numpy as np
import pytest
from helpers import needs_emulator
from helpers.capturing import assert_same, state_of

from gpunet import optim
from gpunet.backends.cuda.backend import emulated_backend
from gpunet.cuda.capture import free_unused
from gpunet.emulator.launches import Settings
from gpunet.emulator.pool import DeviceMemory, Pool
from gpunet.errors import BackendError

pytestmark = [needs_emulator, pytest.mark.usefixtures("short_graphs")]


@pytest.fixture
def device():
    """A backend of a device that nothing else uses."""
    return emulated_backend(Settings())


def used(backend):
    """Bytes that are taken of the device, but for what is kept for the next arrays."""
    free_unused(backend.arrays)
    return backend.arrays.used_bytes()


def test_a_dropped_trainer_gives_back_the_memory_of_its_graphs(new_task, device):
    task = new_task(dropout=0)
    task.trainer(backend=device, capture=False).fit(task.train, 1)
    before = used(device)
    trainer = task.trainer(backend=device, capture=True)
    trainer.fit(task.train, 2)
    assert used(device) > before
    gone = weakref.ref(trainer)
    del trainer
    assert gone() is None  # without the garbage collector
    assert used(device) == before


def test_graphs_that_are_captured_again_leave_no_memory_behind(new_task, device):
    task = new_task(optimizer=optim.SGD)
    trainer = task.trainer(backend=device, capture=True)
    trainer.fit(task.train, 1)
    before = used(device)
    for rate in (0.2, 0.1, 0.2):
        task.model.layers[4].p = rate  # which a graph has frozen
        trainer.fit(task.train, 1)
        assert used(device) == before


def test_recorders_come_and_go(device):
    x = device.full((1000,), 2.0, np.float32)
    before = used(device)
    for _ in range(20):
        recorder = device.recorder()
        recording, y = recorder.record(lambda: device.unary("exp", device.unary("exp", x)))
        recording.launch()
        del recorder, recording, y
    assert used(device) == before


def test_memory_that_an_array_still_holds_is_given_back_when_the_array_has_gone(device):
    x = device.full((1000,), 2.0, np.float32)
    before = used(device)
    recording, y = device.recorder().record(lambda: device.unary("exp", x))
    recording.launch()
    del recording
    assert device.to_numpy(y)[0] == pytest.approx(np.exp(2))
    assert used(device) > before
    del y
    assert used(device) == before


def test_memory_is_not_given_back_while_a_stream_captures(device):
    x = device.full((1000,), 2.0, np.float32)
    before = used(device)
    old = [device.recorder().record(lambda: device.unary("exp", x))]

    def work():
        old.clear()  # the collector may do so at any moment; a wait for the device would spoil the capture
        assert device.arrays.used_bytes() > before
        device.unary("exp", x)

    kept = device.recorder().record(work)
    assert used(device) > before
    del kept
    assert used(device) == before


def test_a_capture_takes_the_memory_that_eager_work_has_freed(device):
    tight = emulated_backend(Settings(), memory=200_000)
    x = tight.full((10_000,), 2.0, np.float32)
    del x
    for _ in range(2):
        [tight.empty((10_000,), np.float32) for _ in range(3)]  # 120 kB that the pool keeps
        recording, arrays = tight.recorder().record(lambda: [tight.empty((10_000,), np.float32) for _ in range(3)])
        del arrays, recording
    with pytest.raises(
        MemoryError, match="out of memory allocating 40448 bytes: .* of the emulated device's 200000 are taken"
    ):
        tight.recorder().record(lambda: [tight.empty((10_000,), np.float32) for _ in range(5)])
    assert used(tight) < 40_000


@pytest.mark.parametrize(("enough_for", "layer"), [(600, "Conv2d: "), (8000, "")], ids=["nothing", "the forward pass"])
def test_without_memory_for_a_graph_training_goes_on_eagerly_and_says_so_once(new_task, monkeypatch, enough_for, layer):
    def trained(capture):
        task, device = new_task(0), emulated_backend(Settings())
        trainer = task.trainer(backend=device, capture=capture)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            trainer.fit(task.train, 1)
            monkeypatch.setattr(device.arrays, "make_pool", lambda: Pool(DeviceMemory(enough_for), of_graph=True))
            trainer._step.graphs = {}
            trainer.fit(task.train, 2)
        return used(device), [str(w.message) for w in caught if w.category is RuntimeWarning], state_of(task, trainer)

    eager_bytes, none, expected = trained(False)
    assert not none
    with pytest.raises(BackendError, match=f"the step cannot be captured: {layer}out of memory allocating"):
        trained(True)
    taken, (warning,), state = trained("auto")
    assert warning.startswith(f"Trainer: the step cannot be captured: {layer}out of memory allocating")
    assert warning.endswith("; it runs eagerly")
    assert_same(expected, state)
    assert taken <= eager_bytes  # nothing of the graphs is left


def test_threads_that_train_at_once_do_not_disturb_each_other(new_task, device):
    def train(task):
        task.trainer(backend=device, capture=True).fit(task.train, 4)

    def make(seed):
        task = new_task(seed, dropout=0)
        task.train.seed = seed
        return task

    tasks, expected = [make(seed) for seed in (0, 1)], []
    for seed in (0, 1):
        task = make(seed)
        train(task)
        expected.append(task.model.state_dict())
    threads = [threading.Thread(target=train, args=(task,)) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for task, weights in zip(tasks, expected, strict=True):
        for name, array in task.model.state_dict().items():
            np.testing.assert_array_equal(array, weights[name], err_msg=name)


def test_each_stream_has_counters_of_its_own(device):
    def counters():
        return device.arrays.pointer(device._arrivals(5))

    own = counters()
    recorder, other = device.recorder(), device.recorder()
    with recorder.current():
        first = counters()
    with other.current():
        second = counters()
    assert len({own, first, second}) == 3
    assert counters() == own
    with recorder.current():
        assert counters() == first
        assert recorder.record(counters)[1] == first
    del recorder
    assert len(device._kept) == 2  # the default stream's and the other's


def test_a_graph_may_need_more_counters_than_usual(device):
    device._arrivals(10_000)  # an eager step asked for so many
    recorder = device.recorder()
    assert recorder.record(lambda: device._arrivals(10_000).shape)[1] == (10_000,)
