"""Training eagerly and captured, and what of it is compared."""

import numpy as np

from gpunet.train import Callback

STEPS = 3
"""Steps a graph at most, in tests: see the fixture short_graphs."""
TIMES = {"seconds", "images_per_second"}


def state_of(task, trainer):
    """Everything that training leaves: weights, slots, counts, history."""
    state = task.optimizer.state_dict()
    slots = {f"{name}.{i}": a for name, arrays in state.pop("slots").items() for i, a in enumerate(arrays)}
    rows = [{name: value for name, value in row.items() if name not in TIMES} for row in trainer.history.rows]
    schedule = None if trainer.schedule is None else trainer.schedule.state_dict()
    return {"rows": rows, "optimizer": state, "schedule": schedule, "epoch": trainer.epoch}, {
        **task.model.state_dict(),
        **slots,
    }


def assert_same(one, other):
    (numbers, arrays), (others, other_arrays) = one, other
    np.testing.assert_equal(numbers, others)
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, other_arrays[name], err_msg=name)


def compare(backend, new_task, use, make=lambda task: {}, **how):
    """`use(task, trainer)` eagerly and captured on a backend, then compared -> the captured task's trainer."""
    states = []
    for capture in (False, True):
        task = new_task(0, **how)
        trainer = task.trainer(backend=backend, capture=capture, **make(task))
        use(task, trainer)
        states.append(state_of(task, trainer))
    assert_same(*states)
    return trainer


def counts_of(trainer):
    """Steps of the graphs that were recorded."""
    return sorted(count for _, count in trainer._step.graphs)


class Each(Callback):
    """Notes the steps; does something after each."""

    def __init__(self, do=lambda trainer: None):
        self.steps, self.do = [], do

    def before_step(self, trainer):
        self.steps.append(trainer.step)

    def after_step(self, trainer):
        self.do(trainer)


class EachGraph(Each):
    """Content with one call for the steps of a graph."""

    every_step = False
