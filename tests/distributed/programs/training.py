"""Trains small nets: ``training.py FOLDER DTYPE EPOCHS CASE…`` writes what each rank has got.

The files are FOLDER/CASE-RANK.npz."""

import sys
from pathlib import Path

import numpy as np

import gpunet as gp
from gpunet import functional as F
from gpunet import nn, optim, random
from gpunet.data import (
    ArrayDataset,
    Compose,
    DataLoader,
    DeviceLoader,
    Mixup,
    Normalize,
    RandomHorizontalFlip,
    RandomShift,
    WeightedRandomSampler,
)
from gpunet.distributed import world
from gpunet.train import Accuracy, buckets

CLASSES, SIDE = 5, 10
buckets.LEAST_BYTES = 256  # so that nets as small as these have several
AUGMENT = RandomShift(2), RandomHorizontalFlip(), Normalize(0.5, 0.5)


class Noise(nn.Module):
    """Spatial dropout, then noise."""

    def forward(self, x):
        return F.gaussian_noise(F.dropout2d(x, 0.2, training=self.training), 0.1, training=self.training)


def net(dtype, normalised=None):
    if normalised:  # images, then features; the last batch has one row, so that one rank has its only sample
        layers = [nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4, activation="relu"), nn.MaxPool2d(2), nn.Flatten()]
        layers += [nn.Linear(64, 12, bias=False), nn.BatchNorm2d(12, momentum=None), nn.ReLU(), nn.Dropout(0.5)]
        model = nn.Sequential(*layers, nn.Linear(12, CLASSES)).astype(dtype)
        nn.synchronise_batch_norm(model, normalised == "together")
        return model
    layers = [nn.Conv2d(1, 4, 3), Noise(), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.3), nn.Linear(64, 12)]
    return nn.Sequential(*layers, nn.ReLU(), nn.Dropout(0.5), nn.Linear(12, CLASSES)).astype(dtype)


def samples(count, ignored=False):
    drawn = np.random.default_rng(0)
    x, y = drawn.integers(0, 256, (count, SIDE, SIDE, 1), np.uint8), drawn.integers(0, CLASSES, count)
    if ignored:  # some shares, and some whole batches, have no label that counts
        y[drawn.random(count) < 0.7] = -1
        y[:24] = -1
    return ArrayDataset(x, y)


def ignoring(logits, y):
    return F.cross_entropy(logits, y, ignore_index=-1)


class Largest:
    """The mean of the largest logits, which takes them itself."""

    name = "largest"
    sum, rows = 0.0, 0

    def reset(self):
        self.sum, self.rows = 0.0, 0

    def update(self, logits, labels):
        assert len(logits) == len(labels)
        self.sum, self.rows = self.sum + logits.max(axis=1).sum(), self.rows + len(logits)

    @property
    def value(self):
        return self.sum / max(self.rows, 1)


def step(model, batch):
    x, y = batch
    return F.cross_entropy(model(x), y)


def loader(count=193, **changes):
    """Batches of 24 in a shuffled order; the last one has a single row."""
    given = {"shuffle": True, "transform": Compose(AUGMENT), **changes}
    return DataLoader(samples(count, given.pop("ignored", False)), 24, **given)


def listed():
    x, y = samples(100)[np.arange(100)]
    x = x / np.float32(255)
    return [(x[i : i + 24], y[i : i + 24]) for i in range(0, 100, 24)]


def weighted():
    return loader(shuffle=False, sampler=WeightedRandomSampler(np.arange(193), 101))


IGNORED = {"loader": lambda: loader(ignored=True), "loss": ignoring, "metrics": [Accuracy(ignore_index=-1)]}
CASES = {
    "plain": {},
    "ignored": IGNORED,
    "gathered": {"batches_per_update": 2, "clip_norm": 0.1, "average": True},
    "gathered-ignored": {**IGNORED, "batches_per_update": 3},
    "normalised": {"normalised": "together", "loader": lambda: loader(194)},
    "normalised-ignored": {**IGNORED, "loader": lambda: loader(194, ignored=True), "normalised": "together"},
    "each-normalised": {"normalised": "each", "loader": lambda: loader(200)},
    "mixup": {"loader": lambda: loader(transform=Compose([*AUGMENT, Mixup(CLASSES, 0.4)]))},
    "listed": {"loader": listed, "loss_step": step},
    "weighted": {"loader": weighted},
    "measured": {"metrics": ["f1", "top2", "recall_micro"]},
    "measured-by-logits": {"metrics": ["accuracy", Largest()]},
    "device": {
        "loader": lambda: DeviceLoader(samples(193), 24, backend="numpy", shuffle=True, transform=Compose(AUGMENT))
    },
}


class Recorder:
    """Keeps what the trainer has measured so far, after each step."""

    def __init__(self):
        self.rows = []

    def after_step(self, trainer):
        self.rows.append([trainer.running[name] for name in ("loss", "accuracy") if name in trainer.running])


def trainer_of(case, dtype, callbacks=()):
    options = dict(CASES[case])
    make, average = options.pop("loader", loader), options.pop("average", False)
    gp.seed(11)
    model = net(dtype, options.pop("normalised", None))
    optimizer = optim.Adam(model.parameters(), lr=3e-3, clip_norm=options.pop("clip_norm", None))
    schedule = optim.CosineAnnealingLR(optimizer, 18) if average else None
    averages = optim.ExponentialMovingAverage(model, optimizer, 0.9) if average else None
    trainer = gp.Trainer(
        model,
        optimizer,
        backend="numpy",
        callbacks=callbacks,
        progress=False,
        schedule=schedule,
        average=averages,
        **options,
    )
    return trainer, make()


def trained(case, dtype=np.float64, epochs=2):
    """What a training leaves: parameters, slots, measurements and predictions."""
    recorder = Recorder()
    trainer, batches = trainer_of(case, dtype, [recorder])
    history = trainer.fit(batches, epochs, valid=batches)
    columns = [name for name in history.columns if name not in ("seconds", "images_per_second")]
    arena = trainer.optimizer.arena
    shown = np.random.default_rng(1).normal(size=(7, SIDE, SIDE, 1)).astype(np.float32)
    measured = trainer.evaluate(batches)
    return {
        "parameters": arena.data,
        **{name: buffer.numpy() for name, buffer in trainer.model.named_buffers()},
        **arena.slots,
        "running": np.array(recorder.rows),
        "history": np.array([[row[name] for name in columns] for row in history.rows]),
        "evaluated": np.array([measured["loss"], measured.get("accuracy", 0.0)]),
        "predicted": trainer.predict(shown, batch_size=5),
        "drawn": np.array([random.drawn()["init"]]),
    }


if __name__ == "__main__":
    folder, dtype, epochs, *names = sys.argv[1:]
    for name in names:
        np.savez(Path(folder) / f"{name}-{world().rank}.npz", **trained(name, np.dtype(dtype), int(epochs)))
