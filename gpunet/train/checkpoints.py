"""Callbacks that write checkpoints, and `resume`, which goes on from the newest that is whole."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from time import monotonic
from typing import Any, Protocol

from gpunet.distributed import expect_alike, world
from gpunet.errors import DamagedFileError, warn
from gpunet.files import PathLike, remove_leftovers, versions
from gpunet.geometry import positive_int
from gpunet.train.callbacks import Monitor
from gpunet.train.hooks import Callback, TrainerView

__all__ = ["BestCheckpoint", "Checkpoint", "resume"]


class Checkpoint(Callback):
    """Writes a checkpoint at every moment from which training may have to go on.

    These are the end of each epoch, and where Ctrl-C, SIGTERM or `StopTraining` ends the fit; within
    an epoch every `every_steps` steps or `every_minutes` minutes after the last one, if given. The
    file is written by a thread of its own: training waits only for a copy of its state, and `fit`
    returns when the last file is on the disk. `resume` goes on from it.

    Where the step is captured, a graph holds up to 16 updates, and a checkpoint waits for its end.

    Args:
        path: the file, such as ``runs/a/last.safetensors``. It is written aside and then renamed,
            so it is always complete.
        every_steps: how many batches lie between checkpoints within an epoch.
        every_minutes: how many minutes lie between them; if both are None, there are none.
        keep: how many are kept: the one at `path`, and those before it, from the newest on, as
            ``last-1.safetensors``, ``last-2.safetensors`` and so on.
        metadata: what the file keeps beside, as JSON; `interop.read_metadata` returns it.
    Raises:
        OSError: by a later hook, if a file cannot be written; the earlier ones are whole then.
    """

    order = 100  # after EarlyStopping, whose state the file keeps
    every_step = False

    def __init__(
        self,
        path: PathLike,
        *,
        every_steps: int | None = None,
        every_minutes: float | None = None,
        keep: int = 2,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        self.every_steps = None if every_steps is None else positive_int("Checkpoint", "every_steps", every_steps)
        if every_minutes is not None and not every_minutes > 0:
            raise ValueError(f"Checkpoint: every_minutes is {every_minutes} but must be above 0")
        self.path, self.every_minutes, self.metadata = Path(path), every_minutes, metadata
        self.keep = positive_int("Checkpoint", "keep", keep)
        self._step, self._time = 0, monotonic()  # of the last checkpoint
        self._place: tuple[int, int] | None = None

    def before_fit(self, trainer: TrainerView) -> None:
        """Remove what a killed program has left half written."""
        if trainer.leads:
            remove_leftovers(self.path)
        self._time, self._place = monotonic(), None

    def before_epoch(self, trainer: TrainerView) -> None:
        """Count steps from where the epoch begins or goes on."""
        self._step = trainer.step

    def after_step(self, trainer: TrainerView) -> None:
        """Write a checkpoint if it is time for one."""
        behind = trainer.step + 1
        due = self.every_steps is not None and behind - self._step >= self.every_steps
        if due or (self.every_minutes is not None and monotonic() - self._time >= 60 * self.every_minutes):
            self._step = behind
            self._write(trainer)

    def after_epoch(self, trainer: TrainerView) -> None:
        """Write a checkpoint."""
        self._write(trainer)

    def on_stop(self, trainer: TrainerView) -> None:
        """Write a checkpoint of the place where the fit stops, unless it is the last one's."""
        if self._place != (trainer.epoch, trainer.step):
            self._write(trainer)

    def _write(self, trainer: TrainerView) -> None:
        trainer.save(self.path, self.metadata, keep=self.keep, wait=False)
        self._time, self._place = monotonic(), (trainer.epoch, trainer.step)


class BestCheckpoint(Monitor):
    """Writes a checkpoint after each epoch that is the best one so far.

    A thread of its own writes it, as for `Checkpoint`; `fit` returns when it is on the disk.

    Args:
        path: the file. It is written under another name and then renamed, so it is always complete.
        monitor: a column of the history; "epoch" keeps the last epoch.
        metadata: what the file keeps beside, as JSON; `interop.read_metadata` returns it.
        mode: "min" if lower values are better, "max" if higher ones are; None to go by the name of
            the column, see `direction`.
    """

    order = 50

    def __init__(
        self,
        path: PathLike,
        monitor: str = "valid_accuracy",
        metadata: Mapping[str, Any] | None = None,
        mode: str | None = None,
    ) -> None:
        super().__init__(monitor, mode)
        self.path, self.metadata = Path(path), metadata

    def before_fit(self, trainer: TrainerView) -> None:
        """Check for the column, and remove what a killed program has left half written."""
        super().before_fit(trainer)
        if trainer.leads:
            remove_leftovers(self.path)

    def after_epoch(self, trainer: TrainerView) -> None:
        """Write the checkpoint if this epoch is the best one."""
        if self.best(trainer.history[self.monitor]) == len(trainer.history) - 1:
            trainer.save(self.path, self.metadata, wait=False)


class Loads(Protocol):
    """What `resume` calls of the `Trainer`, which stands above it."""

    def load(self, path: PathLike, *, extend_schedule: bool = False) -> dict[str, Any]:
        """Go on from a checkpoint."""


def resume(trainer: Loads, path: PathLike, *, extend_schedule: bool = False) -> Path | None:
    """Go on from the newest checkpoint of `Checkpoint(path)` that is whole.

    A damaged one is left out with a warning that says why.

    Args:
        trainer: made as for the first fit; see `Trainer.load`.
        path: as given to `Checkpoint`.
        extend_schedule: as for `Trainer.load`.
    Returns:
        The file that was loaded; None if there is none, so that training begins anew.
    Raises:
        DamagedFileError: there are files, and all of them are damaged.
        RuntimeError: ranks see different files.
        ValueError: a file belongs to another model, optimizer or schedule. Nothing is changed.
    """
    found, reasons = versions(path), list[str]()
    expect_alike(world(), "checkpoints", [each.name for each in found], "all ranks must see the same folder")
    for each in found:
        try:
            trainer.load(each, extend_schedule=extend_schedule)
        except DamagedFileError as error:
            reasons.append(str(error))
            if each != found[-1]:
                warn(f"resume: {error}; going on from the checkpoint before it")
        else:
            return each
    if reasons:
        raise DamagedFileError(f"resume: no checkpoint of {path} is whole: {'; '.join(reasons)}")
    return None
