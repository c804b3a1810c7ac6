"""Ctrl-C at any moment: training ends, nothing hangs, and what is counted, listed and written agrees.

`GPUNET_TEST_SIGNALS` says at how many random moments; a thousand take a minute or two.
`GPUNET_TEST_SIGNALS_BACKEND` says on which backend, NumPy if it is not set.
"""

import asyncio
import csv
import gc
import os
import random
import signal
import subprocess
import sys
import threading
import time
import weakref

import numpy as np
import pytest

from gpunet import optim
from gpunet.interop import read_metadata
from gpunet.train import BestCheckpoint, CSVLogger
from gpunet.train import interrupt as module
from gpunet.train.interrupt import Interrupt

SIGNALS = int(os.environ.get("GPUNET_TEST_SIGNALS", "12"))
"""Moments of the test below."""


ignored = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
"""Of exceptions in finalisers, which Python reports and drops."""


def press():
    signal.raise_signal(signal.SIGINT)


@pytest.fixture(autouse=True)
def sigint():
    """Python's own handler, whatever runs the tests."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield signal.default_int_handler
    signal.signal(signal.SIGINT, before)


class On:
    """Does something at one hook's given call."""

    def __init__(self, hook, action, call=0):
        self.calls = 0

        def method(trainer):
            self.calls += 1
            if self.calls == call + 1:
                action(trainer)

        setattr(self, hook, method)


# ---- any moment


class Presses:
    """SIGINT to the main thread after given times, from a thread that does nothing else."""

    def __init__(self, times):
        self.times, self.sent, self.late = times, 0, 0
        self.gate = threading.Lock()
        self.gate.acquire()
        self.thread = threading.Thread(target=self._send)
        self.thread.start()

    def _send(self):
        self.gate.acquire()
        start = time.perf_counter()
        for at in self.times:
            time.sleep(max(0.0, at - (time.perf_counter() - start)))
            self.sent += 1
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    def outside(self, *_):
        """The handler around training; Python may drop what it raises, in a finaliser, so it counts too."""
        self.late += 1
        raise KeyboardInterrupt

    def wait(self):
        """Until all are sent and handled."""
        while True:
            try:
                if self.thread.is_alive():
                    time.sleep(0.001)
                    continue
                sum(range(10))
                return
            except KeyboardInterrupt:
                pass


class Garbage:
    """A cycle with a finaliser in each batch, so that collections and finalisers run all the time."""

    def __init__(self, trainer=None):
        self.me = self

    def __del__(self):
        sum(range(200))

    @staticmethod
    def after_step(trainer):
        Garbage()


@ignored
def test_at_any_moment_training_ends_and_all_that_is_kept_agrees(new_task, tmp_path, backend_of_signals):
    draw, kinds = random.Random(SIGNALS), {"interrupted": 0, "raised": 0, "finished": 0}
    threshold, interval = gc.get_threshold(), sys.getswitchinterval()
    gc.set_threshold(50)
    sys.setswitchinterval(1e-4)
    try:
        for _ in range(2):  # of which the second is warm
            task, start = new_task(), time.perf_counter()
            trainer = task.trainer(callbacks=[Garbage()], backend=backend_of_signals, metrics=["accuracy", "f1"])
            trainer.fit(task.train, 3, valid=task.valid)
            span = time.perf_counter() - start
        for i in range(SIGNALS):
            kinds[one_fit(new_task, tmp_path / str(i), draw, backend_of_signals, span)] += 1
    finally:
        gc.set_threshold(*threshold)
        sys.setswitchinterval(interval)
    assert not [thread for thread in threading.enumerate() if thread.name == "gpunet-prefetch"]
    assert kinds["interrupted"] + kinds["raised"] > SIGNALS / 3, kinds


@pytest.fixture
def backend_of_signals():
    return os.environ.get("GPUNET_TEST_SIGNALS_BACKEND", "numpy")


def one_fit(new_task, folder, draw, backend, span):
    task = new_task(prefetch=draw.choice([0, 2]))
    epochs, steps = 3, len(task.train)
    schedule = optim.OneCycleLR(task.optimizer, 0.01, epochs * steps)
    path, table = folder / "last.safetensors", folder / "history.csv"
    callbacks = [BestCheckpoint(path, "epoch"), CSVLogger(table), Garbage()]
    trainer = task.trainer(schedule=schedule, callbacks=callbacks, backend=backend, metrics=["accuracy", "f1"])
    first = draw.uniform(0.0005, span)
    times = [first] if draw.random() < 0.7 else [first, first + draw.uniform(0.0001, 0.1 * span)]
    raised, returned = False, None
    presses = Presses(times)
    signal.signal(signal.SIGINT, presses.outside)
    try:
        presses.gate.release()
        returned = trainer.fit(task.train, epochs, valid=task.valid)
    except KeyboardInterrupt:
        raised = True
    presses.wait()
    while any(thread.name == "gpunet-writer" for thread in threading.enumerate()):
        time.sleep(0.001)  # a second Ctrl-C ends the wait for what is written, not the writing
    rows = len(trainer.history)
    assert signal.getsignal(signal.SIGINT) == presses.outside
    assert presses.sent == len(times)
    if not raised:
        assert returned is trainer.history
        assert returned.interrupted or presses.late  # none is lost
        assert returned.interrupted or len(returned) == epochs
    assert trainer.epoch == rows == len(trainer.history)
    assert trainer.history["epoch"] == list(range(1, rows + 1)) if rows else True
    # an epoch that the first one stops stays where it is; one that the second one breaks off begins again
    taken = 0 if trainer._stopped_epoch is None else trainer._stopped_epoch["taken"]
    assert schedule.step_count == trainer.epoch * steps + taken
    kept = read_metadata(path)["training"]["epoch"] if path.exists() else 0
    with open(table, newline="") if table.exists() else open(os.devnull) as file:
        listed = len(list(csv.DictReader(file)))
    slack = 1 if raised else 0  # the second one ends a save or a table too, and leaves the one before
    assert rows - slack <= kept <= rows
    assert rows - slack <= listed <= rows
    if folder.exists():
        assert {each.name for each in folder.iterdir()} <= {path.name, table.name}
    if rows < epochs:  # a resumed fit has the steps that are left, and no more
        trainer.fit(task.train, epochs - rows, valid=task.valid)
        assert schedule.step_count == epochs * steps
        assert trainer.history["epoch"] == [1, 2, 3]
        assert trainer.history["lr"][-1] == schedule.rates(epochs * steps - 1)[0]
    return "raised" if raised else "interrupted" if trainer.history.interrupted or rows < epochs else "finished"


# ---- finalisers


class Finaliser:
    """Presses Ctrl-C where Python drops what is raised."""

    def __init__(self, times):
        self.times = times

    def __del__(self):
        for _ in range(self.times):
            press()


def drop(how, times):
    if how == "__del__":
        Finaliser(times)
    elif how == "weakref":
        target = Finaliser(0)
        reference = weakref.ref(target, lambda _: [press() for _ in range(times)])
        del target
        assert reference() is None
    else:

        def called(phase, info):
            gc.callbacks.remove(called)
            for _ in range(times):
                press()

        gc.callbacks.append(called)
        gc.collect()


HOW = ["__del__", "weakref", "gc"]


@ignored
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize(
    "hook", ["before_fit", "before_epoch", "before_step", "after_step", "after_epoch", "after_fit"]
)
def test_ctrl_c_in_a_finaliser_of_a_fit_is_not_lost(task, how, times, hook):
    trainer = task.trainer(callbacks=[On(hook, lambda _: drop(how, times))])
    if times == 1:
        assert trainer.fit(task.train, 3).interrupted
    else:
        with pytest.raises(KeyboardInterrupt):
            trainer.fit(task.train, 3)
    assert len(trainer.history) == {"after_epoch": 1, "after_fit": 3}.get(hook, 0)


@ignored
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", ["evaluate", "predict"])
@pytest.mark.parametrize("batch", [0, 3])
def test_ctrl_c_in_a_finaliser_of_an_evaluation_is_not_lost(task, sigint, how, name, batch):
    given = []

    def batches():
        for i, each in enumerate(task.valid):
            if i == batch:
                drop(how, 1)
            given.append(i)
            yield each

    with pytest.raises(KeyboardInterrupt):
        getattr(task.trainer(), name)(batches())
    assert given == list(range(batch + 1))
    assert signal.getsignal(signal.SIGINT) is sigint


# ---- hooks


@pytest.mark.parametrize(
    ("hook", "rows"),
    [
        ("before_fit", 0),
        ("before_epoch", 0),
        ("before_step", 0),
        ("after_step", 0),
        ("after_epoch", 1),
        ("after_fit", 3),
    ],
)
def test_ctrl_c_in_any_hook_ends_training_before_anything_else(task, sigint, hook, rows):
    ended = On("after_fit", lambda trainer: None)
    trainer = task.trainer(callbacks=[On(hook, lambda _: press()), ended])
    history = trainer.fit(task.train, 3)
    assert history.interrupted
    assert trainer.epoch == len(history) == rows
    assert ended.calls == 1
    assert signal.getsignal(signal.SIGINT) is sigint


def test_an_interrupted_epoch_stays_where_it_is_and_goes_on(task):
    schedule = optim.OneCycleLR(task.optimizer, 0.01, 12)
    trainer = task.trainer(schedule=schedule, callbacks=[On("after_step", lambda _: press(), call=6)])
    trainer.fit(task.train, 3)
    assert (trainer.epoch, schedule.step_count) == (1, 7)
    assert task.optimizer.steps.tolist() == [7] * 4
    history = trainer.fit(task.train, 2)
    assert schedule.step_count == 12
    assert task.optimizer.steps.tolist() == [12] * 4
    assert history["lr"] == [schedule.rates(step)[0] for step in (3, 7, 11)]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_epoch_that_an_error_ends_takes_the_schedule_back_to_its_start(task, error):
    def fail(trainer):
        raise error

    schedule = optim.OneCycleLR(task.optimizer, 0.01, 8)
    trainer = task.trainer(schedule=schedule, callbacks=[On("after_step", fail, call=5)])
    if error is RuntimeError:
        with pytest.raises(RuntimeError):
            trainer.fit(task.train, 2)
    else:
        trainer.fit(task.train, 2)
    assert (trainer.epoch, schedule.step_count) == (1, 4)


def test_a_checkpoint_of_an_interrupted_fit_goes_on_bit_for_bit(new_task, tmp_path):
    def make(*callbacks):
        task = new_task()
        schedule = optim.OneCycleLR(task.optimizer, 0.01, 12)
        return task, schedule, task.trainer(schedule=schedule, callbacks=callbacks)

    task, _, trainer = make(On("after_step", lambda _: press(), call=6))
    trainer.fit(task.train, 3)
    trainer.save(tmp_path / "a.safetensors")
    trainer.fit(task.train, 2)
    other, schedule, second = make()
    second.load(tmp_path / "a.safetensors")
    second.fit(other.train, 2)
    assert schedule.step_count == 12
    for name, value in trainer.model.state_dict().items():
        np.testing.assert_array_equal(value, other.model.state_dict()[name], err_msg=name)


def test_a_fit_in_a_hook_passes_ctrl_c_on_to_the_outer_fit(task, new_task, sigint):
    inner = new_task(1)

    def fit(_):
        trainer = inner.trainer(callbacks=[On("after_step", lambda _: press())])
        assert trainer.fit(inner.train, 3).interrupted
        assert len(trainer.history) == 0

    history = task.trainer(callbacks=[On("before_epoch", fit)]).fit(task.train, 3)
    assert history.interrupted
    assert len(history) == 0
    assert signal.getsignal(signal.SIGINT) is sigint


@pytest.mark.parametrize("name", ["evaluate", "predict"])
def test_ctrl_c_in_an_evaluation_in_a_hook_ends_the_fit(task, name):
    given = []

    def batches():
        for i, batch in enumerate(task.valid):
            if i == 1:
                press()
            given.append(i)
            yield batch

    history = task.trainer(callbacks=[On("after_step", lambda t: getattr(t, name)(batches()))]).fit(task.train, 3)
    assert history.interrupted
    assert (len(history), given) == (0, [0, 1])


# ---- whose handler it is


@pytest.mark.parametrize("handler", [signal.SIG_IGN, lambda *_: None])
@pytest.mark.parametrize("name", ["fit", "evaluate", "predict"])
def test_the_handler_of_the_user_is_back_afterwards(task, handler, name):
    signal.signal(signal.SIGINT, handler)
    trainer = task.trainer(callbacks=[On("after_step", lambda _: press(), call=1)])
    if name == "fit":
        history = trainer.fit(task.train, 2)
        assert history.interrupted == (handler is not signal.SIG_IGN)  # as under nohup
        assert len(history) == (2 if handler is signal.SIG_IGN else 0)
    else:
        getattr(trainer, name)(task.valid)
    assert signal.getsignal(signal.SIGINT) is handler


def test_an_evaluation_leaves_ctrl_c_to_a_handler_of_the_user(task):
    pressed = []
    signal.signal(signal.SIGINT, lambda *_: pressed.append(True))

    def batches():
        for batch in task.valid:
            press()
            yield batch

    task.trainer().evaluate(batches())
    assert len(pressed) == len(task.valid)


@pytest.mark.parametrize("when", [1, 2, 3, 4])
def test_ctrl_c_while_the_handlers_change_leaves_the_right_ones(monkeypatch, sigint, when):
    change, changes = signal.signal, []

    def pressed(*arguments):
        result = change(*arguments)
        changes.append(arguments)
        if len(changes) == when:
            for _ in range(3):
                interrupt._handle(signal.SIGINT, sys._getframe(1))
        return result

    interrupt = Interrupt()
    monkeypatch.setattr(signal, "signal", pressed)
    with pytest.raises(KeyboardInterrupt), interrupt:
        pass
    assert [number for number, _ in changes] == [signal.SIGINT, signal.SIGTERM, signal.SIGTERM, signal.SIGINT]
    assert signal.getsignal(signal.SIGINT) is sigint
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_ctrl_c_while_handlers_are_looked_at_leaves_the_right_ones(monkeypatch, sigint):
    look, interrupt = module._owner, Interrupt()

    def pressed(handler):
        if signal.getsignal(signal.SIGINT) == interrupt._handle:  # as if two came within the call
            for _ in range(2):
                interrupt._handle(signal.SIGINT, FrameOf(look))
        return look(handler)

    monkeypatch.setattr(module, "_owner", pressed)
    with pytest.raises(KeyboardInterrupt), interrupt:
        pass
    assert signal.getsignal(signal.SIGINT) is sigint
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


class FrameOf:
    """The frame of a function, as a handler sees it."""

    def __init__(self, function):
        self.f_code = function.__code__


TERMINATED = """
import os, signal, sys
import numpy as np
from gpunet import data, nn, optim, Trainer
from gpunet.train import Checkpoint

class Terminate:
    def after_step(self, trainer):
        if (trainer.epoch, trainer.step) == (1, 1):
            for _ in range(2 if sys.argv[2] == "twice" else 1):
                os.kill(os.getpid(), signal.SIGTERM)
            if sys.argv[2] == "failing":
                raise OSError("the disk is full")

    def after_fit(self, trainer):
        print("after", trainer.epoch, trainer.history.interrupted, flush=True)

model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
loader = data.DataLoader(data.ArrayDataset(np.zeros((12, 2, 2, 1), np.float32), np.arange(12) % 2), 4)
callbacks = [Terminate(), Checkpoint(sys.argv[1])]
trainer = Trainer(model, optim.SGD(model.parameters(), lr=0.1), callbacks=callbacks, progress=False)
if sys.argv[2] == "handled":
    signal.signal(signal.SIGTERM, lambda *_: print("handled", flush=True))
trainer.fit(loader, 2)
print("returned", trainer.epoch, flush=True)
"""


@pytest.mark.parametrize("kind", ["default", "twice", "handled", "failing"])
def test_sigterm_ends_the_process_after_the_step_and_the_checkpoint_unless_the_program_handles_it(tmp_path, kind):
    path = tmp_path / "last.safetensors"
    done = subprocess.run([sys.executable, "-c", TERMINATED, path, kind], capture_output=True, text=True)
    if kind == "handled":
        assert (done.returncode, done.stdout) == (0, "handled\nafter 2 False\nreturned 2\n"), done.stderr
        return
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, "after 1 True\n"), done.stderr
    training = read_metadata(path)["training"]
    if kind == "failing":
        assert "OSError: the disk is full" in done.stderr
        assert (training["epoch"], training["running"]) == (1, None)
    else:
        assert (training["epoch"], training["running"]["taken"]) == (1, 2)


def test_a_fit_in_another_thread_goes_on_when_the_main_one_is_interrupted(task, sigint):
    histories, started = [], threading.Event()
    trainer = task.trainer(callbacks=[On("after_step", lambda _: started.set())])
    thread = threading.Thread(target=lambda: histories.append(trainer.fit(task.train, 3)))
    thread.start()
    started.wait()
    with pytest.raises(KeyboardInterrupt):
        press()
    thread.join()
    assert len(histories[0]) == 3
    assert not histories[0].interrupted
    assert signal.getsignal(signal.SIGINT) is sigint


def test_a_fit_inside_asyncio_is_interrupted_alone(task):
    async def main():
        history = task.trainer(callbacks=[On("after_step", lambda _: press())]).fit(task.train, 3)
        await asyncio.sleep(0)
        return history

    assert asyncio.run(main()).interrupted


# ---- compilers

COMPILING = """
import os, signal, sys
from pathlib import Path
from gpunet.emulator.build import compile_library
from gpunet.train.interrupt import Interrupt

with Interrupt() as interrupt:
    print("begun", flush=True)
    compile_library([Path("none.cpp")], Path(sys.argv[1]), [])
print("noted", interrupt.count, Path(sys.argv[1]).read_text())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="a terminal's process group is POSIX's")
def test_ctrl_c_at_the_terminal_leaves_a_running_compiler_alone(tmp_path):
    slow = tmp_path / "g++"
    slow.write_text(
        '#!/bin/sh\nsleep 0.8\nfor last; do [ "$previous" = -o ] && out=$last; previous=$last; done\necho made >$out\n'
    )
    slow.chmod(0o755)
    command = [sys.executable, "-c", COMPILING, str(tmp_path / "made.so")]
    environment = {**os.environ, "CXX": str(slow)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
    ) as process:
        assert process.stdout.readline() == "begun\n"
        time.sleep(0.3)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        assert process.stdout.read() == "noted 1 made\n\n"
    assert process.returncode == 0


# ---- the end of the process


SCRIPT = """
import os, signal, sys, threading, time
import numpy as np
from gpunet import data

class Slow(data.ArrayDataset):
    def __getitem__(self, indices):
        time.sleep(0.02)
        return super().__getitem__(indices)

loader = data.DataLoader(Slow(np.zeros(400)), 4, prefetch=2)
threading.Timer(float(sys.argv[1]), lambda: os.kill(os.getpid(), signal.SIGINT)).start()
print("begun", flush=True)
for batch in loader:
    pass
"""


@pytest.mark.parametrize("delay", [0.001, 0.0731])
def test_a_loop_over_a_loader_that_is_interrupted_ends_the_process(delay):
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(delay)], capture_output=True, text=True, timeout=30)
    assert done.returncode in (130, -signal.SIGINT)
    assert done.stderr.rstrip().endswith("KeyboardInterrupt")
