"""Weights and checkpoints as safetensors files: named arrays, and JSON in the header.

Opening a file runs no code. A weights file holds the model's arrays under their own names. A
checkpoint holds them as ``model.NAME``, the optimizer's slots as ``optimizer.SLOT.POSITION``,
averages as ``average.NAME``, and the rest of the state as JSON. The header's metadata has the keys
``format``, ``crc32`` (of the arrays' bytes, in the order of their names) and ``json``.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from gpunet.files import write_whole
from gpunet.interop.json_values import from_json, to_json
from gpunet.nn import Module
from gpunet.optim import ExponentialMovingAverage, Optimizer, ReduceLROnPlateau
from gpunet.optim.schedule import Schedule

PathLike = str | os.PathLike[str]
WEIGHTS, CHECKPOINT = "gpunet-weights-1", "gpunet-checkpoint-1"


def save_weights(path: PathLike, model: Module, metadata: Mapping[str, Any] | None = None) -> None:
    """Write a model's parameters and buffers.

    Args:
        path: the file; it is written aside and renamed, so it is never half a file.
        metadata: kept in the file: values that JSON can hold, NaN and infinities, and NumPy's
            numbers and arrays, which are read back as numbers and lists.
    Raises:
        TypeError: an array of objects, or metadata that JSON cannot hold; the message names its
            key. No file is touched.
    """
    _write("save_weights", path, model.state_dict(), WEIGHTS, {"metadata": dict(metadata or {})})


def load_weights(path: PathLike, model: Module) -> dict[str, Any]:
    """Copy weights into a model from a weights file or a checkpoint.

    Another program's safetensors file works too if its arrays have the model's names.

    Returns:
        The file's metadata; empty if another program wrote it.
    Raises:
        ValueError: the file is damaged, is not a safetensors file, or belongs to another model;
            nothing is changed then.
        OSError: the file cannot be read.
    """
    arrays, kind, state = _read("load_weights", path)
    _load_all(path, [(model, _part(arrays, "model.") if kind == CHECKPOINT else arrays)])
    return state.get("metadata", {})


def save_checkpoint(
    path: PathLike,
    model: Module,
    optimizer: Optimizer | None = None,
    schedule: Schedule | ReduceLROnPlateau | None = None,
    metadata: Mapping[str, Any] | None = None,
    average: ExponentialMovingAverage | None = None,
) -> None:
    """Write everything that training needs to continue.

    That is the weights, the optimizer's slots and rates, the schedule's position, and averages. The
    weights are those that are trained, also inside `applied`. Arguments and errors are those of
    `save_weights`.
    """
    with _own_values(optimizer, average):
        arrays = {f"model.{name}": array for name, array in model.state_dict().items()}
    state: dict[str, Any] = {"metadata": dict(metadata or {}), "optimizer": None, "schedule": None}
    if average is not None:
        arrays |= {f"average.{name}": array for name, array in average.state_dict().items()}
    if optimizer is not None:
        saved = optimizer.state_dict()
        slots = saved.pop("slots")
        arrays |= {f"optimizer.{slot}.{i}": array for slot, group in slots.items() for i, array in enumerate(group)}
        state["optimizer"] = {**saved, "name": optimizer.name, "slots": {slot: len(g) for slot, g in slots.items()}}
    if schedule is not None:
        state["schedule"] = {"name": type(schedule).__name__, **schedule.state_dict()}
    _write("save_checkpoint", path, arrays, CHECKPOINT, state)


def load_checkpoint(
    path: PathLike,
    model: Module,
    optimizer: Optimizer | None = None,
    schedule: Schedule | ReduceLROnPlateau | None = None,
    average: ExponentialMovingAverage | None = None,
) -> dict[str, Any]:
    """Copy a checkpoint into a model, and into an optimizer, a schedule and averages if given.

    Weights and averages go to their own places, also inside `applied`.

    Returns:
        The file's metadata.
    Raises:
        ValueError: the file is damaged, is not a checkpoint, lacks something that is to be loaded,
            or belongs to another model, optimizer or schedule; nothing is changed then.
        OSError: the file cannot be read.
    """
    arrays, kind, state = _read("load_checkpoint", path)
    if kind != CHECKPOINT:
        raise ValueError(f"load_checkpoint: {path} is not a checkpoint of gpunet")
    for name, part in (("optimizer", optimizer), ("schedule", schedule)):
        saved = state[name]
        if part is not None and (saved is None or saved["name"] != type(part).__name__):
            held = "none" if saved is None else saved["name"]
            raise ValueError(f"load_checkpoint: {path} holds {name} {held}, not {type(part).__name__}")
    averages = _part(arrays, "average.")
    if average is not None and not averages:
        raise ValueError(f"load_checkpoint: {path} holds no averages")
    parts: list[tuple[Any, Mapping[str, Any]]] = [(model, _part(arrays, "model."))]
    if average is not None:
        parts.append((average, averages))
    if optimizer is not None:
        parts.append((optimizer, _optimizer_state(path, arrays, state["optimizer"])))
    if schedule is not None:
        parts.append((schedule, _without_name(state["schedule"])))
    with _own_values(optimizer, average):
        _load_all(path, parts)
    return state["metadata"]


def read_metadata(path: PathLike) -> dict[str, Any]:
    """The metadata of a weights file or a checkpoint; empty if another program wrote it."""
    return _read("read_metadata", path)[2].get("metadata", {})


# ---- files


def _write(operation: str, path: PathLike, arrays: Mapping[str, np.ndarray], kind: str, state: Any) -> None:
    """Write arrays, and the state as JSON in the header."""
    from safetensors.numpy import save

    plain = {name: _plain(operation, name, array) for name, array in arrays.items()}
    header = {"format": kind, "crc32": str(_checksum(plain)), "json": to_json(operation, state)}
    write_whole(path, save(plain, header))


def _read(operation: str, path: PathLike) -> tuple[dict[str, np.ndarray], str, dict[str, Any]]:
    """(arrays by name, format, state in the header).

    The last two are empty for another program's file.
    """
    from safetensors import safe_open

    with open(path, "rb"):  # raises Python's usual errors if the file cannot be read
        pass
    try:
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - the file is not a dict
        kind = header.get("format", "") if "crc32" in header else ""
        state = from_json(header["json"]) if kind else {}
    except Exception as error:  # SafetensorError, and other errors from malformed headers
        raise ValueError(f"{operation}: {path} is damaged or not a safetensors file: {error}") from error
    if kind and int(header["crc32"]) != _checksum(arrays):
        raise ValueError(f"{operation}: {path} is damaged: its arrays do not match their checksum")
    if kind not in ("", WEIGHTS, CHECKPOINT):
        raise ValueError(f"{operation}: {path} has format {kind!r}, which this version of gpunet does not know")
    return arrays, kind, state


def _plain(operation: str, name: str, array: np.ndarray) -> np.ndarray:
    """The array in this machine's byte order; TypeError if it does not hold numbers."""
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{operation}: {name} is of dtype {array.dtype} but takes numbers")
    return np.asarray(array, array.dtype.newbyteorder("="))


def _checksum(arrays: Mapping[str, np.ndarray]) -> int:
    """The CRC-32 of the arrays' bytes, in the order of their names."""
    value = 0
    for name in sorted(arrays):
        value = zlib.crc32(arrays[name].tobytes(), value)
    return value


# ---- states


def _own_values(optimizer: Optimizer | None, average: ExponentialMovingAverage | None) -> AbstractContextManager[None]:
    """Inside, the model holds its own values, not averages."""
    if optimizer is None and average is not None:
        optimizer = average.optimizer
    return nullcontext() if optimizer is None else optimizer.own_values()


def _part(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The arrays whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _load_all(path: PathLike, parts: Sequence[tuple[Any, Mapping[str, Any]]]) -> None:
    """Load states into all parts or, if one raises an error, into none."""
    before: list[tuple[Any, Mapping[str, Any]]] = []
    try:
        for part, state in parts:
            own = part.state_dict()
            part.load_state_dict(state)
            before.append((part, own))
    except (ValueError, TypeError, KeyError) as error:
        for part, own in reversed(before):
            part.load_state_dict(own)
        raise ValueError(f"{path}: {error}") from error


def _optimizer_state(path: PathLike, arrays: Mapping[str, np.ndarray], saved: Mapping[str, Any]) -> dict[str, Any]:
    """The state that an optimizer loads, from a checkpoint's arrays and JSON."""
    names = {slot: [f"optimizer.{slot}.{i}" for i in range(count)] for slot, count in saved["slots"].items()}
    if missing := [name for group in names.values() for name in group if name not in arrays]:
        raise ValueError(f"load_checkpoint: {path} lacks {', '.join(missing)}")
    return {**_without_name(saved), "slots": {slot: [arrays[name] for name in group] for slot, group in names.items()}}


def _without_name(state: Mapping[str, Any]) -> dict[str, Any]:
    """The state without its "name"."""
    return {key: value for key, value in state.items() if key != "name"}
