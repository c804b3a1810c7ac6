"""Precisions: what a model's operations store, by the names that `Trainer`, `plan` and ``gpunet bench`` take, and how saved
values come into a model of another precision."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpunet.backends import Backend
from gpunet.backends.base import is_float

PRECISIONS = ("ieee", "bfloat16", "float16")
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
    if precision == "ieee":
        return None
    if precision not in backend.narrow:
        raise ValueError(f"{operation}: precision={precision!r} takes a CUDA backend, got {backend.name}")
    return precision


def loaded(name: str, value: Any, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """A copy of a saved array in the float dtype of what takes it: widened exactly, or rounded. NaN and inf are kept.

    Raises:
        TypeError: it is no NumPy array of floats.
        ValueError: it has another shape, or a finite value that would become infinite.
    """
    if not isinstance(value, np.ndarray | np.generic) or isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} is {type(value).__name__} but takes a NumPy array of {dtype}")
    if not is_float(value.dtype):
        raise TypeError(f"{name} is {value.dtype} but takes {dtype}, or another float dtype")
    if value.shape != shape:
        raise ValueError(f"{name} is {value.shape} but takes {shape}")
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        made = np.array(value, dtype)
        lost = None if made.dtype == value.dtype else np.isfinite(value) & ~np.isfinite(made)
    if lost is not None and lost.any():
        raise ValueError(f"{name} holds {np.asarray(value)[lost][0]}, of {value.dtype}, which {dtype} cannot hold")
    return made
