"""A step that cannot be captured raises, or runs eagerly with a warning."""

import gc
import re
import warnings

import numpy as np
import pytest
from helpers import needs_emulator
from helpers.capturing import assert_same, state_of

from gpunet import functional as F
from gpunet import nn, optim
from gpunet.backends import get_backend
from gpunet.errors import BackendError
from gpunet.train import Trainer

pytestmark = pytest.mark.usefixtures("short_graphs")


def reads_the_host(model, batch):
    loss = F.cross_entropy(model(batch[0]), batch[1])
    loss.item()
    return loss


def copies_from_the_host(model, batch):
    return F.cross_entropy(model(batch[0]) * np.ones(4), batch[1])


def waits(model, batch):
    model[0].weight.backend.synchronize()
    return F.cross_entropy(model(batch[0]), batch[1])


def computes_on_the_host(model, batch):
    return F.cross_entropy(model(batch[0]), np.asarray(batch[1]) % 4)


REFUSED = {
    reads_the_host: r"a host read \(to_host\) cannot be captured",
    copies_from_the_host: "a copy of host data to the device cannot be captured",
    waits: "synchronisation cannot be captured",
    computes_on_the_host: "(conversion to NumPy of a DeviceArray|Implicit conversion to a NumPy array)",  # emulated, CuPy
}


@pytest.mark.parametrize("step", REFUSED)
def test_what_cannot_be_captured_raises_and_names_operation_and_line(new_task, cuda_name, step):
    task = new_task(0)
    trainer = task.trainer(backend=cuda_name, capture=True, loss_step=step)
    line = step.__code__.co_firstlineno
    with pytest.raises(BackendError, match=f"Trainer: the step cannot be captured .*: {REFUSED[step]}") as caught:
        trainer.fit(task.train, 1)
    assert "\n" not in str(caught.value)
    found = re.search(r"\(at test_captured_refused.py:(\d+)\)", str(caught.value))
    assert line < int(found[1]) <= line + 3
    trainer.evaluate(task.valid)  # no stream is still capturing


@pytest.mark.parametrize("step", REFUSED)
def test_auto_runs_eagerly_what_cannot_be_captured_and_says_so_once(new_task, cuda_name, step):
    states = []
    for capture in (False, "auto"):
        task = new_task(0)
        trainer = task.trainer(backend=cuda_name, capture=capture, loss_step=step)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            trainer.fit(task.train, 2)
            trainer.fit(task.train, 1)
        states.append(state_of(task, trainer))
    assert_same(*states)
    assert [str(w.message).endswith("; it runs eagerly") for w in caught] == [True]
    assert re.search(REFUSED[step], str(caught[0].message))


def test_a_forward_hook_is_not_left_out_silently(new_task, cuda_name):
    task, calls = new_task(0), []
    task.model[1].register_forward_hook(lambda layer, inputs, y: calls.append(y.shape))
    with pytest.raises(
        BackendError, match=r"cannot be captured: the forward hook on 1 would not be called by a replay"
    ):
        task.trainer(backend=cuda_name, capture=True).fit(task.train, 1)
    calls.clear()
    with pytest.warns(RuntimeWarning, match="the forward hook on 1"):
        task.trainer(backend=cuda_name).fit(task.train, 1)
    assert len(calls) == len(task.train)


def test_a_forward_hook_that_comes_later_is_found(new_task, cuda_name):
    task = new_task(0)
    trainer = task.trainer(backend=cuda_name, capture=True)
    task.model[1].register_forward_hook(lambda layer, inputs, y: None).remove()
    trainer.fit(task.train, 2)
    task.model[1].register_forward_hook(lambda layer, inputs, y: None)
    with pytest.raises(BackendError, match="the forward hook on 1 would not be called"):
        trainer.fit(task.train, 1)


def test_parameters_that_get_a_gradient_only_in_some_steps_are_refused(new_task, cuda_name):
    turns = []

    def step(model, batch):
        turns.append(len(turns))
        x = batch[0].reshape(-1, 36)
        layer = model[-1]
        y = F.linear(x, layer.weight, layer.bias if len(turns) % 2 else None)
        return F.cross_entropy(y, batch[1])

    task = new_task(0)
    with pytest.raises(BackendError, match="other parameters got a gradient than in the step before"):
        task.trainer(backend=cuda_name, capture=True, loss_step=step).fit(task.train, 1)


def test_a_step_that_updates_nothing_is_refused(new_task, cuda_name):
    other = nn.Linear(36, 4)

    def step(model, batch):
        return F.cross_entropy(other(batch[0].reshape(-1, 36)), batch[1])

    task = new_task(0)
    other.to(cuda_name)
    with pytest.raises(BackendError, match="captured: no parameter of the optimizer got a gradient"):
        task.trainer(backend=cuda_name, capture=True, loss_step=step).fit(task.train, 1)


@needs_emulator
def test_a_static_array_that_is_freed_is_found(new_task):
    task = new_task(0)
    trainer = task.trainer(backend="emulated", capture=True)
    whole = [batch for batch in task.train if len(batch[0]) == 16]
    trainer.fit(whole, 2)
    graph = trainer._step.graphs.popitem()[1]
    graph.captured.launch()
    graph.inputs.batches.feeds.clear()
    gc.collect()
    with pytest.raises(BackendError, match=r"would touch \w+, an array of shape \(3, 16, 6, 6, 1\).* freed since"):
        graph.captured.launch()


def test_pythons_numbers_in_a_users_step_are_frozen(new_task, cuda_name):
    """Nothing can detect this hazard, so the documentation names it."""
    scale, task = [1.0], new_task(0, dropout=0.0)

    def step(model, batch):
        return F.cross_entropy(model(batch[0]), batch[1]) * scale[0]

    task.optimizer.groups[0]["lr"] = 0.0
    trainer = task.trainer(backend=cuda_name, capture=True, loss_step=step)
    whole = [batch for batch in task.train if len(batch[0]) == 16]
    trainer.fit(whole, 2)
    scale[0] = 2.0
    trainer.fit(whole, 1)
    assert trainer.history["loss"][2] == pytest.approx(trainer.history["loss"][1], rel=0.2)


def test_capture_takes_a_backend_that_can_capture():
    model = nn.Linear(3, 2)
    assert get_backend("numpy").recorder() is None
    with pytest.raises(ValueError, match="capture=True takes a CUDA backend, got reference"):
        Trainer(model, optim.SGD(model.parameters(), 0.1), backend="reference", capture=True)
