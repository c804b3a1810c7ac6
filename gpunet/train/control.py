"""Control flow of training: the exceptions that a hook may raise, and Ctrl-C."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Self


class StopTraining(Exception):  # noqa: N818 - no error
    """Raised by a hook: `fit` returns; an epoch that has not ended gets no row."""


class StopEpoch(Exception):  # noqa: N818
    """Raised by a hook before or after a step: the epoch ends here, and counts."""


class SkipStep(Exception):  # noqa: N818
    """Raised by ``before_step``: the batch is left out."""


class Interrupt:
    """While it is entered, a first Ctrl-C is only noted, for `check` to report; a second raises KeyboardInterrupt.

    It does nothing where SIGINT is ignored, or outside the main thread, which Python gives no signals.
    """

    requested = False

    def __enter__(self) -> Self:
        self._installed = False
        if threading.current_thread() is threading.main_thread():
            self._before = signal.getsignal(signal.SIGINT)
            if self._before not in (None, signal.SIG_IGN):
                signal.signal(signal.SIGINT, self._note)
                self._installed = True
        return self

    def __exit__(self, *exception: object) -> None:
        if self._installed:
            signal.signal(signal.SIGINT, self._before)

    def check(self) -> None:
        """Raise StopTraining if there was a Ctrl-C."""
        if self.requested:
            raise StopTraining

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
