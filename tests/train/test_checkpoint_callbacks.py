"""`Checkpoint`, `BestCheckpoint` and `resume`: when files are written, which are kept, and what is loaded."""

import signal
import threading

import numpy as np
import pytest

from gpunet import DamagedFileError, optim
from gpunet.interop import read_metadata
from gpunet.train import BestCheckpoint, Checkpoint, EarlyStopping, LearningRateMonitor, StopTraining, resume
from gpunet.train import checkpoints as module
from gpunet.train.writing import BackgroundWriter


def place(path):
    """(epoch, batches of the running one) of a checkpoint."""
    training = read_metadata(path)["training"]
    return training["epoch"], (training["running"] or {"taken": 0})["taken"]


class StopAt:
    def __init__(self, epoch, step):
        self.place = (epoch, step)

    def after_step(self, trainer):
        if (trainer.epoch, trainer.step) == self.place:
            raise StopTraining


def files(folder):
    return sorted(each.name for each in folder.iterdir())


def test_a_checkpoint_is_written_at_each_epochs_end_and_the_one_before_is_kept(task, tmp_path):
    path = tmp_path / "runs/last.safetensors"
    task.trainer(callbacks=[Checkpoint(path, metadata={"note": "mine"}), Waits()]).fit(task.train, 3)
    assert files(path.parent) == ["last-1.safetensors", "last.safetensors"]
    assert (place(path), place(path.with_name("last-1.safetensors"))) == ((3, 0), (2, 0))
    assert read_metadata(path)["note"] == "mine"


@pytest.mark.parametrize(("keep", "expected"), [(1, [(1, 3)]), (3, [(1, 3), (1, 2), (1, 0)])])
def test_checkpoints_come_every_few_steps_and_so_many_are_kept(new_task, tmp_path, keep, expected):
    task, path = new_task(), tmp_path / "last.safetensors"
    callbacks = [Checkpoint(path, every_steps=2, keep=keep), StopAt(1, 2), Waits()]  # an epoch has 4 steps
    task.trainer(callbacks=callbacks).fit(task.train, 3)
    names = ["last.safetensors", "last-1.safetensors", "last-2.safetensors"][:keep]
    assert [place(tmp_path / name) for name in names] == expected
    assert files(tmp_path) == sorted(names)


class Waits:
    """Waits after each hook until what was saved is on the disk, so that no file gives way to a newer one."""

    order = 200

    def after_step(self, trainer):
        trainer._writer.finish()

    after_epoch = after_step


def test_steps_are_counted_from_the_last_checkpoint_and_from_where_an_epoch_goes_on(new_task, tmp_path):
    task, path, saved = new_task(), tmp_path / "last.safetensors", []
    checkpoint = Checkpoint(path, every_steps=3)
    trainer = task.trainer(callbacks=[checkpoint, StopAt(0, 1)])
    trainer.fit(task.train, 1)
    save = trainer.save
    trainer.save = lambda *a, **k: (saved.append((trainer.epoch, trainer.step)), save(*a, **k))
    trainer.fit(task.train, 2)
    assert saved == [(1, 3), (1, 2), (2, 3)]


def test_checkpoints_come_after_some_minutes(new_task, tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module, "monotonic", lambda: now[0])

    class Clock:
        order = -1

        def after_step(self, trainer):
            now[0] += 31.0

    task, saved = new_task(), []
    trainer = task.trainer(callbacks=[Clock(), Checkpoint(tmp_path / "last.safetensors", every_minutes=1.5)])
    trainer.save = lambda *a, **k: saved.append((trainer.epoch, trainer.step))
    trainer.fit(task.train, 2)
    assert saved == [(0, 2), (1, 3), (1, 2), (2, 3)]


def test_ctrl_c_leaves_a_checkpoint_of_the_step(task, tmp_path):
    class Press:
        def after_step(self, trainer):
            if (trainer.epoch, trainer.step) == (1, 1):
                signal.raise_signal(signal.SIGINT)

    path = tmp_path / "last.safetensors"
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert task.trainer(callbacks=[Checkpoint(path), Press()]).fit(task.train, 3).interrupted
    finally:
        signal.signal(signal.SIGINT, before)
    assert place(path) == (1, 2)


def test_an_error_leaves_the_checkpoint_before_it(task, tmp_path):
    class Fail:
        def after_step(self, trainer):
            if (trainer.epoch, trainer.step) == (1, 1):
                raise RuntimeError("a hook failed")

    path = tmp_path / "last.safetensors"
    with pytest.raises(RuntimeError, match="a hook failed"):
        task.trainer(callbacks=[Checkpoint(path), Fail()]).fit(task.train, 3)
    assert place(path) == (1, 0)


def test_training_does_not_wait_for_the_disk(new_task, tmp_path, monkeypatch):
    gate, begun, path, task = threading.Event(), threading.Event(), tmp_path / "last.safetensors", new_task()
    trainer = task.trainer(callbacks=[Checkpoint(path, every_steps=1), Opens(path, gate)])
    submit, seen = trainer._writer.submit, []

    def slow(path, snapshot, keep):
        seen.append(path)
        submit(path, Slow(snapshot, gate, begun), keep)
        assert begun.wait(30)

    monkeypatch.setattr(trainer._writer, "submit", slow)

    trainer.fit(task.train, 2)
    assert len(seen) == 10  # after 8 steps and 2 epochs, while the first write waited
    assert place(path) == (2, 0)  # the newest of those that waited
    assert place(tmp_path / "last-1.safetensors") == (0, 1)


class Opens:
    """Opens the gate after the last checkpoint; none is written before."""

    order = 200

    def __init__(self, path, gate):
        self.path, self.gate = path, gate

    def after_epoch(self, trainer):
        assert not self.path.exists()
        if trainer.epoch == 2:
            self.gate.set()


class Slow:
    """Begins to write, and goes on when a gate opens."""

    def __init__(self, snapshot, gate, begun):
        self.snapshot, self.gate, self.begun = snapshot, gate, begun

    def write(self, path, keep):
        self.begun.set()
        assert self.gate.wait(30)
        self.snapshot.write(path, keep)


def test_a_checkpoint_that_cannot_be_written_ends_training_and_names_the_file(new_task, tmp_path):
    (tmp_path / "file").write_text("")
    task, path = new_task(), tmp_path / "file/last.safetensors"
    with pytest.raises(OSError, match=r"file/last\.safetensors"):
        task.trainer(callbacks=[Checkpoint(path)]).fit(task.train, 2)


def test_after_an_error_nothing_is_written_that_came_later(tmp_path):
    class Fails:
        def write(self, path, keep):
            assert gate.wait(30)
            raise OSError("the disk is full")

    class Writes:
        def write(self, path, keep):
            path.write_bytes(b"")

    gate, writer = threading.Event(), BackgroundWriter()
    writer.submit(tmp_path / "best", Fails())
    writer.submit(tmp_path / "last", Writes())
    gate.set()
    with pytest.raises(OSError, match="the disk is full"):
        writer.finish()
    assert files(tmp_path) == []
    writer.submit(tmp_path / "last", Writes())
    writer.finish()
    assert files(tmp_path) == ["last"]


def test_a_file_lands_where_its_name_led_when_it_was_saved(task, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    trainer = task.trainer()
    submit = trainer._writer.submit

    def move_and_submit(*arguments):
        monkeypatch.chdir(tmp_path / "elsewhere")
        submit(*arguments)

    monkeypatch.setattr(trainer._writer, "submit", move_and_submit)
    trainer.save("a.safetensors")
    assert (tmp_path / "a.safetensors").exists()


def test_of_two_saves_the_later_one_stays(task, tmp_path):
    path, gate, trainer = tmp_path / "a.safetensors", threading.Event(), task.trainer()
    submit = trainer._writer.submit
    trainer._writer.submit = lambda path, snapshot, keep: submit(path, Slow(snapshot, gate, threading.Event()), keep)
    trainer.save(path, wait=False)
    trainer._writer.submit = submit
    trainer.epoch = 7
    threading.Timer(0.1, gate.set).start()
    trainer.save(path)
    assert place(path) == (7, 0)


def test_what_is_still_being_written_when_a_fit_begins_is_no_leftover(task, tmp_path):
    path = tmp_path / "last.safetensors"
    trainer = task.trainer(callbacks=[Checkpoint(path)])
    for _ in range(20):
        trainer.save(path, wait=False)
    trainer.fit(task.train, 1)
    assert place(path) == (1, 0)


def test_a_hook_after_the_fit_that_fails_loses_no_checkpoint(task, tmp_path):
    class Fail:
        def after_fit(self, trainer):
            raise RuntimeError("a hook failed")

    path = tmp_path / "last.safetensors"
    with pytest.raises(RuntimeError, match="a hook failed"):
        task.trainer(callbacks=[Checkpoint(path), Fail()]).fit(task.train, 2)
    assert place(path) == (2, 0)
    assert not [thread for thread in threading.enumerate() if thread.name == "gpunet-writer"]


def test_metadata_cannot_take_the_place_of_the_trainers_own(task, tmp_path):
    with pytest.raises(ValueError, match="metadata has the key 'training'"):
        task.trainer().save(tmp_path / "a.safetensors", {"training": {}})
    assert files(tmp_path) == []


def test_ctrl_c_after_an_epoch_keeps_two_different_checkpoints(task, tmp_path):
    class Press:
        order = 300

        def after_epoch(self, trainer):
            if trainer.epoch == 2:
                signal.raise_signal(signal.SIGINT)

    path = tmp_path / "last.safetensors"
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert task.trainer(callbacks=[Checkpoint(path), Waits(), Press()]).fit(task.train, 3).interrupted
    finally:
        signal.signal(signal.SIGINT, before)
    assert (place(path), place(tmp_path / "last-1.safetensors")) == ((2, 0), (1, 0))


def test_what_a_killed_write_left_is_removed_at_the_next_start(task, tmp_path):
    names = [".last.safetensors.0123456789abcdef", ".best.safetensors.fedcba9876543210", ".other.0123456789abcdef"]
    for name in names:
        (tmp_path / name).write_bytes(b"half")
    callbacks = [Checkpoint(tmp_path / "last.safetensors"), BestCheckpoint(tmp_path / "best.safetensors", "accuracy")]
    task.trainer(callbacks=callbacks).fit(task.train, 1)
    assert files(tmp_path) == [".other.0123456789abcdef", "best.safetensors", "last.safetensors"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"every_steps": 0}, ValueError, "Checkpoint: every_steps must be at least 1, got 0"),
        ({"every_minutes": 0.0}, ValueError, "Checkpoint: every_minutes is 0.0 but must be above 0"),
        ({"keep": 0}, ValueError, "Checkpoint: keep must be at least 1, got 0"),
    ],
)
def test_impossible_options_raise(options, error, message):
    with pytest.raises(error, match=message):
        Checkpoint("last.safetensors", **options)


# ---- resume


@pytest.fixture
def run_of(new_task, tmp_path):
    def run(epochs, seed=0):
        task = new_task(seed)
        trainer = task.trainer(callbacks=[Checkpoint(tmp_path / "last.safetensors"), Waits()])
        if epochs:
            trainer.fit(task.train, epochs)
        return trainer

    return run


def test_resume_loads_the_newest_checkpoint(run_of, tmp_path):
    whole = run_of(3)
    other = run_of(0, seed=9)
    assert resume(other, tmp_path / "last.safetensors") == tmp_path / "last.safetensors"
    assert other.epoch == 3
    for name, value in whole.model.state_dict().items():
        np.testing.assert_array_equal(value, other.model.state_dict()[name])


@pytest.mark.parametrize("damage", ["cut", "altered", "empty", "missing"])
def test_resume_falls_back_to_the_checkpoint_before_and_says_so(run_of, tmp_path, damage):
    run_of(3)
    path = tmp_path / "last.safetensors"
    good, trainer = path.read_bytes(), run_of(0)
    if damage == "missing":  # killed between two renamings, on a disk without hard links
        path.unlink()
        assert resume(trainer, path) == tmp_path / "last-1.safetensors"
    else:
        altered = good[:-9] + bytes([good[-9] ^ 1]) + good[-8:]
        path.write_bytes({"cut": good[: len(good) // 2], "altered": altered, "empty": b""}[damage])
        with pytest.warns(UserWarning, match=r"resume: .*last\.safetensors.*; going on from the checkpoint before it"):
            assert resume(trainer, path) == tmp_path / "last-1.safetensors"
    assert trainer.epoch == 2


def test_resume_without_a_whole_checkpoint_raises_and_without_any_returns_none(run_of, tmp_path):
    trainer, path = run_of(0), tmp_path / "last.safetensors"
    assert resume(trainer, path) is None
    run_of(2)
    for each in tmp_path.iterdir():
        each.write_bytes(b"no checkpoint")
    with (
        pytest.warns(UserWarning, match="going on from the checkpoint before it"),
        pytest.raises(DamagedFileError, match=r"no checkpoint of .*last\.safetensors is whole: "),
    ):
        resume(trainer, path)
    assert trainer.epoch == 0


def test_a_checkpoint_of_another_optimizer_is_no_damage(new_task, run_of, tmp_path):
    run_of(2)
    task = new_task(optimizer=optim.SGD)
    with pytest.raises(ValueError, match="holds optimizer AdamW, not SGD") as caught:
        resume(task.trainer(), tmp_path / "last.safetensors")
    assert not isinstance(caught.value, DamagedFileError)


# ---- the states of callbacks


def early_run(new_task, path, values, stop=None, **options):
    """(trainer, callback) of a run whose monitored column has given values."""

    class Given:
        order = -1

        def after_epoch(self, trainer):
            trainer.history.rows[-1]["loss"] = values[trainer.epoch - 1]

    task, early = new_task(), EarlyStopping("loss", **options)
    callbacks = [Given(), early, Checkpoint(path), *([] if stop is None else [StopAt(*stop)])]
    return task, task.trainer(callbacks=callbacks), early


VALUES = [5.0, 4.0, 4.5, 4.6, 4.7, 3.0, 2.0, 1.0]


@pytest.mark.parametrize("stop", [(1, 2), (2, 0), (3, 3), (4, 1)])
def test_early_stopping_counts_on_and_restores_the_best_epoch_of_both_parts(new_task, tmp_path, stop):
    task, whole, _ = early_run(new_task, tmp_path / "whole.safetensors", VALUES, patience=3)
    whole.fit(task.train, 8)
    assert whole.epoch == 5

    path = tmp_path / "last.safetensors"
    task, first, _ = early_run(new_task, path, VALUES, stop, patience=3)
    first.fit(task.train, 8)
    task, second, _ = early_run(new_task, path, VALUES, patience=3)
    resume(second, path)
    assert second.epoch == stop[0]
    second.fit(task.train, 8 - second.epoch)
    assert second.epoch == 5
    for name, value in whole.model.state_dict().items():  # those of the second epoch
        np.testing.assert_array_equal(value, second.model.state_dict()[name], err_msg=name)


def test_a_run_that_early_stopping_has_ended_does_not_go_on(new_task, tmp_path):
    path = tmp_path / "last.safetensors"
    task, whole, _ = early_run(new_task, path, VALUES, patience=3)
    whole.fit(task.train, 8)
    task, second, _ = early_run(new_task, path, VALUES, patience=3)
    resume(second, path)
    second.fit(task.train, 3)
    assert second.epoch == 5
    for name, value in whole.model.state_dict().items():
        np.testing.assert_array_equal(value, second.model.state_dict()[name], err_msg=name)


def test_recorded_rates_go_on(new_task, tmp_path):
    def make(*callbacks):
        task, monitor = new_task(), LearningRateMonitor()
        schedule = optim.OneCycleLR(task.optimizer, 0.01, 12)
        return task, task.trainer(schedule=schedule, callbacks=[monitor, *callbacks]), monitor

    task, whole, expected = make()
    whole.fit(task.train, 3)
    path = tmp_path / "last.safetensors"
    task, first, _ = make(Checkpoint(path), StopAt(1, 1))
    first.fit(task.train, 3)
    task, second, rates = make()
    resume(second, path)
    second.fit(task.train, 2)
    assert rates.rates == expected.rates
    assert len(expected.rates) == 12
