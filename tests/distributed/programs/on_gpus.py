"""Trains a small net on CUDA: ``on_gpus.py FOLDER CAPTURE CASE…`` writes what each rank has got.

CAPTURE is that of the Trainer: True, False or auto. The files are FOLDER/CASE-RANK.npz. Where it is
not launched on several ranks, it is one rank.
"""

import sys
import time
from pathlib import Path

import numpy as np

import gpunet as gp
from gpunet import functional as F
from gpunet import nn, optim
from gpunet.cuda.capture import Recorder
from gpunet.data import ArrayDataset, Compose, DataLoader, DeviceLoader, Normalize, RandomShift
from gpunet.distributed import world
from gpunet.distributed.devices import on_devices
from gpunet.train import Accuracy
from gpunet.train.capture import replay

CLASSES, SIDE, BATCH = 4, 6, 12


def net(normalised):
    norm = [nn.BatchNorm2d(4)] if normalised else []
    # no bias goes into a batch norm: its gradient would be what rounding leaves of 0, which Adam makes large
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding="same", bias=not norm), *norm, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.3),
        nn.Linear(36, CLASSES),
    )  # fmt: skip
    nn.synchronise_batch_norm(model, normalised == "together")
    return model


def samples(ignored):
    drawn = np.random.default_rng(0)
    x, y = drawn.integers(0, 256, (85, SIDE, SIDE, 1), np.uint8), drawn.integers(0, CLASSES, 85)
    if ignored:
        y[drawn.random(85) < 0.6] = -1
    return ArrayDataset(x, y)


def ignoring(logits, y):
    return F.cross_entropy(logits, y, ignore_index=-1)


def listed(*rows):
    drawn = np.random.default_rng(3)
    return [(drawn.normal(size=(n, SIDE, SIDE, 1)).astype(np.float32), drawn.integers(0, CLASSES, n)) for n in rows]


def infinite():
    """Batches, of which the tenth has an infinity in its last row, which is the last rank's."""
    batches = listed(*[BATCH] * 12)
    batches[9][0][-1] = np.inf
    return batches


class Touch:
    """Changes an attribute of the model on one rank alone, so that its graphs are stale there."""

    every_step = False

    def after_epoch(self, trainer):
        if world().rank == world().size - 1:
            trainer.model.touched = trainer.epoch


class Leave:
    """Ends the program of the last rank alone, where the others replay a graph and read its report."""

    every_step = False

    def before_step(self, trainer):
        if trainer.step == 6 and world().rank == world().size - 1:
            sys.exit(3)


class LinkDown:
    """NCCL finds an error on the last rank, which waits for ever for a sum."""

    def after_step(self, trainer):
        if trainer.step == 3 and world().rank == world().size - 1:
            import nccl.core
            from nccl.bindings.nccl import Result

            nccl.core.Communicator.state = Result.RemoteError
            time.sleep(1000)


def fail_on_one_rank():
    """Let the last rank run out of memory in its first capture."""
    captured = Recorder.record

    def record(self, work):
        made = captured(self, work)
        if world().rank == world().size - 1:
            raise MemoryError("the memory of this rank")
        return made

    Recorder.record = record


IGNORED = {"ignored": True, "loss": ignoring, "metrics": [Accuracy(ignore_index=-1)]}
CASES = {
    "plain": {},  # 7 batches, then one of a single row, for which one rank has none
    "gathered": {"batches_per_update": 2, "clip_norm": 0.1},
    "ignored": IGNORED,
    "ignored-gathered": {**IGNORED, "batches_per_update": 2},
    "logits": {"metrics": ["accuracy", "f1"]},
    "normalised": {"normalised": True},
    "bfloat16": {"precision": "bfloat16"},
    "float16": {"precision": "float16"},
    "device": {"on_device": True},
    "infinite": {"loader": infinite()},
    "uneven": {"loader": listed(*[12] * 5, *[13] * 6, 12, 13)},  # the first rank has six rows of each
    "touched": {"callbacks": [Touch()]},
    "left": {"loader": listed(*[BATCH] * 12), "callbacks": [Leave()]},
    "link down": {"callbacks": [LinkDown()]},
    "together": {"normalised": "together"},
    "together-ignored": {**IGNORED, "normalised": "together"},
    "together-uneven": {"normalised": "together", "loader": listed(*[12] * 5, *[13] * 6, 12, 13, 1)},
    "together-bfloat16": {"normalised": "together", "precision": "bfloat16"},
    "together-float16": {"normalised": "together", "precision": "float16"},
    "short of memory": {"before": fail_on_one_rank},
}


def trained(case, capture, epochs=3):
    """What a training leaves: parameters, buffers, slots, measurements, and how many graphs there are."""
    options = dict(CASES[case])
    options.pop("before", lambda: None)()
    gp.seed(5 + world().rank)  # the others take what rank 0 begins with
    model = net(options.pop("normalised", False))
    optimizer = optim.Adam(model.parameters(), lr=3e-3, clip_norm=options.pop("clip_norm", None))
    dataset, augment = samples(options.pop("ignored", False)), Compose([RandomShift(1), Normalize(0.5, 0.5)])
    if "loader" in options:
        loader = options.pop("loader")
    elif options.pop("on_device", False):
        loader = DeviceLoader(dataset, BATCH, backend="cuda", shuffle=True, transform=augment)
    else:
        loader = DataLoader(dataset, BATCH, shuffle=True, transform=augment)
    trainer = gp.Trainer(model, optimizer, backend="cuda", capture=capture, progress=False, **options)
    error = ""
    try:
        trainer.fit(loader, epochs, valid=loader)
    except FloatingPointError as raised:
        error = str(raised)
    history = trainer.history
    columns = [name for name in history.columns if name not in ("seconds", "images_per_second")]
    read = trainer.backend.to_numpy
    return {
        "parameters": read(optimizer.arena.data),
        **{name: buffer.numpy() for name, buffer in model.named_buffers()},
        **{name: read(slot) for name, slot in optimizer.arena.slots.items()},
        "history": np.array([[row[name] for name in columns] for row in history.rows]),
        "error": np.array(error),
        "graphs": np.array(sorted(count for _, count in getattr(trainer._step, "graphs", []))),
        "by_nccl": np.array(world().size > 1 and on_devices(world(), trainer.backend) is not None),
    }


if __name__ == "__main__":
    folder, asked, *names = sys.argv[1:]
    capture = {"True": True, "False": False}.get(asked, asked)
    replay.UPDATES_PER_GRAPH = 3
    for name in names:
        np.savez(Path(folder) / f"{name}-{world().rank}.npz", **trained(name, capture))
