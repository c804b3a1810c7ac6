"""A stage: the options that it is given, and how it checks and reports."""

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
from gpunet.check.record import Record, Result, numbers_text
from gpunet.errors import BackendError

Numbers = Mapping[str, Any]


class NotApplicableError(Exception):
    """Something cannot be checked here. The message says why."""


class FailedError(Exception):
    """A check has found something that is wrong.

    Args:
        message: what is wrong.
        numbers: the numbers that the check would have returned.
    """

    def __init__(self, message: str, numbers: Numbers | None = None):
        super().__init__(message)
        self.numbers = numbers or {}


@dataclass(frozen=True)
class Options:
    """The options of a stage."""

    stage: str
    backend: str
    output: str
    """The output folder."""
    seconds: float
    """The time limit."""
    reference: str = ""
    """A file that `reference.write` has written; empty for none."""


class Stage:
    """One stage of a check, in the process that runs it.

    Args:
        options: what to check.
    Attributes:
        failed: whether anything has failed so far.
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
        """Call a function, and report what it returns or raises. The stage goes on in any case.

        Args:
            what: what is checked, in words.
            function: is called with `args`. It returns numbers for the record, and raises
                `FailedError`, or any other error, if something is wrong.
            show: whether to print a line also if nothing is wrong.
            seconds: the time to report; the time of the call if None.
        """
        self.note_running(what)
        start, ok, error = monotonic(), cast(bool | None, True), ""
        numbers: Numbers = {}
        try:
            numbers = function(*args) or {}
        except NotApplicableError as reason:
            ok, error = None, str(reason)
        except FailedError as failure:
            ok, error, numbers = False, str(failure), failure.numbers
        except Exception as exception:
            ok, error = False, exception_text(exception)
        took = monotonic() - start if seconds is None else seconds
        self.report(Result(self.options.stage, what, ok, numbers, round(took, 3), error), show=show)
        self.note_running("")

    def report(self, result: Result, *, show: bool = True) -> None:
        """Append a result to the record, then print it."""
        self._record.append(result)
        self.failed |= result.ok is False
        if show or result.ok is False:
            print_line(result_line(result))

    def note_running(self, what: str) -> None:
        """Write down what is being checked, which the conductor reports if the stage hangs."""
        running_file(Path(self.options.output), self.options.stage).write_text(what, encoding="utf-8")


def running_file(folder: Path, stage: str) -> Path:
    """The file in which a stage writes down what it is checking."""
    return folder / f"{stage}.running"


def print_line(text: str) -> None:
    """Print a line at once. A reader that closes the pipe, such as head, does not end the check."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def result_line(result: Result) -> str:
    """A result as a line for the terminal."""
    mark = {True: "ok     ", False: "FAILED ", None: "skipped"}[result.ok]
    numbers = numbers_text(result.numbers)
    return f"  {mark} {result.what}{': ' if numbers or result.error else ''}{' '.join([numbers, result.error]).strip()}"


def exception_text(exception: BaseException) -> str:
    """An exception in one line, with the file and the line that it came from."""
    frames = traceback.extract_tb(exception.__traceback__)
    where = f" (at {Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(exception).__name__}: {' '.join(str(exception).split())}{where}"
