"""Training that goes on from a checkpoint equals training without a break, bit for bit."""

import numpy as np
import pytest

from gpunet import optim


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


def test_a_checkpoint_within_an_epoch_goes_on_from_its_start_with_no_step_of_the_schedule_twice(new_task, tmp_path):
    def make(*callbacks):
        task = new_task()
        schedule = optim.OneCycleLR(task.optimizer, 0.01, 12)
        return task, schedule, task.trainer(schedule=schedule, callbacks=callbacks)

    class Save:
        def after_step(self, trainer):
            if (trainer.epoch, trainer.step) == (1, 2):
                trainer.save(tmp_path / "within.safetensors")

    plain, _, trainer = make()
    trainer.fit(plain.train, 3)
    task, _, trainer = make(Save())
    trainer.fit(task.train, 3)
    for name, value in plain.model.state_dict().items():  # saving changes nothing
        np.testing.assert_array_equal(value, task.model.state_dict()[name], err_msg=name)

    other, schedule, second = make()
    second.load(tmp_path / "within.safetensors")
    assert (second.epoch, schedule.step_count) == (1, 4)
    assert other.optimizer.groups[0]["lr"] == schedule.rates(4)[0]
    second.fit(other.train, 2)
    assert schedule.step_count == 12
    assert second.history["lr"] == trainer.history["lr"]


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
