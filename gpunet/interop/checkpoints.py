"""Checkpoints: everything that training needs to go on, made quickly, written and read.

A checkpoint holds the model's arrays as ``model.NAME``, the optimizer's slots as
``optimizer.SLOT.POSITION``, averages as ``average.NAME``, the arrays of callbacks as
``callback.POSITION.KEY``, and the rest of the state as JSON. `gpunet.interop.container` says how
these stand in a file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpunet.errors import DamagedFileError
from gpunet.files import PathLike
from gpunet.interop.container import CHECKPOINT, Snapshot, read, snapshot
from gpunet.interop.json_values import to_json
from gpunet.nn import Module
from gpunet.nn.origin import origin
from gpunet.optim import ExponentialMovingAverage, Optimizer, ReduceLROnPlateau
from gpunet.optim.schedule import Schedule
from gpunet.version import __version__

# ---- writing


def checkpoint_snapshot(
    model: Module,
    optimizer: Optimizer | None = None,
    schedule: Schedule | ReduceLROnPlateau | None = None,
    metadata: Mapping[str, Any] | None = None,
    average: ExponentialMovingAverage | None = None,
    callbacks: Iterable[tuple[str, Mapping[str, Any]]] | None = None,
    about: Mapping[str, Any] | None = None,
) -> Snapshot:
    """Copy everything that training needs to go on to the host, to be written later.

    Nothing is written, so that a thread can do it while training goes on.

    Args:
        metadata: see `save_weights`.
        callbacks: the name and the state of each callback. A state is a dict of what metadata can
            hold and, at its top level, NumPy arrays, which are read back as arrays.
        about: who writes it, such as the backend and the device; gpunet's version is added.
    Raises:
        TypeError: see `save_weights`.
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
    state["callbacks"] = []
    for position, (name, own) in enumerate(callbacks or ()):
        held = {key: value for key, value in own.items() if isinstance(value, np.ndarray)}
        arrays |= {f"callback.{position}.{key}": array.copy() for key, array in held.items()}
        state["callbacks"].append({"name": name, "state": {k: v for k, v in own.items() if k not in held}})
    state |= written_by(model, about)
    return snapshot("save_checkpoint", CHECKPOINT, arrays, to_json("save_checkpoint", state))


def written_by(model: Module, about: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What every file says of the gpunet that wrote it, and of how its model was made."""
    return {"about": {**(about or {}), "gpunet": __version__}, "model": origin(model)}


# ---- reading


@dataclass(frozen=True)
class OpenedCheckpoint:
    """A checkpoint that was read, and found whole, but not loaded yet.

    Attributes:
        path: its file.
        metadata: what was given when it was saved.
        callbacks: the name and the state of each callback.
        about: who wrote it; empty in files of gpunet 0.1.
        model: how the model was made; None where the file does not say.
    """

    path: PathLike
    metadata: dict[str, Any]
    callbacks: list[tuple[str, dict[str, Any]]]
    about: dict[str, Any]
    model: dict[str, Any] | None
    _arrays: dict[str, np.ndarray] = field(repr=False)
    _state: dict[str, Any] = field(repr=False)

    def load_into(
        self,
        model: Module,
        optimizer: Optimizer | None = None,
        schedule: Schedule | ReduceLROnPlateau | None = None,
        average: ExponentialMovingAverage | None = None,
        *,
        extend_schedule: bool = False,
    ) -> None:
        """Copy the checkpoint into all of these or, if one does not fit, into none.

        Args:
            extend_schedule: let the schedule keep the options that it was made with, such as a
                larger number of steps, and take its position and first rates alone.
        Raises:
            ValueError: the checkpoint lacks something that is to be loaded, or belongs to another
                model, optimizer or schedule.
        """
        for name, part in (("optimizer", optimizer), ("schedule", schedule)):
            saved = self._state[name]
            if part is not None and (saved is None or saved["name"] != type(part).__name__):
                held = "none" if saved is None else saved["name"]
                raise ValueError(f"load_checkpoint: {self.path} holds {name} {held}, not {type(part).__name__}")
        averages = part_of(self._arrays, "average.")
        if average is not None and not averages:
            raise ValueError(f"load_checkpoint: {self.path} holds no averages")
        parts: list[tuple[Any, Mapping[str, Any]]] = [(model, part_of(self._arrays, "model."))]
        if average is not None:
            parts.append((average, averages))
        if optimizer is not None:
            parts.append((optimizer, _optimizer_state(self._arrays, self._state["optimizer"])))
        if schedule is not None:
            own = {"options": schedule.options()} if extend_schedule else {}
            parts.append((schedule, {**_without_name(self._state["schedule"]), **own}))
        with _own_values(optimizer, average):
            load_all(self.path, parts)


def open_checkpoint(path: PathLike) -> OpenedCheckpoint:
    """Read a checkpoint, and compare all of its bytes with its checksum, but load nothing.

    Raises:
        DamagedFileError: the file is truncated or altered, or another program's.
        ValueError: it is a weights file, or a newer gpunet wrote it.
        OSError: the file cannot be read.
    """
    found = read("load_checkpoint", path)
    if found.kind != CHECKPOINT:
        kind = ValueError if found.kind else DamagedFileError
        raise kind(f"load_checkpoint: {path} is not a checkpoint of gpunet")
    state = {"callbacks": [], "about": {}, "model": None, **found.state}
    if fault := _fault(state, found.arrays):
        raise DamagedFileError(f"load_checkpoint: {path} is damaged: {fault}")
    callbacks = [
        (saved["name"], {**saved["state"], **part_of(found.arrays, f"callback.{position}.")})
        for position, saved in enumerate(state["callbacks"])
    ]
    return OpenedCheckpoint(
        path, state["metadata"], callbacks, state["about"], state["model"], _arrays=found.arrays, _state=state
    )


def load_all(path: PathLike, parts: Sequence[tuple[Any, Mapping[str, Any]]]) -> None:
    """Load states into all parts or, if one raises an error, into none."""
    before: list[tuple[Any, Mapping[str, Any]]] = []
    try:
        for part, state in parts:
            before.append((part, part.state_dict()))
            part.load_state_dict(state)
    except BaseException as error:
        for part, own in reversed(before):
            part.load_state_dict(own)
        if isinstance(error, ValueError | TypeError | KeyError | AttributeError | OverflowError):
            raise ValueError(f"{path}: {error}") from error
        raise


def part_of(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The arrays whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _fault(state: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    """What is wrong with the form of a checkpoint's JSON, or ""."""
    for name in ("optimizer", "schedule"):
        saved = state.get(name, "nothing")
        if saved is not None and not (isinstance(saved, dict) and isinstance(saved.get("name"), str)):
            return f"its JSON has no {name}"
    if state["optimizer"] is not None:
        slots = state["optimizer"].get("slots")
        if not isinstance(slots, dict) or not all(type(n) is int and 0 <= n <= len(arrays) for n in slots.values()):
            return "its JSON has no numbers of the optimizer's slots"
        names = {f"optimizer.{slot}.{i}" for slot, count in slots.items() for i in range(count)}
        if missing := sorted(names - set(arrays)):
            return f"it lacks {', '.join(missing)}"
    if not isinstance(state["callbacks"], list):
        return "its JSON has no list of callbacks"
    for saved in state["callbacks"]:
        whole = isinstance(saved, dict) and isinstance(saved.get("name"), str) and isinstance(saved.get("state"), dict)
        if not whole:
            return "its JSON has a callback without a name or a state"
    if not isinstance(state["about"], dict) or not isinstance(state["model"], dict | None):
        return "its JSON does not say who wrote it"
    return ""


def _own_values(optimizer: Optimizer | None, average: ExponentialMovingAverage | None) -> AbstractContextManager[None]:
    """Inside, the model holds its own values, not averages."""
    if optimizer is None and average is not None:
        optimizer = average.optimizer
    return nullcontext() if optimizer is None else optimizer.own_values()


def _optimizer_state(arrays: Mapping[str, np.ndarray], saved: Mapping[str, Any]) -> dict[str, Any]:
    """The state that an optimizer loads, from a checkpoint's arrays and JSON."""
    slots = {slot: [arrays[f"optimizer.{slot}.{i}"] for i in range(count)] for slot, count in saved["slots"].items()}
    return {**_without_name(saved), "slots": slots}


def _without_name(state: Mapping[str, Any]) -> dict[str, Any]:
    """The state without its "name"."""
    return {key: value for key, value in state.items() if key != "name"}
