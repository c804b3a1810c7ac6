"""Training that goes on from a checkpoint equals training without a break, bit for bit."""

import signal
import warnings

import numpy as np
import pytest

import gpunet as gp
from gpunet import data, optim
from gpunet.train import StopEpoch, StopTraining


@pytest.mark.parametrize("scheduled", [False, True])
@pytest.mark.parametrize("kind", [optim.AdamW, optim.SGD])
def test_training_goes_on_from_a_checkpoint_bit_for_bit(new_task, tmp_path, kind, scheduled):
    def make(seed):
        task = new_task(seed, optimizer=kind)
        schedule = optim.OneCycleLR(task.optimizer, 0.01, 16) if scheduled else None
        return task, task.trainer(schedule=schedule)

    task, whole = make(5)
    whole.fit(task.train, 4, valid=task.valid)

    task, first = make(5)
    first.fit(task.train, 2, valid=task.valid)
    first.save(tmp_path / "middle.safetensors")

    task, second = make(9)  # a process of its own does not know the seed
    second.load(tmp_path / "middle.safetensors")
    assert second.epoch == 2
    second.fit(task.train, 2, valid=task.valid)

    for name, value in whole.model.state_dict().items():
        np.testing.assert_array_equal(value, second.model.state_dict()[name], err_msg=name)
    for column in ("epoch", "loss", "accuracy", "valid_loss", "lr"):
        assert whole.history[column] == second.history[column]


class SaveAt:
    """Saves a checkpoint in a hook, at one place of training."""

    def __init__(self, path, epoch, step, hook="after_step", every_step=True):
        self.path, self.place, self.every_step = path, (epoch, step), every_step
        setattr(self, hook, self.save)

    def save(self, trainer):
        if (trainer.epoch, trainer.step) == self.place:
            trainer.save(self.path)


def state_of(trainer):
    """All that a run leaves but its times: arrays by name, and the rest."""
    kept = trainer.optimizer.state_dict()
    slots = {f"{name}.{i}": a for name, arrays in kept.pop("slots").items() for i, a in enumerate(arrays)}
    arrays = {**trainer.model.state_dict(), **slots}
    if trainer.average is not None:
        arrays |= {f"average.{name}": array for name, array in trainer.average.state_dict().items()}
    times = {"seconds", "images_per_second"}
    rows = [{name: value for name, value in row.items() if name not in times} for row in trainer.history.rows]
    schedule = None if trainer.schedule is None else trainer.schedule.state_dict()
    return arrays, {"optimizer": kept, "rows": rows, "epoch": trainer.epoch, "schedule": schedule}


def assert_same_run(one, other):
    (arrays, rest), (others, other_rest) = state_of(one), state_of(other)
    np.testing.assert_equal(rest, other_rest)
    assert arrays.keys() == others.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, others[name], err_msg=name)


def run_whole_and_in_parts(make, path, *, epochs=3):
    """(a trainer that ran without a break, one that went on from the checkpoint that the first one's hook wrote)."""
    loader, valid, whole = make(seed=0, saving=True)
    whole.fit(loader, epochs, valid=valid)
    loader, valid, second = make(seed=9, saving=False)  # a process of its own does not know the seed
    second.load(path)
    assert second.epoch < epochs
    second.fit(loader, epochs - second.epoch, valid=valid)
    return whole, second


@pytest.mark.parametrize("hook", ["before_step", "after_step"])
@pytest.mark.parametrize("place", [(0, 0), (1, 0), (1, 2), (1, 3), (2, 1)])  # an epoch has 4 steps
def test_training_goes_on_within_an_epoch_bit_for_bit(new_task, tmp_path, place, hook):
    path = tmp_path / "within.safetensors"

    def make(seed, saving):
        task = new_task(seed)
        schedule = optim.OneCycleLR(task.optimizer, 0.01, 12)
        average = optim.ExponentialMovingAverage(task.model, task.optimizer, 0.9)
        callbacks = [SaveAt(path, *place, hook)] if saving else []
        metrics = ["accuracy", "top2", "confusion", "f1"]
        trainer = task.trainer(schedule=schedule, average=average, callbacks=callbacks, metrics=metrics)
        return task.train, task.valid, trainer

    assert_same_run(*run_whole_and_in_parts(make, path))


def of_arrays(task):
    return list(task.train)


def ahead(task):
    return data.DataLoader(task.train.dataset, 16, shuffle=True, transform=task.train.transform, prefetch=2)


def with_sampler(task):
    sampler = data.WeightedRandomSampler(np.arange(1, 51.0), 64)
    return data.DataLoader(task.train.dataset, 16, sampler=sampler, transform=task.train.transform)


def with_mixup(task):
    transform = data.Compose([task.train.transform, data.Mixup(4, alpha=0.4)])
    return data.DataLoader(task.train.dataset, 16, shuffle=True, transform=transform)


@pytest.mark.parametrize("loader", [of_arrays, ahead, with_sampler, with_mixup])
def test_every_loader_goes_on_with_the_next_batch(new_task, tmp_path, loader):
    path = tmp_path / "within.safetensors"

    def make(seed, saving):
        task = new_task(0)  # a list of batches is of one seed
        gp.seed(seed if loader is not of_arrays else 0)
        callbacks, metrics = [SaveAt(path, 1, 1)] if saving else [], [] if loader is with_mixup else None
        return loader(task), task.valid, task.trainer(callbacks=callbacks, metrics=metrics)

    assert_same_run(*run_whole_and_in_parts(make, path))


def test_a_data_loader_does_not_make_the_batches_that_are_left_out():
    made = []

    def note(batch, *, indices, epoch, seed):
        made.append(len(indices))
        return batch

    loader = data.DataLoader(data.ArrayDataset(np.zeros((10, 1), np.float32)), 4, transform=note, prefetch=0)
    loader.first_batch = 2
    assert [len(batch[0]) for batch in loader] == [2]
    assert made == [2]
    assert len(list(loader)) == 3  # the next epoch is whole


def test_updates_of_several_batches_go_on_within_an_epoch(new_task, tmp_path):
    path = tmp_path / "within.safetensors"

    def make(seed, saving):
        task = new_task(seed)
        callbacks = [SaveAt(path, 1, 1)] if saving else []
        return task.train, task.valid, task.trainer(batches_per_update=2, callbacks=callbacks)

    assert_same_run(*run_whole_and_in_parts(make, path))


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("every_step", [False, True])
def test_captured_training_goes_on_within_an_epoch_bit_for_bit(
    new_task, tmp_path, cuda_name, short_graphs, every_step, precision
):
    path = tmp_path / "within.safetensors"

    def make(seed, saving):
        task = new_task(seed)
        schedule = optim.CosineAnnealingLR(task.optimizer, 12)
        callbacks = [SaveAt(path, 1, 2, every_step=every_step)] if saving else []
        how = {"backend": cuda_name, "capture": True, "precision": precision}
        return task.train, task.valid, task.trainer(schedule=schedule, callbacks=callbacks, **how)

    assert_same_run(*run_whole_and_in_parts(make, path))


def test_batches_that_kernels_make_go_on_within_an_epoch(new_task, tmp_path, cuda_name, short_graphs):
    path = tmp_path / "within.safetensors"
    rng = np.random.default_rng(0)
    images = data.ArrayDataset(rng.integers(0, 256, (50, 6, 6, 1), dtype=np.uint8), rng.integers(0, 4, 50))
    transform = data.Compose([data.RandomShift(1), data.Normalize(0.5, 0.25)])

    def make(seed, saving):
        task = new_task(seed)
        loader = data.DeviceLoader(images, 16, backend=cuda_name, shuffle=True, transform=transform)
        callbacks = [SaveAt(path, 1, 2, every_step=False)] if saving else []
        return loader, None, task.trainer(backend=cuda_name, capture=True, callbacks=callbacks)

    assert_same_run(*run_whole_and_in_parts(make, path))


class Constant:
    """A metric that cannot be saved."""

    name = "constant"
    value = 1.0

    def reset(self):
        pass

    def update(self, logits, labels):
        pass


def test_a_metric_without_a_state_is_named_when_training_goes_on_within_an_epoch(new_task, tmp_path):
    path = tmp_path / "within.safetensors"

    def make(seed, saving):
        task = new_task(seed)
        callbacks = [SaveAt(path, 1, 2)] if saving else []
        return task.train, task.valid, task.trainer(metrics=["accuracy", Constant()], callbacks=callbacks)

    with pytest.warns(UserWarning, match="the checkpoint has no state of constant, which the rest of the epoch"):
        assert_same_run(*run_whole_and_in_parts(make, path))


def test_saving_within_an_epoch_changes_nothing(new_task, tmp_path):
    runs = []
    for callbacks in ([], [SaveAt(tmp_path / "within.safetensors", 1, 2)]):
        task = new_task()
        runs.append(task.trainer(callbacks=callbacks, schedule=optim.OneCycleLR(task.optimizer, 0.01, 12)))
        runs[-1].fit(task.train, 3)
    assert_same_run(*runs)


class StopAfterEach:
    """Ends every fit after its first step."""

    def after_step(self, trainer):
        raise StopTraining


def test_a_fit_that_is_stopped_after_every_step_ends_like_one_without_a_break(new_task, tmp_path):
    def make(*callbacks):
        task = new_task()
        schedule = optim.OneCycleLR(task.optimizer, 0.01, 12)
        metrics = ["accuracy", "confusion", "f1"]
        return task, task.trainer(schedule=schedule, callbacks=callbacks, metrics=metrics)

    task, whole = make()
    whole.fit(task.train, 3, valid=task.valid)
    task, parts = make(StopAfterEach())
    path, fits = tmp_path / "a.safetensors", 0
    while parts.epoch < 3:
        parts.fit(task.train, 3 - parts.epoch, valid=task.valid)
        fits += 1
        if fits % 3 == 0:  # now and then in another process
            parts.save(path)
            task, parts = make(StopAfterEach())
            parts.load(path)
    assert fits == 12 + 1  # one after each step; the last of them runs the last validation
    assert_same_run(whole, parts)


class PressAt:
    """Presses Ctrl-C after some batches of a validation."""

    def __init__(self, batches, epoch, batch):
        self.batches, self.place, self.epoch = batches, (epoch, batch), 0

    def __iter__(self):
        for i, batch in enumerate(self.batches):
            if (self.epoch, i) == self.place:
                self.place = None
                signal.raise_signal(signal.SIGINT)
            yield batch


@pytest.mark.parametrize("batch", [0, 2])
def test_a_validation_that_ctrl_c_ends_is_made_again(new_task, tmp_path, batch):
    def run(valid_of):
        task = new_task()
        trainer = task.trainer(metrics=["accuracy", "confusion", "f1"])
        valid = valid_of(task.valid)
        while trainer.epoch < 3:
            trainer.fit(task.train, 3 - trainer.epoch, valid=valid)
        return trainer

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert_same_run(run(lambda valid: valid), run(lambda valid: PressAt(valid, 1, batch)))
    finally:
        signal.signal(signal.SIGINT, before)


class EndEpoch:
    """Ends the second epoch after two of its four steps, and presses Ctrl-C there if asked."""

    def __init__(self, press):
        self.press = press

    def after_step(self, trainer):
        if (trainer.epoch, trainer.step) == (1, 1):
            if self.press:
                signal.raise_signal(signal.SIGINT)
            raise StopEpoch


def test_an_epoch_that_a_hook_ended_stays_ended_where_its_validation_is_interrupted(new_task, tmp_path):
    def run(press):
        task = new_task()
        trainer = task.trainer(callbacks=[EndEpoch(press)], schedule=optim.OneCycleLR(task.optimizer, 0.01, 12))
        while trainer.epoch < 3:
            interrupted = trainer.fit(task.train, 3 - trainer.epoch, valid=task.valid).interrupted
            assert interrupted == (trainer.epoch == 1)
        return trainer

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert_same_run(run(False), run(True))
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 8}, "batch_size 16, now 8; batches 4, now 7: the rest of it has other batches"),
        ({"shuffle": False}, "shuffle True, now False"),
        ({"samples": 40}, "batches 4, now 3; samples 50, now 40"),
        ({"batches_per_update": 2}, "batches_per_update 1, now 2"),
        ({}, None),
    ],
)
def test_another_loader_for_the_rest_of_an_epoch_is_named(new_task, tmp_path, changes, message):
    path = tmp_path / "a.safetensors"
    task = new_task()
    task.trainer(callbacks=[SaveAt(path, 1, 1)]).fit(task.train, 2)
    task = new_task()
    trainer = task.trainer(batches_per_update=changes.pop("batches_per_update", 1))
    dataset = data.Subset(task.train.dataset, np.arange(changes.pop("samples", 50)))
    options = {"batch_size": 16, "shuffle": True, **changes}
    loader = data.DataLoader(dataset, transform=task.train.transform, **options)
    trainer.load(path)
    with warnings.catch_warnings() if message is None else pytest.warns(UserWarning, match=message):
        trainer.fit(loader, 1)
    trainer.fit(loader, 1)  # a whole epoch may have any loader


def test_an_epoch_that_went_on_and_fails_begins_again(new_task, tmp_path):
    path = tmp_path / "within.safetensors"
    task = new_task()
    task.trainer(schedule=optim.OneCycleLR(task.optimizer, 0.01, 12), callbacks=[SaveAt(path, 1, 1)]).fit(task.train, 3)

    class Fail:
        def after_step(self, trainer):
            raise RuntimeError("a hook failed")

    task = new_task()
    schedule = optim.OneCycleLR(task.optimizer, 0.01, 12)
    trainer = task.trainer(schedule=schedule, callbacks=[Fail()])
    trainer.load(path)
    with pytest.raises(RuntimeError, match="a hook failed"):
        trainer.fit(task.train, 2)
    assert (trainer.epoch, schedule.step_count) == (1, 4)  # where the epoch began
    trainer.save(path)
    other = new_task()
    second = other.trainer(schedule=optim.OneCycleLR(other.optimizer, 0.01, 12))
    second.load(path)
    second.fit(other.train, 2)
    assert (second.epoch, second.schedule.step_count) == (3, 12)


def test_a_checkpoint_written_on_one_backend_goes_on_on_another(new_task, tmp_path):
    task = new_task()
    trainer = task.trainer(backend="reference")
    trainer.fit(task.train, 1)
    trainer.save(tmp_path / "a.safetensors")
    trainer.fit(task.train, 1)
    other = new_task(1)
    second = other.trainer(backend="numpy")
    second.load(tmp_path / "a.safetensors")
    second.fit(other.train, 1)
    np.testing.assert_allclose(second.history["loss"], trainer.history["loss"], rtol=1e-5)
