"""Precisions: what a model's operations store, by the names that `Trainer`, `plan` and ``gpunet bench`` take."""

from __future__ import annotations

from gpunet.backends import Backend

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
