"""A captured step equals the eager one, bit for bit, with every optimizer, schedule, metric and loss."""

import numpy as np
import pytest
from helpers.capturing import STEPS, assert_same, counts_of, state_of

import gpunet as gp
from gpunet import functional as F
from gpunet import nn, optim, random
from gpunet.train import Accuracy
from gpunet.train.capture.inputs import MadeBatches

pytestmark = pytest.mark.usefixtures("short_graphs")


def grouped(kind, **options):
    def make(parameters, lr):
        return kind([{"params": parameters[:2], "lr": lr / 2}, {"params": parameters[2:]}], lr=lr, **options)

    return make


OPTIMIZERS = {
    "SGD": lambda parameters, lr: optim.SGD(parameters, lr),
    "momentum": lambda parameters, lr: optim.SGD(
        parameters, lr, momentum=0.9, nesterov=True, weight_decay=0.01, l1=1e-3
    ),
    "clipped": lambda parameters, lr: optim.SGD(parameters, lr, momentum=0.9, clip_norm=0.5),
    "Adam": lambda parameters, lr: optim.Adam(parameters, lr, weight_decay=0.01),
    "AdamW": lambda parameters, lr: optim.AdamW(parameters, lr, clip_norm=0.1),
    "two groups": grouped(optim.SGD, momentum=0.9, clip_norm=0.5),
    "two groups of Adam": grouped(optim.Adam),
    "RMSprop": lambda parameters, lr: optim.RMSprop(parameters, lr / 10, momentum=0.5, weight_decay=0.01),
    "Adagrad": lambda parameters, lr: optim.Adagrad(parameters, lr, l1=1e-3, max_norm=0.8),
    "Lion": lambda parameters, lr: optim.Lion(parameters, lr / 10, weight_decay=0.1, clip_norm=0.5),
    "Muon": lambda parameters, lr: optim.Muon(parameters, lr, weight_decay=0.1, clip_norm=0.5, max_norm=0.8),
}
SCHEDULES = {
    "no schedule": lambda optimizer: None,
    "cosine to 0": lambda optimizer: optim.CosineAnnealingLR(optimizer, 15),  # every rate is 0 in the end
    "warm-up": lambda optimizer: optim.WarmupLR(optimizer, 5, optim.StepLR(optimizer, 3, 0.5)),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_replayed_steps_equal_eager_ones_bit_for_bit(new_task, cuda_name, name, schedule):
    states = []
    for capture in (False, True):
        task = new_task(0)
        task.optimizer.release()
        task.optimizer = OPTIMIZERS[name](task.model.parameters(), 0.05)
        trainer = task.trainer(backend=cuda_name, capture=capture, schedule=SCHEDULES[schedule](task.optimizer))
        trainer.fit(task.train, 4, valid=task.valid)  # 3 whole batches and a smaller one in each epoch, with dropout
        states.append(state_of(task, trainer))
        norm = task.optimizer.grad_norm
        states[-1][1]["norm"] = None if norm is None else task.optimizer.arena.backend.to_numpy(norm)
    assert_same(*states)
    assert counts_of(trainer) == [1, 1, STEPS]  # the smaller last batch has a graph of its own


def test_each_replay_draws_the_noise_of_the_eager_step(new_task, cuda_name):
    states = []
    for backend, capture in ((cuda_name, False), (cuda_name, True), ("numpy", "auto")):
        task = new_task(0)
        task.optimizer.release()
        task.model = nn.Sequential(
            nn.GaussianNoise(0.3), nn.Conv2d(1, 4, 3, padding="same"), nn.GroupNorm(2, 4), nn.ELU(), nn.Dropout2d(0.3),
            nn.PReLU(4), nn.SiLU(), nn.MaxPool2d(2), nn.Flatten(), nn.LayerNorm(36), nn.Linear(36, 4),
        )  # fmt: skip
        task.optimizer = optim.AdamW(task.model.parameters(), lr=0.01)
        trainer = task.trainer(backend=backend, capture=capture)
        trainer.fit(task.train, 4, valid=task.valid)
        states.append(state_of(task, trainer))
    assert_same(*states[:2])
    losses = [[row["loss"] for row in state[0]["rows"]] for state in states]
    np.testing.assert_allclose(losses[1], losses[2], rtol=1e-5)


def test_numpy_draws_the_same_dropout(new_task, cuda_name):
    histories = []
    for backend in ("numpy", cuda_name):
        task = new_task(0)
        histories.append(task.trainer(backend=backend).fit(task.train, 3)["loss"])
    np.testing.assert_allclose(*histories, rtol=1e-5)


def test_a_graph_reads_the_host_once(new_task, cuda_name, monkeypatch):
    task = new_task(0)
    trainer = task.trainer(backend=cuda_name, capture=True)
    trainer.fit(task.train, 2)
    reads, launches = [], []
    to_numpy, run = trainer.backend.to_numpy, trainer.backend.launcher.run
    monkeypatch.setattr(trainer.backend, "to_numpy", lambda array: reads.append(array.shape) or to_numpy(array))
    monkeypatch.setattr(trainer.backend.launcher, "run", lambda *args: launches.append(args[1]) or run(*args))
    trainer.fit(task.train, 1)
    assert reads == [(1 + STEPS, 3), (2, 3), ()]  # the reports of two graphs, and the check of the parameters
    assert launches == ["reduce_sum_rows<float>"]  # from that check: no step launched anything


@pytest.mark.parametrize(
    "metrics",
    [[], ["accuracy"], ["accuracy", "top2", "confusion"], ["confusion"], [Accuracy(ignore_index=0)]],
    ids=["none", "accuracy", "several", "confusion", "an object"],
)
def test_metrics_equal_the_eager_ones(both, metrics):
    trainer = both(
        lambda task, trainer: trainer.fit(task.train, 3, valid=task.valid), lambda task: {"metrics": metrics}
    )
    kept = [len(graph.logits) for graph in trainer._step.graphs.values()]
    assert any(kept) == (bool(metrics) and metrics != ["accuracy"])


def smoothed(logits, y):
    return F.cross_entropy(logits, y, label_smoothing=0.1) * 0.5 + (logits * logits).mean()


@pytest.mark.parametrize(
    "loss", [smoothed, lambda logits, y: F.cross_entropy(logits, y, ignore_index=2)], ids=["a sum", "ignoring"]
)
def test_accuracy_equals_the_eager_one_for_any_loss(both, loss):
    trainer = both(lambda task, trainer: trainer.fit(task.train, 3), lambda task: {"loss": loss})
    assert STEPS in counts_of(trainer)


def test_a_loss_step_takes_arrays_of_the_device(both):
    def step(model, batch):
        x, y, w = batch
        return F.cross_entropy(model(x), y) + (model(x) * w).mean()

    def use(task, trainer):
        rng = np.random.default_rng(3)
        batches = [(x, y, rng.normal(size=(len(x), 4))) for x, y in task.train]
        trainer.fit(batches, 3, valid=batches)

    both(use, lambda task: {"loss_step": step})


def test_batches_may_be_on_the_device_already(both):
    def use(task, trainer):
        batches = [(gp.tensor(x, backend=trainer.backend), trainer.backend.asarray(y, np.int32)) for x, y in task.train]
        trainer.fit(batches, 3, valid=batches)

    trainer = both(use)
    assert STEPS in counts_of(trainer)


class Drawn:
    """Images that kernels draw in place of a data set: what a loader on the device gives."""

    def __init__(self, backend, rows, labels):
        self.backend, self.rows, self.labels, self.key = backend, rows, labels, ("drawn", rows)

    def make(self, clock, dtype):
        place = random._state if clock is None else None
        stream = random.Stream(5, 3, place.step if place else 0, 0, place.epoch if place else 0, clock=clock)
        return self.backend.random_normal(stream, (self.rows, 6, 6, 1), dtype), self.labels


@pytest.mark.parametrize("metrics", [["accuracy"], ["top2"]])
def test_batches_may_be_made_inside_the_graph(both, metrics):
    def use(task, trainer):
        labels = [trainer.backend.asarray(np.arange(rows) % 4, np.int32) for rows in (16, 5)]
        batches = [Drawn(trainer.backend, 16, labels[0])] * 6 + [Drawn(trainer.backend, 5, labels[1])]
        trainer.fit(batches, 3)
        assert len(set(trainer.history["loss"])) == 3

    trainer = both(use, lambda task: {"metrics": metrics})
    assert counts_of(trainer) == [1, 1, STEPS]
    assert all(isinstance(graph.inputs.batches, MadeBatches) for graph in trainer._step.graphs.values())
