"""Weights of Keras 3's models, from `.weights.h5` and `.keras` files.

Files are read without Keras, through h5py; nothing in them is run, and no class is imported.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from gpunet.autograd import Tensor
from gpunet.errors import warn
from gpunet.files import PathLike
from gpunet.interop.entries import entries, entries_of, one_line
from gpunet.interop.keras_files import FileLayer, read_layers
from gpunet.interop.keras_layers import (
    BATCH,
    CONV,
    DEPTHWISE,
    EPSILON,
    GROUP,
    KINDS,
    NORMS,
    POINTWISE,
    SEPARABLE,
    Unit,
    kind_of,
    neutral,
    units,
)
from gpunet.nn import Module

__all__ = ["load_weights"]

SAME = 1e-6
"""Relative difference up to which two settings are one number."""
Owner = str | tuple[str, str] | None
"""The module that a layer is here, the two of a separable convolution, or None to leave it out."""
Slot = tuple[str, Module]
"""A module and its name."""
Match = tuple[str, Module, Unit]


def load_weights(
    model: Module,
    path: PathLike,
    *,
    names: Mapping[str, Owner] | None = None,
    keep: Sequence[str] = (),
) -> dict[str, str]:
    """Copy the weights of a Keras model into a model of the same architecture, all or none.

    Convolutions are matched in their order, and so are dense layers, batch norms, and each other
    kind; Keras itself matches the layers of its `.weights.h5` files so. A `.keras` file also has
    the models' settings, with which the norms' are compared.

    Args:
        model: its parameters and buffers are set, converted to their dtype.
        path: a `.weights.h5` or a `.keras` file of Keras 3.
        names: the module here for each layer there that has weights, where the order does not tell:
            layers by their names, or by their paths in the file, such as "layers/conv2d_1"; for a
            separable convolution the depthwise and the pointwise module; None leaves a layer out.
            A dict of None alone leaves the others to be matched in their order.
        keep: modules or entries of the model that keep their values, such as a new head. They are
            not matched.
    Returns:
        The path in the file of each entry that was loaded, by its name here.
    Raises:
        ValueError: layers or arrays are missing, unexpected, of another shape, or no floats, or a
            norm has another eps; the message names all of them. Or the file is Keras 2's. Nothing
            is changed.
        DamagedFileError: the file is truncated or altered, or of another kind.
        ImportError: h5py is missing.
        TypeError: the path is none, such as a Keras model itself.
        OSError: the file cannot be read.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(
            f"load_weights: path is {type(path).__name__} but takes the name of a .weights.h5 or .keras file"
        )
    operation = f"load_weights: {os.fspath(path)}"
    layers, ordered = read_layers("load_weights", path)
    wanted = entries(model)
    kept = entries_of(operation, wanted, keep)
    if names is None or set(names.values()) == {None}:
        rest, unknown = _without(layers, names or {})
        matched, faults = _in_order(operation, rest, ordered, _slots(model, wanted, kept))
        faults += unknown
    else:
        matched, faults = _by_names(layers, names, dict(model.named_modules()))
    state, found = {name: wanted[name].numpy() for name in kept}, dict[str, str]()
    for name, module, unit in matched:
        faults += _differences(name, module, unit)
        faults += _take(name, module, unit, wanted, state, found)
    faults = [f"missing {name}" for name in wanted if name not in state and name not in found] + faults
    if faults:
        raise ValueError(one_line(f"{operation}: {'; '.join(faults)}"))
    try:
        model.load_state_dict(state)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{operation}: {str(error).removeprefix('load_state_dict: ')}") from error
    _warn(operation, matched)
    return found


# ---- which layer is which


def _slots(model: Module, wanted: Mapping[str, Tensor], kept: set[str]) -> list[Slot]:
    """The layers of the model that have a counterpart in Keras, and do not keep all of their values."""
    slots = []
    for name, module in model.named_modules():
        own = {entry for entry in wanted if entry.rpartition(".")[0] == name}
        if kind_of(module) is not None and own - kept:
            slots.append((name, module))
    return slots


def _in_order(
    operation: str, layers: Sequence[FileLayer], ordered: bool, slots: Sequence[Slot]
) -> tuple[list[Match], list[str]]:
    """(the layers of each kind matched in their order, what is wrong)."""
    if not ordered and len({layer.path.rpartition("/")[0] for layer in layers}) > 1:
        paths = one_line(", ".join(layer.path for layer in layers))
        raise ValueError(
            f"{operation}: the file does not tell the order of {paths}, which stand in several groups: "
            "give a .keras file of a sequential or functional model, or names="
        )
    classes = {layer.class_name for layer in layers}
    separable, depthwise = SEPARABLE in classes, "depthwise_conv2d" in classes
    if separable and depthwise and not ordered:
        raise ValueError(
            f"{operation}: the file does not tell which depthwise filters come first: give a .keras file, or names="
        )
    found, faults = list[Unit](), list[str]()
    for layer in layers:
        if layer.class_name not in KINDS and layer.class_name != SEPARABLE:
            faults.append(f"unexpected {layer.path}, of a class that has no counterpart")
            continue
        try:
            found += units(layer.path, layer.class_name, layer.arrays, layer.config)
        except ValueError as error:
            faults.append(str(error))
    queues: dict[str, list[Slot]] = {}
    for kind, slot in _kinds(slots, separable and not ordered, any(unit.kind == DEPTHWISE for unit in found)):
        queues.setdefault(kind, []).append(slot)
    matched = []
    for unit in found:
        kind = CONV if unit.kind == POINTWISE and ordered else unit.kind
        if queue := queues.get(kind):
            matched.append((*queue.pop(0), unit))
        else:
            faults.append(f"unexpected {unit.path}, a {kind} more than the model has")
    return matched, faults


def _kinds(slots: Sequence[Slot], separable: bool, depthwise: bool) -> list[tuple[str, Slot]]:
    """(kind, layer) of each layer of the model, as the file has them.

    Args:
        separable: whether the convolution behind a depthwise one is its pointwise half, of another
            kind than other convolutions.
        depthwise: whether the file has depthwise layers; if not, Keras has made them as
            convolutions with groups.
    """
    found, after = [], False
    for slot in slots:
        kind = str(kind_of(slot[1]))
        if kind == DEPTHWISE and not depthwise:
            kind = CONV
        elif kind == CONV and after and separable:
            kind = POINTWISE
        after = kind == DEPTHWISE if kind in (CONV, DEPTHWISE, POINTWISE) else after
        found.append((kind, slot))
    return found


def _without(layers: Sequence[FileLayer], names: Collection[str]) -> tuple[list[FileLayer], list[str]]:
    """(the layers that are called by none of these names or paths, what is wrong)."""
    keys = [_key(layer, names) for layer in layers]
    unknown = [f"names has {name!r}, which the file has not" for name in names if name not in keys]
    return [layer for layer, key in zip(layers, keys, strict=True) if key not in names], unknown


def _key(layer: FileLayer, names: Collection[str]) -> str:
    """What the caller calls a layer: its path, if that is one of the names, or else its own name."""
    return layer.path if layer.path in names else layer.name


def _by_names(
    layers: Sequence[FileLayer], names: Mapping[str, Owner], modules: Mapping[str, Module]
) -> tuple[list[Match], list[str]]:
    """(the layers matched as the caller says, what is wrong)."""
    matched, faults, used = list[Match](), list[str](), set[str]()
    for layer in layers:
        key = _key(layer, names)
        if key not in names:
            faults.append(f"unexpected {layer.path} ({layer.name})")
            continue
        used.add(key)
        owner = names[key]
        owners = () if owner is None else (owner,) if isinstance(owner, str) else tuple(owner)
        try:
            for name, unit in zip(owners, _units_for(layer, owners, modules), strict=True):
                matched.append((name, modules[name], unit))
        except ValueError as error:
            faults.append(str(error))
    faults += [f"names has {key!r}, which the file has not" for key in names if key not in used]
    return matched, faults


def _units_for(layer: FileLayer, owners: tuple[str, ...], modules: Mapping[str, Module]) -> list[Unit]:
    """A layer's arrays for the modules that it is here; ValueError for modules that it cannot be."""
    kinds = [kind_of(modules[name]) if name in modules else None for name in owners]
    if not owners:
        return []
    if None in kinds:
        raise ValueError(f"names leads from {layer.path} to {', '.join(owners)}, no layer with a counterpart")
    if len(owners) == 2:
        return units(layer.path, SEPARABLE, layer.arrays, layer.config)
    plain = kinds[0] == DEPTHWISE and layer.arrays[0].ndim == 4 and layer.arrays[0].shape[2] == 1
    wanted = CONV if plain else kinds[0]
    return units(layer.path, next(name for name, kind in KINDS.items() if kind == wanted), layer.arrays, layer.config)


# ---- what a layer takes


def _take(
    name: str,
    module: Module,
    unit: Unit,
    wanted: Mapping[str, Tensor],
    state: dict[str, np.ndarray],
    found: dict[str, str],
) -> list[str]:
    """Put a layer's arrays into the state, and say what does not fit."""
    faults = []
    for entry, (path, array) in unit.arrays.items():
        own = f"{name}.{entry}" if name else entry
        if own not in wanted:
            faults.append(f"unexpected {path} ({own})")
        elif own in found:
            faults.append(f"{path} and {found[own]} are both {own}")
        else:
            found[own] = path
            if array.shape != wanted[own].shape:
                faults.append(f"{path} ({own}) is {array.shape} but takes {wanted[own].shape}")
            elif own not in state:
                state[own] = array
    for entry in ("weight", "bias"):
        own = f"{name}.{entry}" if name else entry
        if entry not in unit.arrays and (value := neutral(module, entry)) is not None:
            state.setdefault(own, value)
    return faults


def _differences(name: str, module: Any, unit: Unit) -> list[str]:
    """Settings of a norm in which the file's layer computes something else."""
    said, faults = unit.config, []
    if unit.kind not in NORMS:
        return []
    if "epsilon" in said and not _same(said["epsilon"], module.eps):
        faults.append(f"{unit.path} has epsilon={said['epsilon']} but {name} eps={module.eps}")
    if unit.kind == GROUP and "groups" in said and said["groups"] != module.num_groups:
        faults.append(f"{unit.path} has groups={said['groups']} but {name} num_groups={module.num_groups}")
    if said.get("rms_scaling"):
        faults.append(f"{unit.path} has rms_scaling=True, which has no counterpart")
    return faults


def _same(a: Any, b: Any) -> bool:
    numbers = isinstance(a, int | float) and isinstance(b, int | float)
    return numbers and abs(a - b) <= SAME * max(abs(a), abs(b))


def _warn(operation: str, matched: Sequence[Match]) -> None:
    """Warn of settings that the file does not tell, or in which further training differs."""
    norms: list[tuple[str, Any, Unit]] = [match for match in matched if match[2].kind in NORMS]
    untold = [name for name, module, unit in norms if not unit.config and not _same(module.eps, EPSILON)]
    if untold:
        warn(
            f"{operation}: a .weights.h5 file does not tell eps: Keras's default is {EPSILON}, but the model has another "
            f"one in {', '.join(untold)}"
        )
    other = [
        f"{name} (momentum={1 - unit.config['momentum']:.6g})"
        for name, module, unit in norms
        if unit.kind == BATCH and isinstance(unit.config.get("momentum"), int | float)
        and not _same(1 - unit.config["momentum"], module.momentum)
    ]  # fmt: skip
    if other:
        warn(f"{operation}: Keras's model would go on training with another momentum in {', '.join(other)}")
