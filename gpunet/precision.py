"""Precisions: what a model's operations store, by the names that `Trainer`, `plan` and ``gpunet bench`` take, and how saved
values come into a model of another precision."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpunet.backends import Backend
from gpunet.backends.contract.arrays import is_float
from gpunet.backends.contract.real import is_masked

PRECISIONS = ("float32", "bfloat16", "float16")
"""float32 throughout, or 16 bits with float32 sums and parameters."""


def stored_dtype(operation: str, precision: str, backend: Backend) -> str | None:
    """The dtype of images and activations; None for that of the parameters.

    Raises:
        ValueError: a precision that there is not, or not on this backend.
    """
    if precision in ("tf32", "3xtf32"):
        raise ValueError(f"{operation}: precision={precision!r} is not built yet; there are {', '.join(PRECISIONS)}")
    if precision not in PRECISIONS:
        raise ValueError(f"{operation}: precision is {precision!r} but takes one of {', '.join(PRECISIONS)}")
    if precision == "float32":
        return None
    if precision not in backend.narrow:
        raise ValueError(f"{operation}: precision={precision!r} takes a CUDA backend, got {backend.name}")
    return precision


def loaded(name: str, value: Any, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """A copy of a saved array in the float dtype of what takes it: widened exactly, or rounded. NaN and inf are kept. What
    takes integers gets integers of the same values.

    Raises:
        TypeError: it is no NumPy array of floats.
        ValueError: it has another shape, or a finite value that would become infinite.
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
        lost = (
            None if made.dtype == value.dtype else np.isfinite(value) & ~np.isfinite(made) if floats else made != value
        )
    if lost is not None and lost.any():
        raise ValueError(f"{name} holds {np.asarray(value)[lost][0]}, of {value.dtype}, which {dtype} cannot hold")
    return made
