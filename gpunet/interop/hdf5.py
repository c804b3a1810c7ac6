"""Arrays of HDF5 files, read so that a malformed file can do no harm.

h5py's library runs in a process of its own, which says where the arrays stand; their bytes are read
here, and are never more than the file has.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from gpunet.errors import DamagedFileError
from gpunet.files import PathLike
from gpunet.interop.entries import one_line

SIGNATURE = b"\x89HDF\r\n\x1a\n"
PROGRAM = Path(__file__).with_name("hdf5_contents.py")
SECONDS = 30
"""After which the process is ended; it takes a fraction of one."""
LEGACY = {"layer_names", "model_weights", "keras_version", "model_config"}
"""What stands at the root of files that Keras 2 wrote."""


@dataclass(frozen=True)
class Arrays:
    """The arrays of a file by path, and the names that groups have as their attribute."""

    by_path: Mapping[str, np.ndarray]
    names: Mapping[str, str]


def read_hdf5(operation: str, path: PathLike, place: str) -> Arrays:
    """Read every array of an HDF5 file.

    Args:
        operation: begins errors.
        path: the file.
        place: what errors call it.
    Raises:
        DamagedFileError: it is truncated or altered, or no HDF5 file, or holds what weights need
            not: compressed arrays, links to elsewhere, no numbers.
        ValueError: Keras 2 wrote it.
        ImportError: h5py is missing.
        OSError: it cannot be read.
    """
    if find_spec("h5py") is None:
        raise ImportError(f'{operation}: takes h5py: pip install "gpunet[keras]"')
    with open(path, "rb") as file:
        before = os.fstat(file.fileno())
        if file.read(len(SIGNATURE)) != SIGNATURE:
            raise DamagedFileError(f"{operation}: {place} is damaged or not an HDF5 file: it does not begin as one")
        said = _said(operation, path, place)
        if old := LEGACY & set(said["root"]):
            raise ValueError(f"{operation}: {place} is a file of Keras 2 (it has {', '.join(sorted(old))}): "
                             "load it in Keras 3, and save it as .weights.h5 or .keras")  # fmt: skip
        try:
            arrays = _arrays(file, said["arrays"], before.st_size)
        except (ValueError, TypeError, OverflowError) as error:
            raise DamagedFileError(f"{operation}: {place} is damaged: {one_line(str(error))}") from error
        after = os.stat(path)
    if (before.st_ino, before.st_size, before.st_mtime_ns) != (after.st_ino, after.st_size, after.st_mtime_ns):
        raise OSError(f"{operation}: {place} changes while it is read")
    return Arrays(arrays, said["names"])


def _said(operation: str, path: PathLike, place: str) -> dict[str, Any]:
    """What `hdf5_contents` says of a file."""
    status, out = run_apart(path)
    fault = f"{operation}: {place} is damaged or not a file of weights"
    if status is None:
        raise DamagedFileError(f"{fault}: h5py has not read it within {SECONDS} s")
    if status != 0:
        raise DamagedFileError(f"{fault}: h5py ended by {f'signal {-status}' if status < 0 else f'status {status}'}")
    try:
        said: dict[str, Any] = json.loads(out)
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(f"{fault}: h5py gave no answer") from error
    if "refused" in said:
        raise DamagedFileError(f"{fault}: {said['refused']}")
    return said


def run_apart(path: PathLike) -> tuple[int | None, bytes]:
    """(exit status of `hdf5_contents` on a file, None if it took too long; what it printed)."""
    command = [sys.executable, "-P", str(PROGRAM), os.path.abspath(path)]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, timeout=SECONDS,
            env=environment, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return None, b""
    return done.returncode, done.stdout


def _arrays(file: BinaryIO, entries: Mapping[str, Any], size: int) -> dict[str, np.ndarray]:
    """The arrays, from where the entries say they stand; ValueError if that is not in the file."""
    placed = {}
    total = 0
    for name, (shape, dtype, offset) in entries.items():
        kind = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
        count = prod(shape)  # of Python's integers, which do not overflow
        total += count * kind.itemsize
        if total > size or offset + count * kind.itemsize > size:
            raise ValueError(f"{name} has shape {tuple(shape)}, but the file has {size} bytes")
        placed[name] = (tuple(shape), kind, count, offset)
    arrays = {}
    for name, (shape, kind, count, offset) in placed.items():
        file.seek(offset)
        content = file.read(count * kind.itemsize)
        arrays[name] = np.frombuffer(content, kind, count).reshape(shape)
    return arrays
