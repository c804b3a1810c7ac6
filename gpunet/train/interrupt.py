"""Ctrl-C and SIGTERM during training."""

from __future__ import annotations

import signal
import sys
import threading
from contextlib import AbstractContextManager, nullcontext
from types import FrameType
from typing import Any, Self

from gpunet.distributed import Alone, Ranks
from gpunet.train.hooks import StopTraining


class Interrupt:
    """A context that counts each Ctrl-C, and raises KeyboardInterrupt after the first `patience`.

    With a patience of 1 a SIGTERM, with which schedulers and systems end a process, asks for an
    orderly end too, unless the program has a handler of its own. It never raises, however often it
    comes. The process ends by that signal at the end of the block, or of the outermost one.

    Python drops an exception that a signal handler raises in a finaliser or in a callback of the
    garbage collector, and goes on. The count stays: `check`, and the end of the block, raise what
    was dropped.

    Ctrl-C stays as it is where it is ignored or handled by no Python code, and so does everything
    outside the main thread, which is the only one that Python gives signals. Afterwards the earlier
    handlers are back.

    Where several ranks train, what one of them has got counts for all from the next `check` on, and
    the block ends on all of them together, so that what rank 0 has written in it is there for all.

    Args:
        patience: 1 if the first Ctrl-C asks for an orderly end, 0 if it raises at once too.
        ranks: whose processes end together.
    Attributes:
        count: how often Ctrl-C was pressed, or a SIGTERM came.
        terminated: whether a SIGTERM came.
        holding: while True, Ctrl-C is only counted: around a few statements that belong together.
            It is set by a plain assignment, because a signal may come in the middle of a call.
    """

    def __init__(self, patience: int = 1, ranks: Ranks = Alone()) -> None:  # noqa: B008 - it cannot change
        self._ranks = ranks
        self.patience, self.count, self.holding, self.terminated = patience, 0, False, False
        self._before: dict[int, Any] = {}  # the handlers that this one stands in for

    @property
    def requested(self) -> bool:
        """Whether a signal has asked for the end."""
        return self.count > 0

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            before = signal.getsignal(signal.SIGINT)
            replaced = before not in (None, signal.SIG_IGN)
            if self.patience == 0:  # a handler of the user's may not raise, so it stays
                replaced = before is signal.default_int_handler
            if replaced:
                self._before[signal.SIGINT] = before
                signal.signal(signal.SIGINT, self._handle)
            before = signal.getsignal(signal.SIGTERM)
            if self.patience and (before == signal.SIG_DFL or isinstance(_owner(before), Interrupt)):
                self._before[signal.SIGTERM] = before
                signal.signal(signal.SIGTERM, self._handle)
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        if kind is None and self._ranks.size > 1:  # after an error, or a Ctrl-C that raises, others may be anywhere
            self.holding = True  # no further signal ends this rank while rank 0 writes its files
            self._ranks.gather("the end of fit", None)
        outer = None
        # Ctrl-C's own handler comes back last, for from then on another one raises here
        for number, before in reversed(self._before.items()):
            signal.signal(number, before)
            outer = _owner(before) if outer is None else outer
        self._before = {}
        if isinstance(outer, Interrupt):  # of a fit, one of whose hooks entered this context
            outer.count += self.count
            outer.terminated |= self.terminated
        elif self.terminated:
            if kind is not None and not issubclass(kind, KeyboardInterrupt):
                sys.excepthook(kind, *exception)  # type: ignore[arg-type]  # an error, which nobody would see
            self._ranks.leave()
            signal.raise_signal(signal.SIGTERM)
        if kind is None and self.count > self.patience:
            raise KeyboardInterrupt

    def check(self, between: bool = False) -> None:
        """Raise StopTraining after a Ctrl-C, KeyboardInterrupt after more than `patience`; on all ranks.

        Args:
            between: whether the next check is near: several ranks agree only there.
        """
        if self._ranks.size > 1:
            if between:
                return
            once, twice, ended = self._ranks.total("signals", [self.count > 0, self.count > 1, self.terminated])
            if not once:  # a signal that comes meanwhile is of the next check
                return
            self.count = max(self.count, 2 if twice else 1)
            self.terminated |= bool(ended)
        if self.count > self.patience:
            raise KeyboardInterrupt
        if self.count:
            raise StopTraining

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGTERM:
            self.terminated, self.count = True, max(self.count, 1)
            return
        self.count += 1
        switching = frame is not None and frame.f_code in _SWITCHING
        if self.count > self.patience and not self.holding and not switching:
            raise KeyboardInterrupt


def _owner(handler: Any) -> Any:
    """The object whose method a handler is; None for a function."""
    return getattr(handler, "__self__", None)


_SWITCHING = (Interrupt.__enter__.__code__, Interrupt.__exit__.__code__, _owner.__code__)
"""Functions in which no signal raises, since callers could not know which handler is installed."""


def watch_interrupts() -> AbstractContextManager[Interrupt]:
    """A context in which the first Ctrl-C raises; inside a fit of this thread, the fit's own."""
    if threading.current_thread() is threading.main_thread():
        outer = _owner(signal.getsignal(signal.SIGINT))
        if isinstance(outer, Interrupt):
            return nullcontext(outer)
    return Interrupt(patience=0)
