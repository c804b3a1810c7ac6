"""Batch norm whose running moments are means over all batches: captured, saved and loaded."""

import numpy as np
import pytest
from helpers.capturing import assert_same, counts_of, state_of

import gpunet as gp
from gpunet import nn, optim


def replace_model(task):
    task.optimizer.release()
    task.model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding="same"), nn.BatchNorm2d(4, momentum=None), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(36, 6), nn.BatchNorm2d(6, momentum=None), nn.Linear(6, 4),
    )  # fmt: skip
    task.optimizer = optim.SGD(task.model.parameters(), lr=0.05)
    return task


@pytest.mark.usefixtures("short_graphs")
def test_a_captured_mean_over_all_batches_equals_the_eager_one_bit_for_bit(new_task, cuda_name):
    states = []
    for capture in (False, True):
        task = replace_model(new_task(0))
        trainer = task.trainer(backend=cuda_name, capture=capture)
        trainer.fit(task.train, 3, valid=task.valid)
        states.append(state_of(task, trainer))
    assert_same(*states)
    assert counts_of(trainer)  # steps were replayed
    tracked = [value for name, value in states[1][1].items() if name.endswith("num_batches_tracked")]
    assert tracked == [12, 12]  # 4 batches an epoch


def test_a_checkpoint_holds_the_number_of_batches(new_task, tmp_path):
    gp.seed(3)
    whole = replace_model(new_task(3))
    trainer = whole.trainer()
    trainer.fit(whole.train, 4)

    first = replace_model(new_task(3))
    trainer = first.trainer()
    trainer.fit(first.train, 2)
    trainer.save(tmp_path / "middle.safetensors")
    second = replace_model(new_task(9))
    trainer = second.trainer()
    trainer.load(tmp_path / "middle.safetensors")
    trainer.fit(second.train, 2)
    for name, value in whole.model.state_dict().items():
        np.testing.assert_array_equal(value, second.model.state_dict()[name], err_msg=name)
