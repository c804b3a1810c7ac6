"""The idx format of MNIST: two zero bytes, a dtype code, the number of axes, the extents, the numbers; big-endian."""

from __future__ import annotations

import gzip
import math
import os
import zlib
from pathlib import Path

import numpy as np

DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
"""Dtype codes of the format."""


def read_idx(path: str | os.PathLike[str]) -> np.ndarray:
    """The array of an idx file, in this machine's byte order.

    Args:
        path: a plain or a gzip-compressed file; which of them is seen from its first bytes, not from its name.
    Raises:
        OSError: the file cannot be opened.
        ValueError: not an idx file, or a truncated, corrupt or over-long one; the message names the file.
    """
    path = Path(path)
    raw = path.read_bytes()
    if raw[:2] == b"\x1f\x8b":
        try:
            raw = gzip.decompress(raw)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"read_idx: {path} is corrupt or truncated gzip: {error}") from error
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] not in DTYPES:
        codes = ", ".join(f"{code:02x}" for code in DTYPES)
        raise ValueError(
            f"read_idx: {path} must begin with bytes 00 00, a dtype code ({codes}) and the number of axes, "
            f"got {raw[:4].hex(' ') or 'nothing'}"
        )
    dtype, axes = np.dtype(DTYPES[raw[2]]), raw[3]
    start = 4 + 4 * axes
    if len(raw) < start:
        raise ValueError(f"read_idx: {path} must have {start} bytes of header for {axes} axes, got {len(raw)} bytes")
    shape = tuple(int(extent) for extent in np.frombuffer(raw, ">u4", axes, offset=4))
    expected = math.prod(shape) * dtype.itemsize
    if len(raw) - start != expected:
        raise ValueError(
            f"read_idx: {path} must have {expected} bytes after the header {dtype.name} {shape}, got {len(raw) - start}"
        )
    return np.frombuffer(raw, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))
