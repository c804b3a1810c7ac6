"""Cases of how the arguments of a launch arrive: the kernels of kernels/check.cu return what they
were given."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from gpunet.backends import Backend
from gpunet.backends.contract import Array
from gpunet.backends.cuda.backend import CudaBackend
from gpunet.check.cases.case import Arrays, Case

NUMBERS = (True, -7, 250, -30000, 60000, -(2**31), 2**32 - 1, -(2**52), 2**53, 0.0999755859375, -3.140625, 0.1, np.pi)
"""The arguments of echo_numbers. Their types hold them exactly, except for the last two, which are
rounded."""
FIELDS: dict[str, Any] = {
    "flag": True, "wide": -(2**40), "small": 200, "real": np.pi, "words": [-1, 2, -30000], "single": 0.1, "narrow": 0.25,
    "brain": -3.140625, "unsigned_wide": 2**53, "last": -100,
}  # fmt: skip


def cases(dtype: str) -> Iterator[Case]:
    """The cases of a dtype. These take no array of floats, so all of them belong to float32."""
    if dtype != "float32":
        return
    exact = [float(n) for n in NUMBERS[:-2]] + [float(np.float32(NUMBERS[-2])), NUMBERS[-1]]
    yield _echo("echo_numbers", NUMBERS, np.array(exact))
    flat = [n for value in FIELDS.values() for n in (value if isinstance(value, list) else [value])]
    yield _echo(
        "echo_struct", [FIELDS], np.array([np.float32(n) if n == FIELDS["single"] else n for n in flat], np.float64)
    )
    for first in (False, True):
        for second in (False, True):
            yield _pointers(first, second)
    yield _differing()


def _echo(kernel: str, arguments: Sequence[Any], expected: np.ndarray) -> Case:
    def run(on: Backend, a: Arrays) -> Sequence[Array]:
        if not isinstance(on, CudaBackend):
            return [expected]
        y = on.empty(expected.shape, np.float64)
        on.launcher.launch(kernel, 2, 64, [*arguments, y])
        return [on.copy(y)]

    return Case(kernel, "float32", {}, run)


def _pointers(first: bool, second: bool) -> Case:
    """A case with a null pointer for each argument that is not given."""
    inputs: dict[str, np.ndarray] = {"first": np.array([2.5, 3], np.float32)} if first else {}
    inputs |= {"second": np.array([0.25, 1], np.float16)} if second else {}

    def run(on: Backend, a: Arrays) -> Sequence[Array]:
        if not isinstance(on, CudaBackend):
            return [np.array([2.5 if first else -1, 0.25 if second else -1])]
        y = on.empty((2,), np.float32)
        on.launcher.launch("echo_pointers", 1, 32, [a.get("first"), a.get("second"), y])
        return [y]

    return Case(f"echo_pointers, {' and '.join(inputs) or 'none'} given", "float32", inputs, run)


def _differing() -> Case:
    """A case that compares bits, not values: NaN equals NaN, and the two zeros differ."""
    a = np.arange(5000, dtype=np.float32)
    b = a + (a % 7 == 3)
    a[:3], b[:3] = (np.nan, 0.0, 1.0), (np.nan, -0.0, 1.0)
    expected = np.array([1 + np.count_nonzero(a.view(np.uint32) != b.view(np.uint32))], np.int32)

    def run(on: Backend, arrays: Arrays) -> Sequence[Array]:
        if not isinstance(on, CudaBackend):
            return [expected]
        differing = on.asarray(np.ones(1, np.int32))
        on.launcher.launch("differing_words", 3, 256, [arrays["a"], arrays["b"], a.size, differing])
        return [differing]

    return Case("differing_words", "float32", {"a": a, "b": b}, run)
