"""What holds for the operations of a thread: whether they are recorded, fused, watched and noted."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from gpunet.decorators import decorated
from gpunet.tensors import LateTensor


class Mode(threading.local):
    """What holds for the operations of one thread."""

    def __init__(self) -> None:
        self.records = self.fuses = True
        self.before: list[bool] = []  # `records` outside of each entered no_grad
        self.watch: Callable[[Any, str], None] | None = None
        self.note: Callable[[Any, Any, Any, Any], None] | None = None
        self.late: list[LateTensor] | None = None  # those made inside of `late_results`


mode = Mode()


class no_grad:  # noqa: N801 - a context manager, in small letters as its users know it
    """Record nothing inside ``with no_grad():``, ``@no_grad()`` or ``@no_grad``, in this thread.

    In a decorated generator, coroutine or asynchronous generator this holds for its own code alone,
    and not for the code that iterates over it or runs between its steps.
    """

    def __new__(cls, function: Any = None) -> Any:
        """A context manager; if a function is given, that function decorated."""
        made = super().__new__(cls)
        return made if function is None else made(function)

    def __enter__(self) -> None:
        mode.before.append(mode.records)
        mode.records = False

    def __exit__(self, *exception: object) -> None:
        if not mode.before:
            raise RuntimeError("no_grad: left in a thread that has not entered it")
        mode.records = mode.before.pop()

    def __call__(self, function: Any) -> Any:
        """The function, each of whose calls runs in a context of its own."""
        return decorated("no_grad", type(self), function)


@contextmanager
def watching(watch: Callable[[Any, str], None]) -> Iterator[None]:
    """Call ``watch(function, "forward")`` or ``(…, "backward")`` before each operation inside, and
    again where it shares a launch: with "backward" for the first of these, "beside" for the others."""
    before, mode.watch = mode.watch, watch
    try:
        yield
    finally:
        mode.watch = before


@contextmanager
def noting(note: Callable[[Any, Any, Any, Any], None]) -> Iterator[None]:
    """Call ``note(operation, inputs, options, result)`` after each forward operation inside.

    `operation` is the class of the `Function`; or the name of what is none, such as "argmax".
    """
    before, mode.note = mode.note, note
    try:
        yield
    finally:
        mode.note = before


@contextmanager
def unfused() -> Iterator[None]:
    """Let the operations inside share no launch with others, neither forward nor backward."""
    before, mode.fuses = mode.fuses, False
    try:
        yield
    finally:
        mode.fuses = before


@contextmanager
def late_results() -> Iterator[None]:
    """Let results inside wait for the operation that takes them, where one launch computes both.

    All of them are computed before the context ends, so that no update can come in between.
    """
    before, mode.late = mode.late, []
    try:
        yield
    finally:
        made, mode.late = mode.late, before
        for result in made:
            result.compute()


def announce(function: Any, direction: str) -> None:
    """Tell who watches that an operation is about to run."""
    if mode.watch is not None:
        mode.watch(function, direction)


def noted(operation: Any, inputs: Any, options: Any, result: Any) -> Any:
    """The result of an operation; who notes operations is told of it."""
    if mode.note is not None:
        mode.note(operation, inputs, options, result)
    return result
