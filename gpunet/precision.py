"""Precisions: how operations multiply and what they store, by the names that `Trainer` takes.

It also tells how saved values are converted to the precision of the model that loads them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gpunet.backends import Backend
from gpunet.backends.contract import MATRIX_PRECISIONS, check_matrix_precision, is_float, is_masked

STORED = ("bfloat16", "float16")
"""The precisions in which activations are stored, in 16 bits."""
PRECISIONS = (*MATRIX_PRECISIONS, *STORED)
"""float32 throughout; float32 whose matrices are multiplied on matrix units; or 16 bits for
activations, with sums and parameters in float32."""


class Precision(NamedTuple):
    """What a precision asks of the operations of a step."""

    stored: str | None = None
    """The dtype in which images and activations are stored; None for that of the parameters."""
    matrix: str | None = None
    """How float32 matrices are multiplied; None for what holds where the step runs, which is
    float32 outside of all `matrix_precision` contexts."""


def split_precision(operation: str, precision: str, backend: Backend) -> Precision:
    """What one of `PRECISIONS` stores, and how it multiplies.

    Args:
        operation: what errors name.
    Raises:
        ValueError: an unknown precision, or one that this backend does not have.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"{operation}: precision is {precision!r} but takes one of {', '.join(PRECISIONS)}")
    if precision in STORED:
        if precision not in backend.narrow:
            raise ValueError(f"{operation}: precision={precision!r} takes a CUDA backend, got {backend.name}")
        return Precision(stored=precision)
    if precision == "float32":
        return Precision()
    if precision not in backend.matrix_units:
        units = ", ".join(backend.matrix_units) or "nothing"
        takes = f"precision={precision!r} takes a CUDA backend with matrix units"
        raise ValueError(f"{operation}: {takes}, got {backend.name}, which computes {units} on them")
    return Precision(matrix=precision)


def check_ambient(operation: str, precision: str) -> None:
    """Raise a ValueError unless a `matrix_precision` context takes this precision."""
    if precision in STORED:
        takes = f"takes one of {', '.join(MATRIX_PRECISIONS)}, got {precision!r}, in which arrays are stored"
        raise ValueError(f"{operation}: {takes}: pass it to Trainer(precision=…), or cast tensors with functional.cast")
    check_matrix_precision(operation, precision)


def loaded(name: str, value: Any, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Copy a saved array, converted to the dtype of the parameter or buffer that loads it.

    Floats become a float dtype, widened exactly or rounded; NaN and inf are kept. Integers and
    booleans become a dtype of their own kind, with the same values.

    Args:
        name: what errors name.
        shape, dtype: of the parameter or buffer.
    Raises:
        TypeError: no NumPy array of the right kind.
        ValueError: another shape, or a value that the dtype cannot hold.
    """
    if not isinstance(value, np.ndarray | np.generic) or is_masked(value):
        kind = f"{type(value).__module__}.{type(value).__name__}".removeprefix("builtins.")
        raise TypeError(f"{name} is {kind} but takes a NumPy array of {dtype}")
    floats, kinds = is_float(dtype), "b" if np.dtype(dtype).kind == "b" else "iu"
    if not (is_float(value.dtype) if floats else value.dtype.kind in kinds):
        raise TypeError(f"{name} is {value.dtype} but takes {dtype}, or another dtype of its kind")
    if value.shape != shape:
        raise ValueError(f"{name} is {value.shape} but takes {shape}")
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        made = np.array(value, dtype)
    if made.dtype != value.dtype:
        lost = np.isfinite(value) & ~np.isfinite(made) if floats else made != value
        if lost.any():
            raise ValueError(f"{name} holds {np.asarray(value)[lost][0]}, of {value.dtype}, which {dtype} cannot hold")
    return made
