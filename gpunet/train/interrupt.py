"""Ctrl-C during training."""

from __future__ import annotations

import signal
import threading
from contextlib import AbstractContextManager, nullcontext
from types import FrameType
from typing import Self

from gpunet.train.hooks import StopTraining


class Interrupt:
    """A context that counts each Ctrl-C, and raises KeyboardInterrupt after the first `patience`.

    Python drops an exception that a signal handler raises in a finaliser or in a callback of the
    garbage collector, and goes on. The count stays: `check`, and the end of the block, raise what
    was dropped.

    The context does nothing where SIGINT is ignored or handled by no Python code, and outside the
    main thread, which is the only one that Python gives signals. Afterwards the earlier handler is
    back.

    Args:
        patience: 1 if the first Ctrl-C asks for an orderly end, 0 if it raises at once too.
    Attributes:
        count: how often Ctrl-C was pressed.
        holding: while True, Ctrl-C is only counted: around a few statements that belong together.
            It is set by a plain assignment, because a signal may come in the middle of a call.
    """

    def __init__(self, patience: int = 1) -> None:
        self.patience, self.count, self.holding = patience, 0, False
        self._installed = False

    @property
    def requested(self) -> bool:
        """Whether Ctrl-C was pressed."""
        return self.count > 0

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.getsignal(signal.SIGINT)
            replaced = self._before not in (None, signal.SIG_IGN)
            if self.patience == 0:  # a handler of the user's may not raise, so it stays
                replaced = self._before is signal.default_int_handler
            if replaced:
                self._installed = True
                signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        if self._installed:
            signal.signal(signal.SIGINT, self._before)
            outer = getattr(self._before, "__self__", None)
            if isinstance(outer, Interrupt):  # of a fit, one of whose hooks entered this context
                outer.count += self.count
        if kind is None and self.count > self.patience:
            raise KeyboardInterrupt

    def check(self) -> None:
        """Raise StopTraining after a Ctrl-C, KeyboardInterrupt after more than `patience`."""
        if self.count > self.patience:
            raise KeyboardInterrupt
        if self.count:
            raise StopTraining

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        switching = frame is not None and frame.f_code in _SWITCHING
        if self.count > self.patience and not self.holding and not switching:
            raise KeyboardInterrupt


_SWITCHING = (Interrupt.__enter__.__code__, Interrupt.__exit__.__code__)
"""Functions in which no signal raises, since callers could not know which handler is installed."""


def watch_interrupts() -> AbstractContextManager[Interrupt]:
    """A context in which the first Ctrl-C raises; inside a fit of the same thread, the fit's own."""
    if threading.current_thread() is threading.main_thread():
        outer = getattr(signal.getsignal(signal.SIGINT), "__self__", None)
        if isinstance(outer, Interrupt):
            return nullcontext(outer)
    return Interrupt(patience=0)
