"""What holds for the operations of a thread: how they multiply; whether they are recorded and fused."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from gpunet.decorators import decorated
from gpunet.precision import check_ambient
from gpunet.tensors import LateTensor


class Mode(threading.local):
    """What holds for the operations of one thread."""

    def __init__(self) -> None:
        self.records = self.fuses = True
        self.before: list[bool] = []  # `records` outside of each entered no_grad
        self.matrix_precision = "float32"
        self.precisions_before: list[str] = []  # `matrix_precision` outside of each entered context of it
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


class matrix_precision:  # noqa: N801 - as for no_grad
    """Multiply float32 matrices in this precision inside ``with matrix_precision("tf32"):``.

    It holds for the convolutions, dense layers and matrix products that run inside, in this thread,
    and for their gradients wherever `backward` runs. Contexts nest, and the innermost one counts.
    ``@matrix_precision("tf32")`` decorates functions as `no_grad` does.

    A precision is a permission. What the device has no matrix units for, or no kernel that uses
    them, is computed in float32, which is more accurate: everything on NumPy; on CUDA depthwise
    convolutions, few channels and small dense layers. Operands of 16 bits and of float64 do not
    depend on it.

    Args:
        precision: "float32" for float32's products, outside of all contexts the default; "tf32" for
            operands rounded to 11 significant bits, of which tensor cores make fast products; or
            "3xtf32" for three such products in place of each, which have about float32's accuracy.
            Sums are float32 in all of them.
    Raises:
        ValueError: an unknown precision, or "bfloat16" or "float16", in which arrays are stored.
    """

    def __init__(self, precision: str) -> None:
        check_ambient("matrix_precision", precision)
        self.precision = precision

    def __enter__(self) -> None:
        mode.precisions_before.append(mode.matrix_precision)
        mode.matrix_precision = self.precision

    def __exit__(self, *exception: object) -> None:
        if not mode.precisions_before:
            raise RuntimeError("matrix_precision: left in a thread that has not entered it")
        mode.matrix_precision = mode.precisions_before.pop()

    def __call__(self, function: Any) -> Any:
        """The function, each of whose calls runs in a context of its own."""
        return decorated("matrix_precision", lambda: self, function)


def multiplying(precision: str | None) -> AbstractContextManager[None]:
    """`matrix_precision`, or for None a context that changes nothing."""
    return nullcontext() if precision is None else matrix_precision(precision)


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
