"""Ends a training on several ranks in one way or another: ``endings.py WAY FOLDER [EPOCHS [VICTIM]]``.

Each rank writes how it has ended to FOLDER/RANK.json. What a way does, it does on one rank: VICTIM,
or the last.
"""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
from training import trainer_of

from gpunet.distributed import world
from gpunet.train import Checkpoint, CSVLogger, StopTraining, eager, resume


class OnOne:
    """Calls a function once with the trainer, behind a step, on one rank."""

    def __init__(self, rank, step, act):
        self.rank, self.step, self.act = rank, step, act

    def after_step(self, trainer):
        if trainer.step >= self.step and self.act and world().rank == self.rank:
            act, self.act = self.act, None
            act(trainer)


def error(trainer):
    raise RuntimeError("this rank alone")


def leave(trainer):
    sys.exit(3)


def infinity(trainer):
    trainer.optimizer.arena.data[:] = np.inf


def drift(trainer):
    trainer.optimizer.arena.data[3] += 1e-3


def interrupted(trainer):
    os.kill(os.getpid(), signal.SIGINT)


def terminated(trainer):
    """Get the signal, and again while rank 0 writes."""
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Timer(1, os.kill, (os.getpid(), signal.SIGTERM)).start()


def hurried(trainer):
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGINT)


class Slow:
    """Writes a file at the end of a fit, on the rank that leads, and takes its time."""

    every_step = False

    def __init__(self, path):
        self.path = path

    def after_fit(self, trainer):
        if trainer.leads:
            time.sleep(2)
            self.path.write_text(f"{trainer.epoch} {trainer.step}")


def stopped(trainer):
    time.sleep(2.5)  # so that the others hear where it is
    os.kill(os.getpid(), signal.SIGSTOP)


def slow(trainer):
    time.sleep(100)


def alone(trainer):
    raise StopTraining


def crossed(trainer):
    world().copy_from_first(np.zeros(1000))


def resumed(trainer):
    pass


def main(way, folder, epochs=2, victim=None):
    folder, ranks = Path(folder), world()
    if way == "apart":  # as without a file system that all see
        way, folder = "resumed", folder / str(ranks.rank)
    victim = ranks.size - 1 if victim is None else int(victim)
    path = folder / "last.safetensors"
    callbacks = [OnOne(victim, 2, globals()[way]), Checkpoint(path, every_steps=5), CSVLogger(folder / "history.csv")]
    if way == "terminated":
        callbacks.append(Slow(folder / "end"))
    trainer, loader = trainer_of("plain" if way in ("infinity", "drift") else "gathered", np.float32, callbacks)
    if way == "drift":
        eager.ALIKE_EVERY = 5
    if way in ("resumed", "interrupted"):
        resume(trainer, path)
    try:
        if int(epochs) > trainer.epoch:
            trainer.fit(loader, int(epochs) - trainer.epoch, valid=loader)
        found = {
            "epoch": trainer.epoch,
            "interrupted": trainer.history.interrupted,
            "sum": float(np.abs(trainer.optimizer.arena.data).sum()),
            "losses": trainer.history["loss"] if len(trainer.history) else [],
        }
    except FloatingPointError as error:
        found = {"error": str(error)}
    (folder / f"{ranks.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    if sys.argv[1] == "late" and os.environ["PMI_RANK"] == "1":
        time.sleep(100)
    main(*sys.argv[1:])
