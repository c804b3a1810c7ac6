"""gpunet's safetensors files: named arrays, a text, and the SHA-256 of every byte.

The file begins with eight bytes for the length of the header, and then the same in every file, so
that the digest has one place::

    {"__metadata__":{"format":"gpunet-checkpoint-2","sha256":"64 digits","json":"text"},"NAME":…

The digest is that of the whole file with zeros in place of its own 64 digits. It is compared before
anything else in the file is believed. Files of format 1 have a CRC-32 of their arrays instead, and
files of other programs have none.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, BinaryIO

import numpy as np

from gpunet.errors import DamagedFileError
from gpunet.files import PathLike, write_whole
from gpunet.interop.json_values import from_json

WEIGHTS, CHECKPOINT = "gpunet-weights", "gpunet-checkpoint"
"""Kinds of files; a format is a kind and a version, such as "gpunet-weights-2"."""
VERSION = 2
MARKS = {"crc32", "sha256", "json"}
"""Keys of the metadata that gpunet alone writes; others write "format" too."""
PLACE = re.compile(rb'.{8}\{"__metadata__":\{"format":"(gpunet-[a-z]+-[0-9]+)","sha256":"([0-9a-f]{64})"', re.DOTALL)
"""The beginning of a file with a digest."""
ZEROS = b"0" * 64
LARGEST_HEADER = 100_000_000
"""Bytes; the safetensors package reads no longer header."""
CHUNK = 1 << 20
ATTEMPTS = 3
UNKNOWN = "has format {!r}, which this version of gpunet does not know: a newer gpunet wrote it"
DTYPES = {
    "bool": "BOOL", "int8": "I8", "uint8": "U8", "int16": "I16", "uint16": "U16", "int32": "I32", "uint32": "U32",
    "int64": "I64", "uint64": "U64", "float16": "F16", "float32": "F32", "float64": "F64",
}  # fmt: skip
"""Safetensors' names of NumPy's dtypes."""


# ---- writing


@dataclass(frozen=True)
class Snapshot:
    """A weights file or a checkpoint that is still to be written; later training changes nothing.

    Attributes:
        header: the file's bytes before those of the arrays, with zeros for the digest.
        parts: the bytes of each array, in the order of the file; they cannot be written to.
    """

    header: bytes
    parts: tuple[memoryview, ...]

    def write(self, path: PathLike, keep: int = 1) -> None:
        """Write the file, also from another thread than the one that trains.

        Args:
            path, keep: see `gpunet.files.write_whole`.
        Raises:
            OSError: writing failed; the file that was there is as it was.
        """
        digest = sha256(self.header)
        for part in self.parts:  # of large arrays, hashing and writing let other threads run
            digest.update(part)
        header = _with_digest(self.header, digest.hexdigest().encode())
        write_whole(path, (header, *self.parts), keep)


def snapshot(operation: str, kind: str, arrays: Mapping[str, np.ndarray], text: str) -> Snapshot:
    """What a file of these arrays and this text holds.

    The arrays must be copies that nobody else writes to. Equal arrays and text give equal bytes.

    Raises:
        TypeError: an array that does not hold numbers.
        ValueError: a header that is too large to be read.
    """
    plain = {name: _plain(operation, name, array) for name, array in arrays.items()}
    entries: dict[str, Any] = {
        "__metadata__": {"format": f"{kind}-{VERSION}", "sha256": ZEROS.decode(), "json": text},
    }
    parts, end = [], 0
    # Wide elements come first, as the safetensors package writes them, so that arrays are aligned.
    for name, array in sorted(plain.items(), key=lambda item: (-item[1].itemsize, item[0])):
        begin, end = end, end + array.nbytes
        shape = list(array.shape)
        entries[name] = {"dtype": DTYPES[array.dtype.name], "shape": shape, "data_offsets": [begin, end]}
        parts.append(_bytes_of(array).toreadonly())
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    if len(header) > LARGEST_HEADER:
        raise ValueError(
            f"{operation}: metadata and names take {len(header)} bytes but a file holds at most {LARGEST_HEADER}"
        )
    return Snapshot(len(header).to_bytes(8, "little") + header, tuple(parts))


def _plain(operation: str, name: str, array: np.ndarray) -> np.ndarray:
    """The array in the file's order of bytes; TypeError if it does not hold numbers."""
    if array.dtype.name not in DTYPES:
        raise TypeError(f"{operation}: {name} is of dtype {array.dtype} but takes numbers")
    if name == "__metadata__":
        raise ValueError(f"{operation}: no array can have the name {name}, which the file's header uses")
    return np.asarray(array, array.dtype.newbyteorder("<"), order="C")


def _bytes_of(array: np.ndarray) -> memoryview:
    """The bytes of an array whose elements lie one after another, without a copy."""
    return array.reshape(-1).view(np.uint8).data


def _with_digest(header: bytes, digits: bytes) -> bytes:
    """The header with other digits in the digest's place."""
    found = PLACE.match(header)
    assert found is not None  # `snapshot` made it
    return header[: found.start(2)] + digits + header[found.end(2) :]


# ---- reading


@dataclass(frozen=True)
class Contents:
    """What a file holds.

    Attributes:
        kind: WEIGHTS or CHECKPOINT, or "" for another program's file.
        arrays: by name; none if they were not asked for.
        state: what its text says; empty for another program's file.
    """

    kind: str
    arrays: dict[str, np.ndarray]
    state: dict[str, Any]


def read(operation: str, path: PathLike, *, with_arrays: bool = True) -> Contents:
    """Read a safetensors file.

    Raises:
        DamagedFileError: it is truncated or altered, or no safetensors file.
        ValueError: a newer gpunet wrote it.
        OSError: it cannot be read.
    """
    for _ in range(ATTEMPTS):
        with open(path, "rb") as file:
            before = _identity(os.fstat(file.fileno()))
            contents = _read(operation, path, file, with_arrays)
        if _identity(os.stat(path)) == before:  # and so the bytes that were read are those that were compared
            return contents
    raise OSError(f"{operation}: {path} changes while it is read")


def _identity(status: os.stat_result) -> tuple[int, ...]:
    """Numbers that differ once the file was replaced or written to."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _read(operation: str, path: PathLike, file: BinaryIO, with_arrays: bool) -> Contents:
    from safetensors import safe_open

    with _faults(operation, path):
        verified = _verified_format(file)
        # This maps the file, and checks the header against the size before anything is allocated.
        with safe_open(os.fspath(path), framework="numpy") as opened:
            _check_unique_keys(file)
            metadata = opened.metadata() or {}
            kind, version = _format(metadata, verified)
            arrays = {}
            if version in (0, 1) or (version == VERSION and with_arrays):
                arrays = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - it is no dict
        if version == 1 and metadata["crc32"] != str(_checksum(arrays)):
            raise ValueError("its arrays do not match their checksum")
        state = from_json(metadata["json"]) if version in (1, VERSION) else {}
        if version in (1, VERSION) and not (isinstance(state, dict) and isinstance(state.get("metadata"), dict)):
            raise ValueError("its JSON has no metadata")
    if version > VERSION or (kind not in ("", WEIGHTS, CHECKPOINT)):
        raise ValueError(f"{operation}: {path} {UNKNOWN.format(verified)}")
    return Contents(kind, arrays, state)


@contextmanager
def _faults(operation: str, path: PathLike) -> Iterator[None]:
    """Raise DamagedFileError for whatever a malformed file makes its readers raise."""
    try:
        yield
    except (OSError, MemoryError):
        raise
    except Exception as error:  # SafetensorError, RecursionError and others
        reason = " ".join(str(error).split())
        raise DamagedFileError(f"{operation}: {path} is damaged or not a safetensors file: {reason}") from error


def _verified_format(file: BinaryIO) -> str:
    """The format that stands before the digest, or "" where there is no digest in its place.

    ValueError if the file's bytes are not those that the digest was made of.
    """
    head = file.read(CHUNK)
    found = PLACE.match(head)
    if found is None:
        return ""
    kind = found[1].decode()
    digest = sha256(_with_digest(head, ZEROS))
    buffer = memoryview(bytearray(CHUNK))
    while count := file.readinto(buffer):  # type: ignore[attr-defined]
        digest.update(buffer[:count])
    if digest.hexdigest().encode() != found[2]:
        known = kind in (f"{WEIGHTS}-{VERSION}", f"{CHECKPOINT}-{VERSION}")
        raise ValueError("its bytes do not match its SHA-256" + ("" if known else f", or it {UNKNOWN.format(kind)}"))
    return kind


def _format(metadata: Mapping[str, str], verified: str) -> tuple[str, int]:
    """(kind, version) of a file, from the header and the format before the digest.

    The version is 0 for another program's file. ValueError if gpunet wrote it and something is
    missing.
    """
    name, keys = metadata.get("format", ""), set(metadata)
    if not (keys & MARKS or name.startswith("gpunet-") or verified):
        return "", 0
    match = re.fullmatch(r"(gpunet-[a-z]+)-([1-9][0-9]{0,8})", name)
    if match is None:
        raise ValueError(f"its metadata has {', '.join(sorted(keys))} but its format is {name[:40]!r}")
    kind, version = match[1], int(match[2])
    if version > VERSION or kind not in (WEIGHTS, CHECKPOINT):
        if not verified:  # then this may be a byte that was altered
            raise ValueError(f"it {UNKNOWN.format(name)}")
        return kind, version
    wanted = {"format", "json", "crc32" if version == 1 else "sha256"}
    if keys != wanted:
        raise ValueError(f"its metadata has {', '.join(sorted(keys))} but takes {', '.join(sorted(wanted))}")
    if (verified or f"{kind}-1") != name:
        raise ValueError("its SHA-256 is not in its place, or not 64 digits from 0-9 and a-f")
    return kind, version


def _check_unique_keys(file: BinaryIO) -> None:
    """ValueError if the header, or an entry of it, has a key twice."""
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    json.loads(file.read(length), object_pairs_hook=_unique)


def _unique(pairs: list[tuple[str, Any]]) -> None:
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError("its header has a key twice")


def _checksum(arrays: Mapping[str, np.ndarray]) -> int:
    """The CRC-32 of the arrays' bytes, in the order of their names: the checksum of format 1."""
    value = 0
    for name in sorted(arrays):
        value = zlib.crc32(_bytes_of(arrays[name]), value)
    return value
