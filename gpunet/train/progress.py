"""The progress bar."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from gpunet.train.callbacks import Callback
from gpunet.train.history import describe

if TYPE_CHECKING:
    from gpunet.train.trainer import Trainer


class ProgressBar(Callback):
    """On a terminal a bar with loss, accuracy and images a second on stderr; everywhere a line an epoch on stdout."""

    order = 60  # the line stands even if the epoch's early stopping comes next
    every_step = False

    def __init__(self) -> None:
        self._bar: Any = None

    def before_epoch(self, trainer: Trainer) -> None:
        """Show an empty bar."""
        if _is_terminal(sys.stderr):
            from tqdm import tqdm

            self._bar = _without_thread(tqdm)(
                total=trainer.steps, desc=_epoch(trainer.epoch + 1, trainer), unit="step", leave=False
            )

    def after_step(self, trainer: Trainer) -> None:
        """Move it on."""
        if self._bar is not None:
            self._bar.set_postfix_str(describe(trainer.running), refresh=False)
            self._bar.update(trainer.step + 1 - self._bar.n)

    def after_epoch(self, trainer: Trainer) -> None:
        """The line takes the bar's place."""
        self._close()
        row = trainer.history.rows[-1]
        print(f"{_epoch(int(row['epoch']), trainer)}  {describe(row)}", flush=True)

    def after_fit(self, trainer: Trainer) -> None:
        """Leave no bar behind."""
        self._close()
        if trainer.history.interrupted:
            print(f"interrupted after {trainer.epoch} finished epochs; one that has begun is not counted", flush=True)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _without_thread(bar: Any) -> Any:
    """tqdm without the thread that redraws bars that stand still: it would wait, at exit, for a lock that Ctrl-C left taken."""
    return type("Bar", (bar,), {"monitor_interval": 0})


def _is_terminal(stream: Any) -> bool:
    """Whether there is a stream, which a program without a console does not have, and it is an open terminal."""
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError):
        return False


def _epoch(number: int, trainer: Trainer) -> str:
    return f"epoch {number}/{trainer.last_epoch}"
