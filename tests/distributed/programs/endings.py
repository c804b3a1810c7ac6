"""Ends a training on several ranks in one way or another: ``endings.py WAY FOLDER [EPOCHS]``.

Each rank writes how it has ended to FOLDER/RANK.json."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
from training import trainer_of

from gpunet.distributed import world
from gpunet.train import Checkpoint, CSVLogger, resume

RANKS = world()


class OnLast:
    """Calls a function once with the trainer, behind a step, on the last rank alone."""

    def __init__(self, step, act):
        self.step, self.act = step, act

    def after_step(self, trainer):
        if trainer.step >= self.step and self.act and RANKS.rank == RANKS.size - 1:
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


def nothing(trainer):
    pass


def report(folder, found):
    (Path(folder) / f"{RANKS.rank}.json").write_text(json.dumps(found))


def main(way, folder, epochs="2"):
    acts = {"error": error, "infinity": infinity, "drift": drift, "interrupted": interrupted, "resumed": nothing}
    callbacks = [
        OnLast(2, acts[way]),
        Checkpoint(Path(folder) / "last.safetensors"),
        CSVLogger(Path(folder) / "history.csv"),
    ]
    trainer, loader = trainer_of("plain" if way in ("infinity", "drift") else "gathered", np.float32, callbacks)
    if way == "drift":
        import gpunet.train.eager as eager

        eager.ALIKE_EVERY = 5
    if way in ("resumed", "interrupted"):
        resume(trainer, Path(folder) / "last.safetensors")
    began = time.perf_counter()
    try:
        if int(epochs) > trainer.epoch:
            trainer.fit(loader, int(epochs) - trainer.epoch, valid=loader)
    except FloatingPointError as found:
        report(folder, {"error": str(found)})
        return
    report(folder, {
        "epoch": trainer.epoch, "interrupted": trainer.history.interrupted,
        "seconds": time.perf_counter() - began, "sum": float(np.abs(trainer.optimizer.arena.data).sum()),
        "losses": trainer.history["loss"] if len(trainer.history) else [],
    })  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
