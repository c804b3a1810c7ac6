"""A hook that evaluates, predicts or fits another model does not change training, bit for bit."""

import time

import numpy as np
import pytest
from helpers.capturing import assert_same, state_of

from gpunet import functional as F
from gpunet import nn, optim
from gpunet.train import ConfusionMatrix

HOOKS = ("before_fit", "before_epoch", "before_step", "after_step", "after_epoch", "after_fit")


class Noisy(nn.Module):
    """Dropout in inference too, which draws: Monte Carlo dropout."""

    def forward(self, x):
        return F.dropout(x, 0.25, training=True)


class Watch:
    """Calls `action` in a hook and notes what the trainer says of the running epoch after each step."""

    def __init__(self, hook, action):
        self.hook, self.action, self.running, self.places = hook, action, [], []
        for name in HOOKS:
            setattr(self, name, lambda trainer, name=name: self._call(name, trainer))

    def _call(self, name, trainer):
        if name == self.hook:
            self.action(trainer)
        if name == "after_step":
            self.running.append({k: v for k, v in trainer.running.items() if k != "images_per_second"})
            self.places.append((trainer.epoch, trainer.step, trainer.steps, trainer.model.training))


def train(new_task, backend, hook, make_action, **options):
    task = new_task(0)
    task.model.layers.append(Noisy())
    watch = Watch(hook, make_action(task))
    schedule = optim.OneCycleLR(task.optimizer, 0.01, 8)
    confusion = ConfusionMatrix()
    trainer = task.trainer(
        callbacks=[watch], backend=backend, schedule=schedule, metrics=["accuracy", "top2", "f1", confusion], **options
    )
    trainer.fit(task.train, 2, valid=task.valid)
    return state_of(task, trainer), watch.running, watch.places, confusion.value


def evaluate(task):
    return lambda trainer: trainer.evaluate(task.valid)


def evaluate_the_training_set(task):
    return lambda trainer: trainer.evaluate(task.train)


def predict(task):
    return lambda trainer: trainer.predict(task.train)


def take_a_batch(task):
    return lambda trainer: next(iter(task.train))


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("make_action", [evaluate, evaluate_the_training_set, predict, take_a_batch])
def test_a_hook_that_measures_changes_nothing_of_training(new_task, hook, make_action):
    plain = train(new_task, "numpy", hook, lambda task: lambda trainer: None)
    watched = train(new_task, "numpy", hook, make_action)
    assert_same(plain[0], watched[0])
    assert plain[1:3] == watched[1:3]
    np.testing.assert_array_equal(plain[3], watched[3])


@pytest.mark.parametrize("hook", ["before_step", "after_step", "before_epoch"])
@pytest.mark.parametrize("make_action", [evaluate, evaluate_the_training_set])
@pytest.mark.parametrize("capture", [False, True])
def test_a_hook_that_measures_changes_nothing_of_training_on_a_device(new_task, cuda_name, hook, make_action, capture):
    plain = train(new_task, cuda_name, hook, lambda task: lambda trainer: None, capture=capture)
    watched = train(new_task, cuda_name, hook, make_action, capture=capture)
    assert_same(plain[0], watched[0])
    assert plain[1:3] == watched[1:3]


def test_what_a_hook_measures_is_right(task):
    found = []

    def look(trainer):
        found.append((trainer.evaluate(task.valid), trainer.running["accuracy"]))

    trainer = task.trainer(callbacks=[Watch("after_step", look)], metrics=["accuracy", "confusion"])
    trainer.fit(task.train, 1)
    last = trainer.evaluate(task.valid)
    assert found[-1][0]["loss"] == last["loss"]
    np.testing.assert_array_equal(found[-1][0]["confusion"], last["confusion"])
    assert found[-1][1] == trainer.history["accuracy"][-1]


@pytest.mark.parametrize("hook", ["before_step", "after_step"])
def test_the_time_of_hooks_does_not_count_as_that_of_steps(task, hook):
    history = task.trainer(callbacks=[Watch(hook, lambda trainer: time.sleep(0.1))]).fit(task.train, 1)
    assert history["seconds"][0] > 0.4  # four steps of 50 images, which take milliseconds
    assert history["images_per_second"][0] > 50 / 0.3


def test_another_trainer_may_fit_in_a_hook(new_task):
    def make_action(_):
        other = new_task(0)  # of the same seed, which is set again
        trainer = other.trainer()
        return lambda _: trainer.fit(other.train, 1)

    plain = train(new_task, "numpy", "after_step", lambda task: lambda trainer: None)
    watched = train(new_task, "numpy", "after_step", make_action)
    assert_same(plain[0], watched[0])


def test_the_same_trainer_may_not_fit_in_a_hook_and_may_afterwards(task):
    trainer = task.trainer(callbacks=[Watch("after_step", lambda trainer: trainer.fit(task.train, 1))])
    for _ in range(2):
        with pytest.raises(RuntimeError, match="^Trainer: fit is running; hooks may call evaluate, predict"):
            trainer.fit(task.train, 1)
    assert trainer.epoch == 0


def test_metrics_outside_a_fit_are_the_users_own_objects(task):
    confusion = ConfusionMatrix()
    trainer = task.trainer(metrics=[confusion])
    trainer.evaluate(task.valid)
    assert confusion.value.sum() == 30
