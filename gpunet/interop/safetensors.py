"""Weights and checkpoints as safetensors files: named arrays, and JSON in the header.

Opening a file runs no code. A weights file holds the model's arrays under their own names;
`gpunet.interop.checkpoints` says what a checkpoint holds, and `gpunet.interop.container` how both
stand in a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpunet.files import PathLike
from gpunet.interop.checkpoints import checkpoint_snapshot, load_all, open_checkpoint, part_of, written_by
from gpunet.interop.container import CHECKPOINT, WEIGHTS, read, snapshot
from gpunet.interop.json_values import to_json
from gpunet.nn import Module
from gpunet.optim import ExponentialMovingAverage, Optimizer, ReduceLROnPlateau
from gpunet.optim.schedule import Schedule


def save_weights(path: PathLike, model: Module, metadata: Mapping[str, Any] | None = None) -> None:
    """Write a model's parameters and buffers.

    Args:
        path: the file; it is written aside and renamed, so it is never half a file.
        metadata: kept in the file: values that JSON can hold, NaN and infinities, and NumPy's
            numbers and arrays, which are read back as numbers and lists.
    Raises:
        TypeError: an array of objects, or metadata that JSON cannot hold; the message names its
            key. No file is touched.
        OSError: writing failed; the file that was there is as it was.
    """
    text = to_json("save_weights", {"metadata": dict(metadata or {}), **written_by(model)})
    snapshot("save_weights", WEIGHTS, model.state_dict(), text).write(path)


def load_weights(path: PathLike, model: Module) -> dict[str, Any]:
    """Copy weights into a model from a weights file or a checkpoint.

    Another program's safetensors file works too if its arrays have the model's names.

    Returns:
        The file's metadata; empty if another program wrote it.
    Raises:
        DamagedFileError: the file is truncated or altered, or is not a safetensors file.
        ValueError: the file belongs to another model, or a newer gpunet wrote it. Nothing is
            changed in all of these cases.
        OSError: the file cannot be read.
    """
    found = read("load_weights", path)
    arrays = part_of(found.arrays, "model.") if found.kind == CHECKPOINT else found.arrays
    load_all(path, [(model, arrays)])
    return found.state.get("metadata", {})


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
    checkpoint_snapshot(model, optimizer, schedule, metadata, average).write(path)


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
        DamagedFileError: the file is truncated or altered, or another program's.
        ValueError: the file is not a checkpoint, lacks something that is to be loaded, or belongs
            to another model, optimizer or schedule, or a newer gpunet wrote it. Nothing is changed
            in all of these cases.
        OSError: the file cannot be read.
    """
    opened = open_checkpoint(path)
    opened.load_into(model, optimizer, schedule, average)
    return opened.metadata


def read_metadata(path: PathLike) -> dict[str, Any]:
    """The metadata of a weights file or a checkpoint; empty if another program wrote it."""
    return read("read_metadata", path, with_arrays=False).state.get("metadata", {})


def read_origin(path: PathLike) -> dict[str, Any] | None:
    """How the model of a file was made, see `models.load_model`; None if the file does not say."""
    found: dict[str, Any] | None = read("read_origin", path, with_arrays=False).state.get("model")
    return found
