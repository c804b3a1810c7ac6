"""Precisions: what operations store, by the names that `Trainer`, `plan` and ``gpunet bench`` take.

It also tells how saved values are converted to the precision of the model that loads them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gpunet.backends import Backend
from gpunet.backends.contract import is_float, is_masked

PRECISIONS = ("float32", "bfloat16", "float16")
"""float32 throughout; or 16 bits for activations, with sums and parameters in float32."""


def stored_dtype(operation: str, precision: str, backend: Backend) -> str | None:
    """The dtype in which images and activations are stored; None for that of the parameters.

    Args:
        operation: what errors name.
        precision: one of `PRECISIONS`.
    Raises:
        ValueError: an unknown precision, or one that this backend does not have.
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
