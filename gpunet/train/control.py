"""Control flow of training: the exceptions that a hook may raise, and Ctrl-C."""

from __future__ import annotations

import signal
import threading
from contextlib import AbstractContextManager, nullcontext
from types import FrameType
from typing import Self


class StopTraining(Exception):  # noqa: N818 - no error
    """Raised by a hook, any of them: `fit` returns; an epoch that has not ended gets no row."""


class StopEpoch(Exception):  # noqa: N818
    """Raised by a hook before or after a step: the epoch ends here, and counts."""


class SkipStep(Exception):  # noqa: N818
    """Raised by ``before_step``: the batch is left out."""


WHERE: dict[type[Exception], tuple[str, ...]] = {StopEpoch: ("before_step", "after_step"), SkipStep: ("before_step",)}
"""The hooks that may raise what means nothing in the others."""


class Interrupt:
    """Notes each Ctrl-C while it is entered, so that none is lost, and raises KeyboardInterrupt after the first `patience`.

    Python drops an exception that a signal raises in a finaliser or in a callback of the garbage collector, and goes on. The
    count stays: `check`, and the end of the block, raise what was dropped.

    It does nothing where SIGINT is ignored or handled by no Python code, or outside the main thread, which Python gives no
    signals. The handler that was there before is back afterwards.

    Args:
        patience: 1 where the first Ctrl-C asks for an orderly end, 0 where it raises at once too.
    Attributes:
        count: how often Ctrl-C was pressed.
        holding: while True, nothing is raised, only noted: around a few statements that belong together. Set by a plain
            assignment, for a signal may come between the calls of anything more.
    """

    def __init__(self, patience: int = 1) -> None:
        self.patience, self.count, self.holding = patience, 0, False
        self._installed = False

    @property
    def requested(self) -> bool:
        """Whether there was a Ctrl-C."""
        return self.count > 0

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.getsignal(signal.SIGINT)
            replaced = self._before not in (None, signal.SIG_IGN)
            if self.patience == 0:  # a handler of the user's own may not mean to raise
                replaced = self._before is signal.default_int_handler
            if replaced:
                self._installed = True
                signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        if self._installed:
            signal.signal(signal.SIGINT, self._before)
            outer = getattr(self._before, "__self__", None)
            if isinstance(outer, Interrupt):  # that of a fit, one of whose hooks this was entered in
                outer.count += self.count
        if kind is None and self.count > self.patience:
            raise KeyboardInterrupt

    def check(self) -> None:
        """Raise StopTraining if there was a Ctrl-C, KeyboardInterrupt if there were more than `patience`."""
        if self.count > self.patience:
            raise KeyboardInterrupt
        if self.count:
            raise StopTraining

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        entering = frame is not None and frame.f_code in _UNDIVIDED
        if self.count > self.patience and not self.holding and not entering:
            raise KeyboardInterrupt


_UNDIVIDED = (Interrupt.__enter__.__code__, Interrupt.__exit__.__code__)
"""Functions in which no signal raises: their callers could not know whether the handler has changed."""


def watching() -> AbstractContextManager[Interrupt]:
    """Around what ends at its first Ctrl-C with KeyboardInterrupt; inside a fit of the same thread, that fit's `Interrupt`."""
    if threading.current_thread() is threading.main_thread():
        outer = getattr(signal.getsignal(signal.SIGINT), "__self__", None)
        if isinstance(outer, Interrupt):
            return nullcontext(outer)
    return Interrupt(patience=0)
