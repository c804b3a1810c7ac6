"""What happens between replays changes training as it would change eager training."""

import os
import signal

import numpy as np
import pytest
from helpers.capturing import STEPS, Each, EachGraph, counts_of

import gpunet as gp
from gpunet import nn, optim
from gpunet.train import StopEpoch

pytestmark = pytest.mark.usefixtures("short_graphs")


def test_evaluation_two_fits_and_prediction_in_between_change_nothing(both, images):
    def use(task, trainer):
        trainer.fit(task.train, 2)
        trainer.evaluate(task.valid)
        trainer.fit(task.train, 1, valid=task.valid)
        trainer.predict(images[0])
        trainer.fit(task.train, 2)

    both(use)


def test_a_learning_rate_set_after_capture_takes_effect(both):
    def use(task, trainer):
        trainer.fit(task.train, 2)
        task.optimizer.groups[0]["lr"] = 0.5
        task.optimizer.groups[0]["weight_decay"] = 0.1
        trainer.fit(task.train, 1)
        assert trainer.history["lr"][-1] == 0.5

    both(use)


def test_a_schedule_that_is_changed_after_capture_takes_effect(both):
    def use(task, trainer):
        trainer.fit(task.train, 2)
        trainer.schedule.seek(3)
        trainer.fit(task.train, 1)

    both(use, lambda task: {"schedule": optim.CosineAnnealingLR(task.optimizer, 12)})


def change_dropout(task, trainer):
    next(layer for layer in task.model if isinstance(layer, nn.Dropout)).p = 0.8


def freeze(task, trainer):
    task.model[0].weight.requires_grad = False


def change_clipping(task, trainer):
    task.optimizer.clip_norm = 0.01


def limit_norms(task, trainer):
    task.optimizer.groups[0]["max_norm"] = 0.3


def load_weights(task, trainer):
    rng = np.random.default_rng(5)
    task.model.load_state_dict({name: rng.normal(size=a.shape) for name, a in task.model.state_dict().items()})


def new_seed(task, trainer):
    gp.seed(77)


@pytest.mark.parametrize("change", [change_dropout, freeze, change_clipping, limit_norms, load_weights, new_seed])
def test_a_change_of_what_graphs_have_frozen_takes_effect(both, change):
    def use(task, trainer):
        trainer.fit(task.train, 2)
        before = task.model.state_dict()
        change(task, trainer)
        trainer.fit(task.train, 2)
        assert any((before[name] != value).any() for name, value in task.model.state_dict().items())

    both(use)


@pytest.mark.parametrize("changes", [{"momentum": 0.5}, {"ns_steps": 2}, {"normalize": True}])
def test_a_change_of_muons_options_takes_effect(both, changes):
    def use(task, trainer):
        trainer.fit(task.train, 2)
        task.optimizer.groups[0].update(changes)
        trainer.fit(task.train, 2)

    both(use, optimizer=optim.Muon)


@pytest.mark.parametrize("changes", [{"weight_decay": 0.2}, {"decoupled_weight_decay": True}, {"nesterov": False}])
def test_a_change_of_a_group_of_muon_with_the_rule_sgd_takes_effect(both, changes):
    def use(task, trainer):
        trainer.fit(task.train, 2)
        task.optimizer.groups[1].update(changes)
        trainer.fit(task.train, 2)

    def make(parameters, lr):
        given = list(parameters)
        rest = {"params": [p for p in given if not p.matrix], "rule": "sgd", "weight_decay": 0.1}
        matrices = {"params": [p for p in given if p.matrix]}
        return optim.Muon([matrices, {**rest, "decoupled_weight_decay": False}], lr=lr)

    both(use, optimizer=make)


def test_parameters_that_were_updated_less_often_get_a_range_of_their_own(both):
    def use(task, trainer):
        trainer.fit(task.train, 2)
        task.optimizer.steps[:1] = 1  # as after a checkpoint of a model whose first layer was frozen
        trainer.fit(task.train, 2)

    trainer = both(use)
    assert any(len(graph.bounds) == 2 for graph in trainer._step.graphs.values())


def test_the_gradient_norm_is_that_of_the_last_step_in_whichever_graph(new_task, cuda_name):
    norms = []
    for capture in (False, True):
        task = new_task(0)
        task.optimizer.clip_norm = 0.1
        trainer = task.trainer(backend=cuda_name, capture=capture)
        trainer.fit(task.train, 3)
        trainer.fit([batch for batch in task.train if len(batch[0]) == 16], 1)
        norms.append(trainer.backend.to_numpy(task.optimizer.grad_norm))
    np.testing.assert_array_equal(*norms)


def test_callbacks_between_epochs_may_change_what_they_like(both):
    class Halve:
        def after_epoch(self, trainer):
            trainer.optimizer.groups[0]["lr"] /= 2
            change_dropout(task_of[trainer], trainer)

    task_of = {}

    def use(task, trainer):
        task_of[trainer] = task
        trainer.fit(task.train, 4)

    trainer = both(use, lambda task: {"callbacks": [Halve()]})
    assert STEPS in counts_of(trainer)


def test_training_goes_on_from_a_checkpoint(both, new_task, cuda_name, tmp_path):
    def use(task, trainer):
        trainer.fit(task.train, 2)
        trainer.save(tmp_path / "a.safetensors")
        trainer.fit(task.train, 1)
        trainer.load(tmp_path / "a.safetensors")
        trainer.fit(task.train, 2)
        assert trainer.epoch == 4

    trainer = both(use, lambda task: {"schedule": optim.OneCycleLR(task.optimizer, 0.01, 16)})
    task = new_task(9)
    second = task.trainer(backend=cuda_name, capture=True, schedule=optim.OneCycleLR(task.optimizer, 0.01, 16))
    second.load(tmp_path / "a.safetensors")
    second.fit(task.train, 2)
    assert second.history["loss"] == trainer.history["loss"]


def test_a_hook_around_steps_makes_each_a_graph_of_its_own(both):
    rates = []

    def change(trainer):
        rates.append(trainer.running["loss"])
        trainer.optimizer.groups[0]["lr"] *= 0.9

    trainer = both(lambda task, trainer: trainer.fit(task.train, 3), lambda task: {"callbacks": [Each(change)]})
    assert counts_of(trainer) == [1, 1]
    assert rates[: len(rates) // 2] == rates[len(rates) // 2 :]


def test_a_hook_may_ask_for_one_call_for_several_steps(new_task, cuda_name):
    task, hook, ends = new_task(0), EachGraph(lambda trainer: ends.append(trainer.step)), []
    trainer = task.trainer(backend=cuda_name, capture=True, callbacks=[hook], progress=True)
    trainer.fit(task.train, 2)
    assert (hook.steps, ends) == ([0, 3] * 2, [2, 3] * 2)
    assert counts_of(trainer) == [1, 1, 3]


def test_an_epoch_may_be_stopped(both):
    def stop(trainer):
        if trainer.step == 1:
            raise StopEpoch

    both(lambda task, trainer: trainer.fit(task.train, 3), lambda task: {"callbacks": [Each(stop)]})


def test_ctrl_c_ends_training_after_the_running_graph(new_task, cuda_name):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        task, sent = new_task(0), []

        class Batches(list):
            def __iter__(self):
                for i, batch in enumerate(super().__iter__()):
                    if i == 4 and trainer.epoch == 1 and not sent:
                        sent.append(True)
                        os.kill(os.getpid(), signal.SIGINT)
                    yield batch

        train = Batches([batch for batch in task.train if len(batch[0]) == 16] * 3)  # 9 steps, 3 graphs
        trainer = task.trainer(backend=cuda_name, capture=True)
        history = trainer.fit(train, 3)
        assert (history.interrupted, len(history)) == (True, 1)
        assert task.optimizer.steps.tolist() == [9 + 3] * 4  # the second graph has not begun
        trainer.fit(train, 1)
        assert task.optimizer.steps.tolist() == [9 + 9] * 4  # it goes on with the second one
    finally:
        signal.signal(signal.SIGINT, before)


# ---- bad batches


def spoil_image(batch):
    batch[0][0, 0, 0, 0] = np.nan


def spoil_label(batch):
    batch[1][1] = 4


def overflow_label(batch):
    batch[1][1] = -1


BAD = {
    "image": (spoil_image, FloatingPointError, "Trainer: the loss is nan in epoch 2, step {}; nothing was updated"),
    "label": (spoil_label, ValueError, r"cross_entropy: labels must be from 0 to 3, got 4 at \(1,\)"),
    "negative label": (overflow_label, ValueError, r"cross_entropy: labels must be from 0 to 3, got -1 at"),
}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("step", [0, 1, 2, 5, 6])
def test_a_bad_batch_stops_training_as_if_each_step_were_run_alone(both, bad, step):
    spoil, error, message = BAD[bad]

    def use(task, trainer):
        whole = [batch for batch in task.train if len(batch[0]) == 16]
        trainer.fit(whole * 2 + whole[:1], 1)
        batches = [tuple(part.copy() for part in batch) for batch in whole * 2 + whole[:1]]
        spoil(batches[step])
        with pytest.raises(error, match=message.format(step + 1)):
            trainer.fit(batches, 1)
        assert task.optimizer.steps.tolist() == [7 + step] * 4
        trainer.fit(whole, 1)  # and it goes on from there

    both(use, lambda task: {"schedule": optim.CosineAnnealingLR(task.optimizer, 20)})


def test_what_a_loader_gave_before_it_failed_is_trained_on(both):
    def use(task, trainer):
        whole = [batch for batch in task.train if len(batch[0]) == 16]
        trainer.fit(whole, 2)

        def failing():
            yield from whole[:2]
            raise OSError("disk")

        with pytest.raises(OSError, match="disk"):
            trainer.fit(failing(), 1)

    both(use)


def test_labels_beyond_32_bits_are_refused(new_task, cuda_name):
    task = new_task(0)
    trainer = task.trainer(backend=cuda_name, capture=True)
    whole = [batch for batch in task.train if len(batch[0]) == 16]
    trainer.fit(whole, 1)
    whole[1][1][3] += 2**32
    with pytest.raises(ValueError, match="Trainer: array 1 of a batch holds 0 to 42949672.., beyond int32"):
        trainer.fit(whole, 1)
