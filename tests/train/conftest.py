"""A task small enough to train on in milliseconds: which corner of a noisy image is bright."""

from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
from helpers.capturing import STEPS, compare

import gpunet as gp
from gpunet import data, nn, optim
from gpunet.backends.cuda.backend import recording_backend
from gpunet.cuda.capture import Recorder
from gpunet.train import Trainer


def corners(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(count, 6, 6, 1)).astype(np.float32), rng.integers(0, 4, count)
    for i, label in enumerate(y):
        row, column = divmod(int(label), 2)
        x[i, 4 * row : 4 * row + 2, 4 * column : 4 * column + 2] += 2
    return x, y


@dataclass
class Task:
    model: nn.Module
    optimizer: optim.Optimizer
    train: data.DataLoader
    valid: data.DataLoader

    def trainer(self, **options) -> Trainer:
        return Trainer(self.model, self.optimizer, **{"backend": "numpy", "progress": False, **options})


def make_task(seed: int = 0, *, dropout=0.3, optimizer=optim.AdamW, lr=0.01, prefetch=0) -> Task:
    gp.seed(seed)
    drop = [nn.Dropout(dropout)] if dropout else []
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding="same"), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), *drop, nn.Linear(36, 4)
    )
    options = {"momentum": 0.9} if optimizer is optim.SGD else {}
    train = data.DataLoader(
        data.ArrayDataset(*corners(50, 1)), 16, shuffle=True, transform=data.RandomShift(1), prefetch=prefetch
    )
    valid = data.DataLoader(data.ArrayDataset(*corners(30, 2)), 8, prefetch=prefetch)
    return Task(model, optimizer(model.parameters(), lr=lr, **options), train, valid)


@pytest.fixture
def task() -> Task:
    """A new task of seed 0."""
    return make_task()


@pytest.fixture
def new_task():
    """Makes tasks: equal seeds, equal tasks."""
    return make_task


@pytest.fixture
def both(cuda_name, new_task):
    """`use(task, trainer)` eagerly and captured on a CUDA backend, then compared -> the captured task's trainer."""
    return partial(compare, cuda_name, new_task)


@pytest.fixture
def graphs_of(cuda_backend, monkeypatch):
    """(a backend on the CUDA device under test, a list that takes the kernels of each graph that is recorded on it)."""
    backend, recording = recording_backend(cuda_backend)
    record, graphs = Recorder.record, []

    def noted(recorder, work):
        recording.clear()
        result = record(recorder, work)
        graphs.append([launch.kernel for launch in recording.launches])
        return result

    monkeypatch.setattr(Recorder, "record", noted)
    return backend, graphs


@pytest.fixture
def short_graphs(monkeypatch):
    """Graphs of few steps, so that short epochs have several."""
    monkeypatch.setattr("gpunet.train.capture.replay.UPDATES_PER_GRAPH", STEPS)


@pytest.fixture
def images() -> tuple[np.ndarray, np.ndarray]:
    return corners(30, 2)
