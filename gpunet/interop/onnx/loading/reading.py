"""ONNX files, read with suspicion: what they declare is compared with what they hold.

Nothing in a file is believed before it is checked. A path to data outside of the file must stay in
the file's folder; the bytes of an array must be as many as its shape says; nodes must take what
earlier nodes give.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gpunet.interop.onnx.loading.operators.shapes import DTYPES, dtype_of
from gpunet.interop.onnx.package import onnx

OLDEST, NEWEST = 9, 28
"""Versions of ONNX's operators that gpunet reads."""
TYPED = {1: "float_data", 7: "int64_data", 11: "double_data", 12: "uint64_data", 13: "uint64_data"}
"""Fields that hold elements one by one, by dtype; narrow integers and booleans use int32_data."""


def read_model(path: str | os.PathLike[str]) -> Any:
    """The file's ModelProto, parsed and not checked.

    Raises:
        ValueError: the file is no ONNX file.
        OSError: it cannot be read.
    """
    from google.protobuf.message import DecodeError

    model = onnx.ModelProto()
    try:
        model.ParseFromString(Path(path).read_bytes())
    except (DecodeError, RuntimeError, UnicodeDecodeError) as error:
        raise ValueError(f"load: {path} is no ONNX file: {error}") from None
    return model


def opset_of(model: Any) -> int:
    """The version of ONNX's own operators that the model takes."""
    versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    if len(versions) != 1:
        raise ValueError(f"declares {len(versions)} versions of ONNX's operators but must declare one")
    if not OLDEST <= versions[0] <= NEWEST:
        raise ValueError(f"takes opset {versions[0]}, but gpunet reads opsets {OLDEST} to {NEWEST}")
    return int(versions[0])


def arrays(tensors: Iterable[Any], folder: Path | None) -> Iterator[tuple[str, np.ndarray]]:
    """(name, array) of each TensorProto of a file in this folder."""
    for proto in tensors:
        yield proto.name, array_of(proto, folder, f"initializer {proto.name!r}")


def array_of(proto: Any, folder: Path | None, what: str) -> np.ndarray:
    """The array of a TensorProto, whose bytes must be as many as its shape says.

    Raises:
        TypeError: a dtype that gpunet does not read.
        ValueError: a shape that does not fit the data, or data outside of the folder.
    """
    try:
        dtype = dtype_of(proto.data_type)
    except TypeError as error:
        raise TypeError(f"{what}: {error}") from None
    shape = tuple(proto.dims)
    count = 1
    for extent in shape:
        if extent < 0:
            raise ValueError(f"{what} has shape {shape}, with a negative extent")
        count *= extent
    little = dtype.newbyteorder("<")
    if proto.data_location == 1:
        return _external(proto, folder, what, count, little).astype(dtype, copy=False).reshape(shape)
    if proto.HasField("raw_data"):
        if len(proto.raw_data) != count * dtype.itemsize:
            raise ValueError(
                f"{what} holds {len(proto.raw_data)} bytes but shape {shape} of {dtype} takes {count * dtype.itemsize}"
            )
        return np.frombuffer(proto.raw_data, little).astype(dtype).reshape(shape)
    values = getattr(proto, TYPED.get(proto.data_type, "int32_data"))
    if len(values) != count:
        raise ValueError(f"{what} holds {len(values)} elements but shape {shape} takes {count}")
    try:
        return np.array(values, dtype).reshape(shape)
    except OverflowError:
        raise ValueError(f"{what} holds an element that {dtype} cannot") from None


def _external(proto: Any, folder: Path | None, what: str, count: int, dtype: np.dtype) -> np.ndarray:
    """Elements that stand in a file of their own, which must lie in the model's folder."""
    entries = {entry.key: entry.value for entry in proto.external_data}
    location = entries.get("location", "")
    if not location:
        raise ValueError(f"{what} has its data in a file {location!r}, which has no name")
    if folder is None:
        raise ValueError(f"{what} has its data in a file {location!r}, which a model without a folder cannot have")
    path = _inside(folder, location, what)
    try:
        offset, length = int(entries.get("offset", "0") or 0), int(entries.get("length", "0") or 0)
    except ValueError:
        raise ValueError(f"{what}: offset or length of its data in {location} is no number") from None
    size, wanted = path.stat().st_size, count * dtype.itemsize
    if offset < 0 or (length and length != wanted) or offset + wanted > size:
        raise ValueError(
            f"{what} takes {wanted} bytes from {offset} on of {location}, which has {size}, and declares {length}"
        )
    return np.fromfile(path, dtype, count, offset=offset)


def _inside(folder: Path, location: str, what: str) -> Path:
    """The path of a file in the folder; a ValueError for a path or a link that leaves it."""
    given = Path(location)
    if given.is_absolute() or given.drive or ".." in given.parts or "\\" in location or "\0" in location:
        raise ValueError(f"{what} has its data at {location!r}, but takes a path inside of the model's folder")
    path = folder / given
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{what} has its data at {location!r}, a link that leaves the model's folder")
    if not path.is_file():
        raise ValueError(f"{what} has its data at {location!r}, which is no file in the model's folder")
    return path


def attributes_of(node: Any, label: str, folder: Path | None) -> dict[str, Any]:
    """The attributes of a NodeProto by name: numbers, text, tuples of them, and arrays.

    Data of arrays that stands beside the file lies in the folder, as for `array_of`.

    Raises:
        ValueError: an attribute of another kind, such as a graph, or one that appears twice.
    """
    found: dict[str, Any] = {}
    for attribute in node.attribute:
        name = attribute.name
        if name in found:
            raise ValueError(f"{label}: attribute {name} appears twice")
        match attribute.type:
            case 1:
                found[name] = float(attribute.f)
            case 2:
                found[name] = int(attribute.i)
            case 3:
                found[name] = attribute.s.decode(errors="replace")
            case 4:
                found[name] = array_of(attribute.t, folder, f"{label}: attribute {name}")
            case 6:
                found[name] = tuple(float(value) for value in attribute.floats)
            case 7:
                found[name] = tuple(int(value) for value in attribute.ints)
            case 8:
                found[name] = tuple(value.decode(errors="replace") for value in attribute.strings)
            case other:
                raise ValueError(f"{label}: attribute {name} is of kind {other}, which gpunet does not read")
    return found


def declared(value: Any) -> tuple[np.dtype | None, tuple[int | None, ...] | None]:
    """(dtype, shape) of a ValueInfoProto; None for what it does not say or gpunet does not know."""
    kind = value.type.tensor_type
    if not value.type.HasField("tensor_type"):
        return None, None
    dtype = np.dtype(DTYPES[kind.elem_type]) if kind.elem_type in DTYPES else None
    if not kind.HasField("shape"):
        return dtype, None
    return dtype, tuple(
        int(d.dim_value) if d.HasField("dim_value") and d.dim_value >= 0 else None for d in kind.shape.dim
    )
