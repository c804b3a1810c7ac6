"""What the code of a stage is given, and how it reports."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from time import monotonic
from typing import Any, cast

from gpunet.backends import get_backend
from gpunet.backends.cuda.backend import CudaBackend
from gpunet.check.record import Record, Result, said
from gpunet.errors import BackendError

Numbers = Mapping[str, Any]


class NotApplicableError(Exception):
    """Something that cannot be looked at here; the message says why."""


class FailedError(Exception):
    """Something that is not as it should be.

    Args:
        message: what.
        numbers: as a check returns them.
    """

    def __init__(self, message: str, numbers: Numbers | None = None):
        super().__init__(message)
        self.numbers = numbers or {}


@dataclass(frozen=True)
class Options:
    """What a stage is asked to do."""

    stage: str
    backend: str
    output: str
    seconds: float
    """How long it may take."""
    reference: str = ""
    """A file that `reference` wrote; empty for none."""


class Stage:
    """One stage of a check.

    Args:
        options: what it is asked.
    Attributes:
        failed: whether anything failed so far.
    """

    def __init__(self, options: Options):
        self.options, self.failed = options, False
        self._record = Record(Path(options.output))
        self._started = monotonic()

    @cached_property
    def backend(self) -> CudaBackend:
        """The device that is checked."""
        backend = get_backend(self.options.backend)
        if not isinstance(backend, CudaBackend):
            raise BackendError(f"check: backend is {backend.name} but takes cuda, cuda:1 or emulated")
        return backend

    @property
    def emulated(self) -> bool:
        """Whether the device is the emulated one."""
        return self.options.backend == "emulated"

    @property
    def left(self) -> float:
        """Seconds that the stage may still take."""
        return self.options.seconds - (monotonic() - self._started)

    def check(
        self,
        what: str,
        function: Callable[..., Numbers | None],
        *args: Any,
        show: bool = True,
        seconds: float | None = None,
    ) -> None:
        """Call a function, and report what it returns, or that it raised; whatever it raises, the stage goes on.

        Args:
            what: is looked at.
            function: of `args`; returns numbers for the record; raises `FailedError`, or anything else, where something is
                wrong.
            show: whether to print a line although all is well.
            seconds: that it took elsewhere; those of the call if None.
        """
        self.note(what)
        start, ok, error = monotonic(), cast(bool | None, True), ""
        numbers: Numbers = {}
        try:
            numbers = function(*args) or {}
        except NotApplicableError as reason:
            ok, error = None, str(reason)
        except FailedError as failure:
            ok, error, numbers = False, str(failure), failure.numbers
        except Exception as exception:
            ok, error = False, described(exception)
        took = monotonic() - start if seconds is None else seconds
        self.report(Result(self.options.stage, what, ok, numbers, round(took, 3), error), show=show)
        self.note("")

    def report(self, result: Result, *, show: bool = True) -> None:
        """Append a result to the record, then print it."""
        self._record.append(result)
        self.failed |= result.ok is False
        if show or result.ok is False:
            say(line(result))

    def note(self, what: str) -> None:
        """Leave a note of what is being looked at, for whoever must end a stage that hangs."""
        running_file(Path(self.options.output), self.options.stage).write_text(what, encoding="utf-8")


def running_file(folder: Path, stage: str) -> Path:
    """Where a stage notes what it is looking at."""
    return folder / f"{stage}.running"


def say(text: str) -> None:
    """Print a line at once. A reader that has seen enough, such as head, ends no check."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def line(result: Result) -> str:
    """A result for the terminal."""
    mark = {True: "ok     ", False: "FAILED ", None: "skipped"}[result.ok]
    numbers = said(result.numbers)
    return f"  {mark} {result.what}{': ' if numbers or result.error else ''}{' '.join([numbers, result.error]).strip()}"


def described(exception: BaseException) -> str:
    """An exception in one line, with the place in gpunet's code or in the check that it came from."""
    frames = traceback.extract_tb(exception.__traceback__)
    where = f" (at {Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(exception).__name__}: {' '.join(str(exception).split())}{where}"
